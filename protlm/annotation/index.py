"""What is kept of a reference between runs: its embeddings, and relatives within it.

The embeddings are a file of `protlm embed`, whoever has written it; relatives are beside it, in `NAME.relatives.npz`.

Legend: n proteins of the reference, D width.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from protlm.annotation.reference import Reference
from protlm.checkpoint import fingerprint
from protlm.embedding.in_memory import embed
from protlm.embedding.proteome import EmbedOptions, chosen_layers, embed_fasta
from protlm.embedding.stored_vectors import StoredVectors, read_stored_vectors
from protlm.errors import UserError, counted
from protlm.files import atomic_output
from protlm.homology.relatives import Relatives
from protlm.performer import Performer
from protlm.progress import Progress

VERSION = 1
"""Increased when the search for relatives gives others than before."""
_TRIED = 3  # proteins embedded again to recognise an index of other sequences
_ALIKE = 0.999  # cosine; rounding to float16 keeps more


def index_vectors(
    path: str | Path,
    fasta: str | Path | None,
    reference: Reference,
    model: Performer,
    layer: int = -1,
    token_budget: int = 16_384,
    progress: Progress | None = None,
    **reading: object,
) -> np.ndarray:
    """(n, D) float32: the embeddings of a reference from its index, which is written if there is none.

    Args:
        path: of the index (.h5).
        fasta: of the reference; None if it is not a file.
        reference: its labelled proteins.
        model, layer, token_budget: what is embedded.
        progress: called with residues done and in total.
        **reading: `invalid` and `allow_nucleotides`, see `FastaFile`.

    Raises:
        UserError: for an index of another model, layer or reference.
    """
    path = Path(path)
    if not path.exists():
        if fasta is None:
            raise UserError(
                f"index {path}: no such file; it can only be written for a reference in a FASTA file", "index"
            )
        options = EmbedOptions((layer,), dtype="float32", layout="packed", invalid=str(reading.get("invalid", "error")))
        nucleotides = bool(reading.get("allow_nucleotides", False))
        embed_fasta(model, fasta, path, None, options, token_budget, False, nucleotides, progress)
    stored = read_stored_vectors(path)
    _check_made_by(stored, model, layer)
    number = {name: row for row, name in enumerate(stored.ids)}
    if missing := [name for name in reference.ids if name not in number]:
        raise UserError(
            f"{path}: {len(missing):,} of {counted(len(reference.ids), 'labelled protein')} of {reference.source} have "
            f"no embedding, such as {missing[0]!r}; choose another index, or remove it to write a new one"
        )
    vectors = stored.vectors[[number[name] for name in reference.ids]]
    _check_same_sequences(path, reference, vectors, model, layer)
    return vectors


def _check_made_by(stored: StoredVectors, model: Performer, layer: int) -> None:
    about, (chosen,) = stored.description, chosen_layers((layer,), model.config.layers)
    found = {"model": fingerprint(model), "pool": ["mean"], "layers": [chosen]}
    for name, expected in found.items():
        if about[name] != expected:
            found_there = f"{name.removesuffix('s')} {', '.join(map(str, about[name]))}"
            what = "another model" if name == "model" else found_there
            raise UserError(
                f"{stored.path}: embeddings of {what}; expected those of this model, layer {chosen}, pooled by mean; "
                "choose another index"
            )


def _check_same_sequences(path: Path, reference: Reference, vectors: np.ndarray, model: Performer, layer: int) -> None:
    """Embeds the shortest proteins again."""
    order = sorted(range(len(reference.records)), key=lambda i: len(reference.records[i].sequence))[:_TRIED]
    again = embed(model, [reference.records[i].sequence for i in order], layers=(layer,), pool="mean")
    for i, vector in zip(order, again, strict=True):
        cosine = vector @ vectors[i] / max(float(np.linalg.norm(vector) * np.linalg.norm(vectors[i])), 1e-12)
        if cosine < _ALIKE:
            raise UserError(
                f"{path}: the embedding of {reference.ids[i]!r} is not that of its sequence in {reference.source}; "
                "choose another index, or remove it to write a new one"
            )


def kept_relatives(
    index: str | Path | None, reference: Reference, sample: np.ndarray, search: Callable[[], Relatives]
) -> Relatives:
    """The relatives of some proteins of a reference, from an earlier run if there is an index that has them.

    Args:
        index: path of the embeddings.
        reference: proteins.
        sample: (s,) int64, numbers of the queries.
        search: finds them.
    """
    if index is None:
        return search()
    path = Path(index).with_suffix(".relatives.npz")
    digest = xxhash.xxh3_128(f"{VERSION}\n".encode() + "\n".join(reference.sequences).encode())
    digest.update(sample.astype("<i8").tobytes())
    key = digest.hexdigest()
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["key"]) == key:
                    return Relatives(*(file[name] for name in Relatives.__dataclass_fields__))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # damaged: found again
            pass
    found = search()
    with atomic_output(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, key=np.array(key), **vars(found))
    return found
