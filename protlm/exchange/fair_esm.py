"""ESM-2 as a file of fair-esm, the original package of its authors.

The regression of its contact head is a file of its own, `NAME-contact-regression.pt`, read if it is beside the model.

Source: names of settings and weights as in `esm.pretrained` and `esm.model.esm2` of fair-esm 2.0.
"""

import re
from pathlib import Path
from typing import Any

from protlm.errors import UserError
from protlm.exchange.architecture import Parts
from protlm.exchange.esm import language_parts, rounding
from protlm.exchange.saved_model import checked_weights, read_pickle
from protlm.exchange.weight_names import WeightNames
from protlm.missing_model import esm_advice
from protlm.sequence.alphabet import CLS, MASK, PAD, TOKENS

SUFFIX, REGRESSION = ".pt", "-contact-regression.pt"
SETTINGS = ("encoder_layers", "encoder_attention_heads", "encoder_embed_dim")
LONGEST = 1024
"""Tokens of the longest sequence in training."""
NAMES = WeightNames(
    outside={
        "embedding.weight": "embed_tokens.weight",
        "norm": "emb_layer_norm_after",
        "head.dense": "lm_head.dense",
        "head.norm": "lm_head.layer_norm",
        "head.bias": "lm_head.bias",
        "contact_head": "contact_head.regression",
    },
    inside={
        "attention_norm": "self_attn_layer_norm",
        "attention.qkv": tuple(f"self_attn.{part}_proj" for part in "qkv"),
        "attention.out": "self_attn.out_proj",
        "feed_forward_norm": "final_layer_norm",
        "feed_forward.0": "fc1",
        "feed_forward.2": "fc2",
    },
    block="layers.{}.",
    expected="ESM-2 of fair-esm",
)
_PREFIX = re.compile(r"^encoder\.(sentence_encoder\.)?")
_FREQUENCIES = "rot_emb.inv_freq"


def fair_esm_parts(path: Path) -> Parts:
    """What a file of fair-esm consists of.

    Raises:
        UserError: for a file that is missing, damaged or of another model, such as ESM-1b or ESMFold.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file{esm_advice(path)}")
    content = read_pickle(path)
    settings = _settings(content)
    if settings is None:
        raise UserError(f"{path}: expected ESM-2 of fair-esm, with settings in cfg.model and weights in model")
    for name in SETTINGS:
        if type(settings.get(name)) is not int or settings[name] < 1:
            raise UserError(f"{path}: {name} is {settings.get(name)!r}; expected an integer of at least 1")
    layers, heads, width = (settings[name] for name in SETTINGS)
    if width % (2 * heads):
        raise UserError(f"{path}: encoder_embed_dim {width} with {heads} heads; expected heads of equal and even width")
    found = {_PREFIX.sub("", name): weight for name, weight in checked_weights(path, content.get("model")).items()}
    regression = path.with_name(path.name.removesuffix(SUFFIX) + REGRESSION)
    if regression.is_file():
        own = read_pickle(regression)
        found |= checked_weights(regression, own.get("model") if isinstance(own, dict) else None)
    frequencies = [weight for name, weight in found.items() if name.endswith(_FREQUENCIES)]
    found = {name: weight for name, weight in found.items() if not name.endswith(_FREQUENCIES)}
    if "lm_head.weight" in found:  # the embedding once more
        found["lm_head.decoder.weight"] = found.pop("lm_head.weight")
    hidden = found.get("layers.0.fc1.bias")
    config = {
        "vocab_size": len(TOKENS),
        "pad_id": PAD,
        "layers": layers,
        "heads": heads,
        "width": width,
        "feed_forward": 4 * width if hidden is None else len(hidden),
        "attention": "exact",
        "positions": "rotary",
        "max_length": LONGEST,
        "dropout": 0.0,
        "start_id": CLS,
        "zeroed_id": MASK if settings.get("token_dropout") else None,
        "rotary_dtype": rounding(path, frequencies, width // heads),
    }
    return language_parts(path, config, found, NAMES, [])


def _settings(content: Any) -> dict[str, Any] | None:
    """The settings of the model; None if there are none of ESM-2."""
    about = content.get("cfg") if isinstance(content, dict) else None
    settings = about.get("model") if isinstance(about, dict) else None
    return settings if isinstance(settings, dict) else vars(settings) if hasattr(settings, "encoder_layers") else None
