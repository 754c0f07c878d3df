"""Import of models trained with other libraries: one table of architectures."""

from dataclasses import dataclass
from pathlib import Path

import torch

from protlm.checkpoint import FORMAT
from protlm.errors import UserError
from protlm.exchange.adapter import merged
from protlm.exchange.esm import ESM
from protlm.exchange.esmc import ESMC
from protlm.exchange.fair_esm import SUFFIX, fair_esm_parts
from protlm.exchange.hub import ADAPTER, CONFIG, located
from protlm.exchange.own import MODEL_TYPE, own_parts
from protlm.exchange.saved_model import SavedModel, read_folder, read_json
from protlm.exchange.weight_names import moved
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import TOKENS

ARCHITECTURES = {"esm": ESM, "esmc": ESMC}
"""model_type in config.json -> the table of the family."""
READERS = {**{name: table.read for name, table in ARCHITECTURES.items()}, MODEL_TYPE: own_parts}
"""model_type -> what reads a saved model."""


@dataclass(frozen=True)
class Imported:
    """A model of another library.

    Attributes:
        model: as it is here.
        left_out: the names of heads that have no counterpart here.
        folder: of a class of transformers' own, if the model, or the base of its adapter, is from one.
        adapter: folder of the adapter that was merged, if there was one.
    """

    model: Performer
    left_out: list[str]
    folder: Path | None = None
    adapter: Path | None = None


def load_pretrained(path: str | Path, base: str | Path | None = None, revision: str | None = None) -> Imported:
    """Loads a model of another library, as float32, on the CPU and in evaluation mode.

    Args:
        path: a folder of Hugging Face's transformers, with config.json and the weights, also one that protlm has
            exported, a file of fair-esm
            (.pt), or the folder of a LoRA adapter of peft, which is merged; or the name of one of these folders on
            the Hugging Face Hub, see `hub.located`.
        base: folder or name of the base model of an adapter; by default the one that the adapter names.
        revision: branch, tag or commit of a model of the Hub.

    Raises:
        UserError: for a path that is missing or damaged, or a model of another kind.
    """
    path = located(path, revision)
    folder, adapter = None, False
    if path.suffix == SUFFIX:
        parts, weights = fair_esm_parts(path), path
    else:
        adapter = (path / ADAPTER).is_file()
        if base is not None and not adapter:
            raise UserError(f"base {base}: {path} is no adapter, which would need one; leave it out", "base")
        saved = merged(path, None if base is None else located(base)) if adapter else read_folder(path)
        kind = saved.config.get("model_type")
        if saved.config.get("format") == FORMAT:
            raise UserError(f"{path}: a model folder of protlm already; use it with --model {path}")
        if kind not in READERS:
            known = ", ".join(map(repr, READERS))
            raise UserError(f"{saved.config_path}: model_type is {kind!r}; expected one of {known}")
        _check_alphabet(path, saved)
        folder = None if kind == MODEL_TYPE else saved.config_path.parent  # whose own code is not executed
        parts, weights = READERS[kind](saved), saved.path
    try:
        config = PerformerConfig(**parts.config)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    # without allocating memory: all weights come from the file
    with torch.device("meta"):
        model = Performer(config)
    model.load_state_dict(moved(weights, parts.weights, parts.names, model), assign=True)
    return Imported(model.eval(), parts.left_out, folder, path if adapter else None)


def is_for_transformers(path: Path) -> bool:
    """Whether a path is a folder of transformers that `load_pretrained` reads."""
    return (path / CONFIG).is_file() and read_json(path / CONFIG).get("model_type") in READERS


def _check_alphabet(folder: Path, saved: SavedModel) -> None:
    vocabulary, source = saved.config.get("vocab_list"), saved.config_path
    if vocabulary is None and (folder / "vocab.txt").is_file():
        source = folder / "vocab.txt"
        vocabulary = source.read_text(errors="replace").split()
    if vocabulary is not None and saved.config["model_type"] == "esm" and vocabulary != list(TOKENS):
        raise UserError(f"{source}: vocabulary differs from ESM's 33 tokens in ESM's order")
