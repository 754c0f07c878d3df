"""ESM-2 as saved by transformers, whatever its head.

Source: Lin et al. 2023, "Evolutionary-scale prediction of atomic-level protein structure with a language model"; names
of configuration and weights as in `EsmForMaskedLM` of transformers 5.23.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protlm.errors import UserError
from protlm.exchange.architecture import Architecture, Parts, check_values
from protlm.exchange.saved_model import SavedModel
from protlm.exchange.weight_names import WeightNames
from protlm.performer import PerformerConfig
from protlm.performer.config import ROUNDED
from protlm.sequence.alphabet import CLS, MASK, PAD, TOKENS

POSITIONS = {"rotary": "rotary", "absolute": "learned"}
"""position_embedding_type there -> positions here; "absolute" is transformers' default, not that of ESM-2."""
OFFSET = PAD + 1
"""The first position of transformers."""
FREQUENCIES = "rotary_embeddings.inv_freq"
UNUSED = re.compile(rf"esm\.embeddings\.position_ids|.*{re.escape(FREQUENCIES)}")
"""Weights that are saved with ESM-2, but are not used."""
LEARNED = "esm.embeddings.position_embeddings.weight"
"""Learned positions; saved also with rotary ones, without being used."""
HEADS = {"classifier.": "classifier", "esm.pooler.": "pooler"}
"""Weights of other heads, which are left out, and their names."""
EMBEDDING, CONTACTS, TIED = "esm.embeddings.word_embeddings.weight", "esm.contact_head.regression", "lm_head.decoder"
NAMES = WeightNames(
    outside={
        "embedding.weight": EMBEDDING,
        "position": LEARNED,
        "norm": "esm.encoder.emb_layer_norm_after",
        "head.dense": "lm_head.dense",
        "head.norm": "lm_head.layer_norm",
        "head.bias": "lm_head.bias",
        "contact_head": CONTACTS,
    },
    inside={
        "attention_norm": "attention.LayerNorm",
        "attention.qkv": tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
        "attention.out": "attention.output.dense",
        "feed_forward_norm": "LayerNorm",
        "feed_forward.0": "intermediate.dense",
        "feed_forward.2": "output.dense",
    },
    block="esm.encoder.layer.{}.",
    expected="EsmForMaskedLM or another ESM-2 of transformers",
)


def esm_parts(saved: SavedModel) -> Parts:
    """What a saved ESM-2 consists of.

    Raises:
        UserError: for a model that is not ESM-2, such as ESM-1b or ESMFold.
    """
    about, path = saved.config, saved.config_path
    check_values(path, about, ESM.there, ESM.title)  # first, since others lack the rest
    for name in ("layer_norm_eps", "hidden_dropout_prob"):
        if type(about.get(name)) not in (int, float) or not 0 <= about[name] < 1:
            raise UserError(f"{path}: {name} is {about.get(name)!r}; expected a number of at least 0 and below 1")
    kind = about.get("position_embedding_type", "absolute")
    if kind not in POSITIONS:
        raise UserError(f"{path}: position_embedding_type is {kind!r}; expected one of {', '.join(POSITIONS)}")
    config = ESM.arguments(saved)
    longest = about.get("max_position_embeddings")
    found = saved.weights
    if not any(name.startswith("esm.") for name in found):  # of EsmModel
        found = {f"esm.{name}": weight for name, weight in found.items()}
    rotations = [weight for name, weight in found.items() if name.endswith(FREQUENCIES)]
    config |= {
        "positions": POSITIONS[kind],
        "max_length": max(1, longest - OFFSET) if type(longest) is int else 1024,
        "zeroed_id": MASK if about.get("token_dropout") else None,
        "rotary_dtype": rounding(saved.path, rotations, config["width"] // config["heads"]),
    }
    left_out = [title for prefix, title in HEADS.items() if any(name.startswith(prefix) for name in found)]
    found = {
        name: weight
        for name, weight in found.items()
        if not UNUSED.fullmatch(name) and not name.startswith(tuple(HEADS))
    }
    learned = found.pop(LEARNED, None)
    if kind == "absolute" and learned is not None:
        found[LEARNED] = learned[OFFSET:]
    return language_parts(saved.path, config, found, NAMES, left_out)


def esm_back(config: PerformerConfig, weights: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The reverse of `esm_parts`; see `Architecture.back`."""
    kind = next((there for there, here in POSITIONS.items() if here == config.positions), None)
    if config.zeroed_id not in (None, MASK):
        raise UserError(f"not the architecture of {ESM.title}: zeroed_id is {config.zeroed_id}, not {MASK}")
    if kind is None:
        raise UserError(f"not the architecture of {ESM.title}: positions is {config.positions!r}, not 'rotary'")
    contacts = f"{CONTACTS}.weight"
    if contacts in weights:
        weights[contacts] = weights[contacts].reshape(1, -1)
    if kind == "absolute":
        weights[LEARNED] = torch.cat((torch.zeros(OFFSET, config.width), weights[LEARNED]))
    rounded = frequencies(config.width // config.heads).to(getattr(torch, config.rotary_dtype)).float()
    for layer in range(config.layers if kind == "rotary" else 0):
        weights[f"{NAMES.block.format(layer)}attention.self.{FREQUENCIES}"] = rounded.clone()
    about = {
        "position_embedding_type": kind,
        "max_position_embeddings": config.max_length + OFFSET,
        "token_dropout": config.zeroed_id is not None,
    }
    return about | {"attention_probs_dropout_prob": 0.0}, weights


ESM = Architecture(
    title="ESM-2",
    classes=("EsmForMaskedLM", "EsmModel"),
    tokenizer="EsmTokenizer",
    fields={
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "hidden_size": "width",
        "intermediate_size": "feed_forward",
        "layer_norm_eps": "norm_eps",
        "hidden_dropout_prob": "dropout",
    },
    there={
        "is_folding_model": (False, False),
        "rope_theta": (10_000.0, 10_000.0),
        "vocab_size": (len(TOKENS), None),
        "pad_token_id": (PAD, None),
        "mask_token_id": (MASK, None),
        "emb_layer_norm_before": (False, False),
        "hidden_act": ("gelu", "gelu"),
        "is_decoder": (False, False),
        "add_cross_attention": (False, False),
        "tie_word_embeddings": (True, True),
    },
    here={
        "vocab_size": len(TOKENS),
        "pad_id": PAD,
        "attention": "exact",
        "causal": False,
        "local_heads": 0,
        "start_id": CLS,
        "activation": "gelu",
        "qk_norm": False,
    },
    head="esm",
    names=NAMES,
    read=esm_parts,
    back=esm_back,
)


def language_parts(
    path: Path, config: dict[str, Any], found: dict[str, Tensor], names: WeightNames, left_out: list[str]
) -> Parts:
    """The parts of a model of the ESM-2 kind with the heads whose weights there are."""
    contacts = f"{names.outside['contact_head']}.weight"
    language = any(name.startswith("lm_head.") and not name.startswith(TIED) for name in found)
    tied, embedding = found.pop(f"{TIED}.weight", None), found.get(names.outside["embedding.weight"])
    if language and tied is not None and (embedding is None or not torch.equal(tied, embedding)):
        raise UserError(f"{path}: {TIED}.weight is not the embedding; only tied ones can be imported")
    found.pop(f"{TIED}.bias", None)
    config |= {"head": "esm" if language else "none", "contact_head": contacts in found}
    shape = (config["layers"], config["heads"])
    if contacts in found and found[contacts].numel() == shape[0] * shape[1]:
        found[contacts] = found[contacts].reshape(shape)
    return Parts(config, found, names, left_out)


def rounding(path: Path, saved: list[Tensor], head_dim: int) -> str:
    """The dtype to which the frequencies of rotary positions were rounded during training."""
    computed = frequencies(head_dim)
    for dtype in ROUNDED:
        rounded = computed.to(getattr(torch, dtype)).float()
        if all(x.shape == rounded.shape and torch.allclose(x.float(), rounded, rtol=1e-6, atol=0) for x in saved):
            return dtype
    raise UserError(f"{path}: unknown rotary frequencies {FREQUENCIES}; expected 10000 ** (-2 i / {head_dim})")


def frequencies(head_dim: int) -> Tensor:
    """Those of rotary positions, (head_dim / 2,) float32."""
    return 10_000.0 ** -(torch.arange(0, head_dim, 2) / head_dim)
