"""ESMC as saved by transformers 5.

Differences from ESM-2: queries and keys pass a LayerNorm, SwiGLU, no bias in the final LayerNorm and, unless
attention_bias or mlp_bias is true, none in the projections, both branches of a block divided by sqrt(layers / 36),
untied output weights, 64 rows of which the first 33 are ESM's tokens. The divisors go into the output projections of
the branches, biases that there are not become 0, and rows beyond the alphabet are left out: no residue has one of these
tokens. Training makes biases of projections, which the class of transformers can have as well; that of the final
LayerNorm, which it cannot have, is not trained (see `Performer`).

Source: names of configuration and weights as in `EsmcForMaskedLM` of transformers 5.23.
"""

import math
import re
from typing import Any

import torch
from torch import Tensor

from protlm.errors import UserError
from protlm.exchange.architecture import Architecture, Parts
from protlm.exchange.saved_model import SavedModel
from protlm.exchange.weight_names import WeightNames
from protlm.performer import PerformerConfig
from protlm.sequence.alphabet import CLS, MASK, PAD, TOKENS

EPSILON = 1e-5
ROTATION = {"rope_theta": 10_000.0, "rope_type": "default"}
"""Values of rope_parameters."""
UNUSED = re.compile(r".*rotary_emb\.(original_)?inv_freq")
HEADS = {"classifier.": "classifier", "score.": "classifier"}
NAMES = WeightNames(
    outside={
        "embedding.weight": "esmc.embed_tokens.weight",
        "norm": "esmc.norm",
        "head.0": "lm_head.dense",
        "head.2": "lm_head.layer_norm",
        "head.3": "lm_head.decoder",
    },
    inside={
        "attention_norm": "input_layernorm",
        "attention.qkv": tuple(f"self_attn.{part}_proj" for part in "qkv"),
        "attention.q_norm": "self_attn.q_norm",
        "attention.k_norm": "self_attn.k_norm",
        "attention.out": "self_attn.o_proj",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.0": ("mlp.gate_proj", "mlp.up_proj"),
        "feed_forward.2": "mlp.down_proj",
    },
    block="esmc.layers.{}.",
    expected="EsmcForMaskedLM or another ESMC of transformers",
)
BIASES = {
    "attention_bias": re.compile(r"esmc\.layers\.\d+\.self_attn\.[qkvo]_proj\.bias"),
    "mlp_bias": re.compile(r"esmc\.layers\.\d+\.mlp\.\w+_proj\.bias"),
}
"""Entries of config.json -> the biases that there are if they are true."""
_NORM_BIAS = "esmc.norm.bias"
_PROJECTION = re.compile(r"esmc\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.\w+_proj)\.weight")
_DIVIDED = re.compile(r"esmc\.layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)\.(weight|bias)")
_ROWS = ("esmc.embed_tokens.weight", "lm_head.decoder.weight", "lm_head.decoder.bias")


def esmc_parts(saved: SavedModel) -> Parts:
    """What a saved ESMC consists of.

    Raises:
        UserError: for a model that is not ESMC.
    """
    about, path = saved.config, saved.config_path
    config = ESMC.arguments(saved)
    rotation = about.get("rope_parameters") or {}
    for name, value in ROTATION.items():
        if (found := rotation.get(name, value)) != value:
            raise UserError(f"{path}: rope_parameters.{name} is {found!r}; expected {value!r}")
    for name, value in (("head_dim", config["width"] // config["heads"]), ("num_key_value_heads", config["heads"])):
        if about.get(name) not in (None, value):
            raise UserError(f"{path}: {name} is {about[name]!r}; expected {value}")
    vocabulary = about.get("vocab_size", 64)
    if type(vocabulary) is not int or vocabulary < len(TOKENS):
        raise UserError(f"{path}: vocab_size is {vocabulary!r}; expected an integer of at least {len(TOKENS)}")
    weights = saved.weights
    if not any(name.startswith(("esmc.", "model.")) for name in weights):  # of EsmcModel
        weights = {f"esmc.{name}": weight for name, weight in weights.items()}
    left_out = sorted({title for prefix, title in HEADS.items() if any(name.startswith(prefix) for name in weights)})
    weights = {
        name: weight
        for name, weight in weights.items()
        if not UNUSED.fullmatch(name) and not name.startswith(tuple(HEADS))
    }
    config |= {
        "max_length": about.get("max_position_embeddings", 2048),
        "dropout": 0.0,
        "head": ESMC.head if any(name.startswith("lm_head.") for name in weights) else "none",
    }
    for name, pattern in BIASES.items():
        if not about.get(name) and (odd := next(filter(pattern.fullmatch, weights), None)):
            raise UserError(f"{path}: {name} is not true, but the weights have {odd}")
    without = [pattern for name, pattern in BIASES.items() if not about.get(name)]
    return Parts(config, _adapted(weights, config["layers"], without), NAMES, left_out)


def esmc_back(config: PerformerConfig, weights: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The reverse of `esmc_parts`, with 33 rows in the embedding; see `Architecture.back`."""
    if weights.pop(_NORM_BIAS).any():
        raise UserError(f"not the architecture of {ESMC.title}, which has no bias {_NORM_BIAS}: here it is not 0")
    result, biased = dict(weights), {}
    for entry, pattern in BIASES.items():
        own = list(filter(pattern.fullmatch, weights))
        biased[entry] = any(bool(weights[name].any()) for name in own)
        for name in () if biased[entry] else own:
            del result[name]
    for name in filter(_DIVIDED.fullmatch, result):
        result[name] = _multiplied(result[name], _divisor(config.layers))
    about = {
        "vocab_size": len(TOKENS),
        "num_key_value_heads": config.heads,
        "head_dim": config.width // config.heads,
        "max_position_embeddings": config.max_length,
        "rope_parameters": dict(ROTATION),
        "attention_dropout": 0.0,
        **biased,
    }
    return about, result


ESMC = Architecture(
    title="ESMC",
    classes=("EsmcForMaskedLM", "EsmcModel"),
    tokenizer="EsmcTokenizer",
    fields={
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "hidden_size": "width",
        "intermediate_size": "feed_forward",
    },
    there={
        "pad_token_id": (PAD, PAD),
        "mask_token_id": (MASK, MASK),
        "hidden_act": ("silu", "silu"),
        "tie_word_embeddings": (False, False),
    },
    here={
        "vocab_size": len(TOKENS),
        "pad_id": PAD,
        "attention": "exact",
        "causal": False,
        "positions": "rotary",
        "local_heads": 0,
        "start_id": CLS,
        "activation": "swiglu",
        "qk_norm": True,
        "norm_eps": EPSILON,
        "zeroed_id": None,
        "rotary_dtype": "float32",
        "contact_head": False,
    },
    head="esmc",
    names=NAMES,
    read=esmc_parts,
    back=esmc_back,
)


def _divisor(layers: int) -> float:
    return math.sqrt(layers / 36)


def _multiplied(weight: Tensor, divisor: float) -> Tensor:
    """The product, or the float32 number beside it that gives the weight bit for bit when it is divided again."""
    product = weight * divisor
    for direction in (math.inf, -math.inf):
        other = torch.nextafter(product, torch.full_like(product, direction))
        better = (product / divisor != weight) & (other / divisor == weight)
        product = torch.where(better, other, product)
    return product


def _adapted(weights: dict[str, Tensor], layers: int, without: list[re.Pattern[str]]) -> dict[str, Tensor]:
    """The weights of the same function without divisors, with all biases, and for ESM's tokens only.

    Args:
        weights: by name.
        layers: of the model.
        without: of names of the biases that there are not.
    """
    result = {}
    for name, weight in weights.items():
        bias = name.removesuffix("weight") + "bias"
        if bias == _NORM_BIAS or (_PROJECTION.fullmatch(name) and any(one.fullmatch(bias) for one in without)):
            result[bias] = torch.zeros(weight.shape[0])
        if _DIVIDED.fullmatch(name):
            weight = weight.float() / _divisor(layers)
        result[name] = weight[: len(TOKENS)] if name in _ROWS else weight
    return result
