"""Golden values: what a model computed for three proteins when its folder was written, to check other machines.

Legend: L tokens of a protein, first and last included; D width; V vocabulary.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from xxhash import xxh3_64_intdigest

from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import encode
from protlm.sequence.alphabets import PROTEIN, alphabet_of
from protlm.sequence.letters import Alphabet
from protlm.strict_json import dumps

FILE, KEY = "golden.safetensors", "about"
_UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
PROTEINS = {"trp-cage": "NLYIQWLKDGGPSSGRPPPS", "ubiquitin": _UBIQUITIN, "polyubiquitin": 9 * _UBIQUITIN + "V"}
"""Trp-cage (PDB 1L2Y), human ubiquitin (1UBQ) and polyubiquitin-C (UniProt P0CG48): 20, 76 and 685 residues.

The last one is longer than the windows and blocks of attention that treats near and far residues differently.
"""
LENGTHS = {"short": 20, "middle": 76, "long": 685}
"""Of the sequences of other alphabets: letters drawn by a hash, see `_drawn`."""
MASKED = {"ubiquitin": slice(3, None, 7), "middle": slice(3, None, 7)}
"""Which residues of which protein are masked, for a bidirectional model."""
WITHOUT_LOGITS = ("polyubiquitin", "long")
"""Sequences so long that only their embedding is kept."""
EMBEDDING, LOGITS = "embedding", "logits"
TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-1}
"""Precision of the computation -> the largest relative difference that passes; docs/decisions.md has measurements."""


@dataclass(frozen=True)
class Golden:
    """Golden values of a model.

    Attributes:
        values: "protein.embedding" (D,), the mean over residues after the final LayerNorm, and "protein.logits" (L, V),
            without those of `WITHOUT_LOGITS` and of a model that has no language-model head; float32.
        source: what computed them.
    """

    values: dict[str, Tensor]
    source: str


@dataclass(frozen=True)
class Difference:
    """How far values are from the golden ones.

    Attributes:
        protein, quantity: of which.
        absolute: the largest difference; infinite where a value is not finite.
        relative: that divided by the largest magnitude of the golden values.
    """

    protein: str
    quantity: str
    absolute: float
    relative: float


def rows(config: PerformerConfig) -> dict[str, np.ndarray]:
    """Tokens (L,) of each protein, or sequence of the model's alphabet, cut to the positions that the model has."""
    alphabet = alphabet_of(config.alphabet)
    limited = config.learned_positions or config.longest is not None
    most = max(config.max_length - 2, 1) if limited else None
    if alphabet == PROTEIN:
        found = {name: encode(sequence)[:most].astype(alphabet.dtype) for name, sequence in PROTEINS.items()}
    else:
        found = {name: _drawn(alphabet, min(length, most or length)) for name, length in LENGTHS.items()}
    for name in found.keys() & MASKED.keys() if not config.causal else ():
        found[name][MASKED[name]] = alphabet.mask
    return {name: alphabet.with_ends(tokens, config.start_id) for name, tokens in found.items()}


def _drawn(alphabet: Alphabet, length: int) -> np.ndarray:
    """Tokens (length,) of definite letters, the same everywhere: letter XXH3(i) modulo their number at position i."""
    numbers = [xxh3_64_intdigest(b"%d" % i) % len(alphabet.drawn) for i in range(length)]
    return alphabet.drawn[numbers].astype(alphabet.dtype)


@torch.inference_mode()
def computed(model: Performer) -> dict[str, Tensor]:
    """The values of a model, protein by protein, as `Golden.values`, in evaluation mode, on its device."""
    values = {}
    for name, tokens in rows(model.config).items():
        hidden = model.hidden(torch.from_numpy(tokens).long()[None].to(model.embedding.weight.device))[0]
        values |= named(name, hidden, None if model.head is None else model.logits(hidden))
    return values


def named(protein: str, hidden: Tensor, logits: Tensor | None) -> dict[str, Tensor]:
    """The values of a protein from its representations (L, D) after the final LayerNorm and its logits (L, V)."""
    values = {f"{protein}.{EMBEDDING}": hidden[1:-1].float().mean(0)}
    if logits is not None and protein not in WITHOUT_LOGITS:
        values[f"{protein}.{LOGITS}"] = logits.float()
    return {name: value.cpu().contiguous().clone() for name, value in values.items()}


def record(model: Performer, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Writes the golden values of a model, computed in float32 on the CPU, into its folder.

    Args:
        model: whose values to write.
        folder: of the model.
        weights: the weights that are stored there, if they are rounded ones.
    """
    plain = all(
        tensor.device.type == "cpu" and (tensor.dtype is torch.float32 or not tensor.is_floating_point())
        for tensor in (*model.parameters(), *model.buffers())
    )
    if weights is not None or model.training or not plain:
        model = copy.deepcopy(model).cpu().float().eval()
    if weights is not None:
        model.load_state_dict(dict(weights))
    write(computed(model), folder, alphabet_of(model.config.alphabet))


def write(values: Mapping[str, Tensor], folder: Path, alphabet: Alphabet = PROTEIN) -> None:
    """Writes values into the folder of a model."""
    about = {"source": f"PyTorch {torch.__version__}, cpu", "proteins": PROTEINS if alphabet == PROTEIN else LENGTHS}
    with atomic_output(folder / FILE) as partial:
        try:
            save_file(dict(values), partial, {KEY: dumps(about)})  # one entry, since their order is random
        except SafetensorError as error:  # such as a full disk
            raise OSError(str(error)) from error
        partial.chmod(folder.stat().st_mode & 0o666)


def read(folder: Path) -> Golden | None:
    """The golden values in the folder of a model; None if it has none.

    Raises:
        UserError: for a file that is damaged or of other proteins.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: damaged or cut short ({error}); remove it and record the values again") from error
    if about.get("proteins") not in (PROTEINS, LENGTHS):
        raise UserError(
            f"{path}: of other proteins, by another version of protlm; remove it and record the values again"
        )
    return Golden(values, about.get("source", ""))


def differences(found: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> list[Difference]:
    """How far values are from golden ones, for each protein and quantity.

    Raises:
        UserError: for values of another model, which have other names or shapes.
    """
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in golden.items()}:
        raise UserError("the golden values are of a model with another architecture")
    result = []
    for name, expected in golden.items():
        protein, quantity = name.rsplit(".", 1)
        error = float((found[name].double() - expected.double()).abs().max())
        error = error if np.isfinite(error) else float("inf")
        result.append(Difference(protein, quantity, error, error / (float(expected.abs().max()) or 1.0)))
    order = [*PROTEINS, *LENGTHS]
    return sorted(result, key=lambda one: (order.index(one.protein), one.quantity))
