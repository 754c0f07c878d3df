"""Import of ESM-2, as saved by transformers, as a model with exact attention.

Source: Lin et al. 2023, "Evolutionary-scale prediction of atomic-level protein structure with a language model"; names
of configuration and weights as in `EsmForMaskedLM` of transformers 5.23.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from protlm.checkpoint import CONFIG, esm_advice
from protlm.errors import UserError
from protlm.performer import Performer, PerformerConfig
from protlm.performer.config import ROUNDED
from protlm.sequence.alphabet import CLS, MASK, PAD, TOKENS

EXPECTED = {
    "model_type": ("esm", None),
    "is_folding_model": (False, False),
    "position_embedding_type": ("rotary", "absolute"),
    "rope_theta": (10_000, 10_000),
    "vocab_size": (len(TOKENS), None),
    "pad_token_id": (PAD, None),
    "mask_token_id": (MASK, None),
    "emb_layer_norm_before": (False, False),
    "hidden_act": ("gelu", "gelu"),
    "is_decoder": (False, False),
    "add_cross_attention": (False, False),
    "tie_word_embeddings": (True, True),
}
"""Required values in config.json, and the value that a missing entry stands for."""
SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files that may hold the weights; the first one found is read."""
FREQUENCIES = "rotary_embeddings.inv_freq"
UNUSED = re.compile(r"esm\.embeddings\.(position_ids|position_embeddings\.weight)")
"""Weights that are saved with ESM-2, but are not used."""
CONTACTS = "esm.contact_head.regression"
OLDER = {"gamma": "weight", "beta": "bias"}
"""Old names of LayerNorm parameters, which transformers still writes for some models."""
OUTSIDE = {
    "embedding.weight": "esm.embeddings.word_embeddings.weight",
    "norm": "esm.encoder.emb_layer_norm_after",
    "head.dense": "lm_head.dense",
    "head.norm": "lm_head.layer_norm",
    "head.bias": "lm_head.bias",
    "contact_head": CONTACTS,
}
INSIDE = {
    "attention_norm": "attention.LayerNorm",
    "attention.qkv": "attention.self.{}",
    "attention.out": "attention.output.dense",
    "feed_forward_norm": "LayerNorm",
    "feed_forward.0": "intermediate.dense",
    "feed_forward.2": "output.dense",
}
"""Names of modules inside a layer, here and in transformers; OUTSIDE has those outside the layers."""


def load_esm(folder: str | Path) -> Performer:
    """Loads ESM-2 from a Hugging Face folder, as float32, on the CPU and in evaluation mode.

    Args:
        folder: contains config.json and the weights of `EsmForMaskedLM`, as safetensors or PyTorch files.

    Raises:
        UserError: for a folder that is missing or damaged, or is not ESM-2 with its language-model head.
    """
    folder = Path(folder)
    if not folder.is_dir():
        if advice := esm_advice(folder):
            raise UserError(f"{folder}: no such folder{advice}")
        raise UserError(f"{folder}: no such folder; expected a Hugging Face folder with {CONFIG} and model.safetensors")
    about = _json(folder / CONFIG)
    _check_alphabet(folder, about)
    config = _configuration(folder / CONFIG, about)
    path, found = _weights(folder)
    dtype = _rounding(path, found, config)
    config["contact_head"] = f"{CONTACTS}.weight" in found
    # without allocating memory: all weights come from the file
    with torch.device("meta"):
        model = Performer(PerformerConfig(**{**config, "rotary_dtype": dtype}))
    model.load_state_dict(_renamed(path, found, model), assign=True)
    return model.eval()


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.parent}: {path.name} is missing; expected a folder of Hugging Face's transformers")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _check_alphabet(folder: Path, about: dict[str, Any]) -> None:
    vocabulary, source = about.get("vocab_list"), folder / CONFIG
    if vocabulary is None and (folder / "vocab.txt").is_file():
        source = folder / "vocab.txt"
        vocabulary = source.read_text(errors="replace").split()
    if vocabulary is not None and vocabulary != list(TOKENS):
        raise UserError(f"{source}: vocabulary differs from ESM's 33 tokens in ESM's order")


def _configuration(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Arguments of PerformerConfig."""
    for name, (expected, default) in EXPECTED.items():
        if (found := about.get(name, default)) != expected and not (expected is False and found is None):
            raise UserError(f"{path}: {name} is {found!r}; only ESM-2 can be imported, where it is {expected!r}")
    for name in SIZES:
        if type(about.get(name)) is not int or about[name] < 1:
            raise UserError(f"{path}: {name} is {about.get(name)!r}; expected an integer of at least 1")
    for name in ("layer_norm_eps", "hidden_dropout_prob"):
        if type(about.get(name)) not in (int, float) or not 0 <= about[name] < 1:
            raise UserError(f"{path}: {name} is {about.get(name)!r}; expected a number of at least 0 and below 1")
    layers, heads, width, feed_forward = (about[name] for name in SIZES)
    longest = about.get("max_position_embeddings")
    config = {
        "vocab_size": len(TOKENS),
        "pad_id": PAD,
        "layers": layers,
        "heads": heads,
        "width": width,
        "feed_forward": feed_forward,
        "attention": "exact",
        "positions": "rotary",
        # transformers counts positions from pad_id + 1
        "max_length": max(1, longest - PAD - 1) if type(longest) is int else 1024,
        "dropout": about["hidden_dropout_prob"],
        "norm_eps": about["layer_norm_eps"],
        "head": "esm",
        "start_id": CLS,
        "zeroed_id": MASK if about.get("token_dropout") else None,
    }
    try:
        PerformerConfig(**config)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return config


def _weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file that the weights come from, and the weights by name."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no weights; expected one of {', '.join(FILES)}")
    if path.suffix != ".json":
        return path, _named_as_now(_file(path))
    parts = _json(path).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise UserError(f"{path}: expected 'weight_map', the file of each weight")
    weights: dict[str, Tensor] = {}
    for part in sorted(set(parts.values())):
        if Path(part).name != part or not (folder / part).is_file():
            raise UserError(f"{path}: names the file {part!r}, which is not in the folder")
        weights |= _file(folder / part)
    return path, _named_as_now(weights)


def _named_as_now(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    def name_of(name: str) -> str:
        module, _, kind = name.rpartition(".")
        now = f"{module}.{OLDER.get(kind, kind)}"
        return now if now not in weights else name

    return {name_of(name): weight for name, weight in weights.items()}


def _file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():  # torch.load does not verify the checksums
                    raise zipfile.BadZipFile
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download it again") from error
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(f"{path}: not a file of weights, or damaged or cut short; download it again") from error
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise UserError(f"{path}: expected a table of weights by name")
    return dict(weights)


def _rounding(path: Path, found: dict[str, Tensor], config: dict[str, Any]) -> str:
    """The dtype to which the frequencies of rotary positions were rounded during training."""
    d = config["width"] // config["heads"]
    computed = 10_000.0 ** -(torch.arange(0, d, 2) / d)
    saved = [found[name].float() for name in found if name.endswith(FREQUENCIES)]
    for dtype in ROUNDED:
        rounded = computed.to(getattr(torch, dtype)).float()
        if all(x.shape == rounded.shape and torch.allclose(x, rounded, rtol=1e-6, atol=0) for x in saved):
            return dtype
    raise UserError(f"{path}: unknown rotary frequencies {FREQUENCIES}; expected 10000 ** (-2 i / {d})")


def _renamed(path: Path, found: dict[str, Tensor], model: Performer) -> dict[str, Tensor]:
    """The weights under their names here, as float32."""
    found = {name: w for name, w in found.items() if not UNUSED.fullmatch(name) and not name.endswith(FREQUENCIES)}
    embedding, tied = (found.get(name) for name in (OUTSIDE["embedding.weight"], "lm_head.decoder.weight"))
    if tied is not None:
        if embedding is None or not torch.equal(tied, embedding):
            raise UserError(f"{path}: lm_head.decoder.weight is not the embedding; only tied ones can be imported")
        del found["lm_head.decoder.weight"]
    sources = {name: _sources(name) for name in model.state_dict()}
    expected = {source for each in sources.values() for source in each}
    for names, what in ((expected - set(found), "missing"), (set(found) - expected, "unexpected")):
        if names:
            some = f"{', '.join(sorted(names)[:3])}{' ...' if len(names) > 3 else ''}"
            raise UserError(f"{path}: {len(names)} weights {what} ({some}); expected those of EsmForMaskedLM")
    weights = {}
    for name, weight in model.state_dict().items():
        parts = [found.pop(source) for source in sources[name]]
        if name == "contact_head.weight" and parts[0].numel() == weight.numel():
            parts = [parts[0].reshape(weight.shape)]
        shape = (weight.shape[0] // len(parts), *weight.shape[1:])
        for source, part in zip(sources[name], parts, strict=True):
            if part.shape != shape or not part.is_floating_point() or not part.isfinite().all():
                kind = f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}"
                raise UserError(f"{path}: {source} is {kind}; expected finite floats {list(shape)} by {CONFIG}")
        weights[name] = torch.cat([part.float() for part in parts]) if len(parts) > 1 else parts[0].float()
    return weights


def _sources(name: str) -> list[str]:
    """The names in transformers of one parameter; queries, keys and values are one matrix here."""
    if inside := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
        layer, module, kind = inside.groups()
        theirs = f"esm.encoder.layer.{layer}.{INSIDE[module]}.{kind}"
        return [theirs.format(part) for part in ("query", "key", "value")] if "{}" in theirs else [theirs]
    if name in OUTSIDE:
        return [OUTSIDE[name]]
    module, kind = name.rsplit(".", 1)
    return [f"{OUTSIDE[module]}.{kind}"]
