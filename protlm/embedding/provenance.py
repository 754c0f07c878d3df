"""What a file of embeddings was made from, and how it differs from what is asked for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xxhash

from protlm import __version__
from protlm.embedding.pooling import check_pools, chosen_layers
from protlm.errors import UserError
from protlm.inference.engine import PRECISIONS
from protlm.performer import Performer
from protlm.sequence.fasta import IDENTIFIERS

FORMAT = "protlm embeddings"
VERSION = 1
LAYOUTS = ("uniprot", "packed", "esm-pt")
DTYPES = ("float16", "float32")
DUPLICATES = ("error", "suffix", "first")

SAME = ("model", "layers", "pool", "dtype", "precision", "layout", "id", "duplicates", "shard", "source")
"""What two files have to share to be the same; where and how fast they were computed does not matter."""


@dataclass(frozen=True)
class EmbedOptions:
    """What is kept of each protein, and how it is written.

    Args:
        layers: 0 is the embedding, i the output of block i, -1 the last one, behind its norm.
        pools: "mean", "bos" or "max", for the file with a vector per protein.
        dtype: "float16" or "float32"; None is float16, but for the layout esm-pt float32.
        precision: "float32" or "bfloat16", of the computing.
        layout: "uniprot", "packed" or "esm-pt", see docs/formats.md.
        identifier: "accession", "word" or "header".
        duplicates: of identifiers that occur twice: "error", "suffix" (X_2, X_3) or "first" (leave out the others).
        shard: (i, n) for the i-th of n parts of the proteins, counted from 1.

    Raises:
        UserError: for a value that is not one of these.
    """

    layers: tuple[int, ...] = (-1,)
    pools: tuple[str, ...] = ("mean",)
    dtype: str | None = None
    precision: str = "float32"
    layout: str = "uniprot"
    identifier: str = "accession"
    duplicates: str = "error"
    shard: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--dtype", self.dtype or "float16", DTYPES),
            ("--precision", self.precision, PRECISIONS),
            ("--layout", self.layout, LAYOUTS),
            ("--id", self.identifier, IDENTIFIERS),
            ("--duplicates", self.duplicates, DUPLICATES),
        ):
            if value not in known:
                raise UserError(f"{name} {value!r}: expected one of {', '.join(known)}")
        check_pools(self.pools)
        part, parts = self.shard
        if not 1 <= part <= parts:
            raise UserError(f"--shard {part}/{parts}: expected i/n with i from 1 to n")

    def settled(self, model: Performer) -> "EmbedOptions":
        """The same with layers counted from 0, and a dtype."""
        dtype = self.dtype or ("float32" if self.layout == "esm-pt" else "float16")
        return replace(self, layers=chosen_layers(self.layers, model.config.layers), dtype=dtype)


def parsed_layers(text: str) -> tuple[int, ...]:
    """Layers from text such as "0,6,-1".

    Raises:
        UserError: for anything else.
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UserError(f"--layers {text!r}: expected numbers such as -1 or 0,6,-1") from None


def parsed_shard(text: str) -> tuple[int, int]:
    """The i-th of n parts from text such as "2/8".

    Raises:
        UserError: for anything else.
    """
    part, _, parts = text.partition("/")
    if not (part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        raise UserError(f"--shard {text!r}: expected i/n, as in 2/8")
    return int(part), int(parts)


def fingerprint(model: Performer) -> str:
    """XXH3, 128 bits, in hexadecimal, of a model's configuration and weights, wherever and in whatever form it lies."""
    digest = xxhash.xxh3_128(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def about(model: Performer, options: EmbedOptions) -> dict[str, Any]:
    """What is written into a file, ready for JSON; its pooling, source and counts are added later.

    Args:
        model: that computes it.
        options: settled.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "protlm": __version__,
        "model": fingerprint(model),
        "width": model.config.width,
        "layers": list(options.layers),
        "dtype": options.dtype,
        "precision": options.precision,
        "layout": options.layout,
        "id": options.identifier,
        "duplicates": options.duplicates,
        "shard": "{}/{}".format(*options.shard),
    }


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], leave_out: tuple[str, ...] = ()) -> str:
    """What distinguishes a file from the one that is wanted, in words; empty if nothing does.

    Args:
        found, wanted: from `about`; a source is compared if both have one.
        leave_out: names of `SAME` that may differ.
    """
    if (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        return "not embeddings of this version of protlm"
    words = []
    for name in SAME:
        if name in leave_out or (name == "source" and not (found.get(name) and wanted.get(name))):
            continue
        have, want = found.get(name), wanted.get(name)
        if name == "source":
            have, want = _content(have), _content(want)
        if have != want:
            words.append(f"{name}: {_text(have)} instead of {_text(want)}")
    return "; ".join(words)


def _content(source: Any) -> str:
    """A file's content, whatever its name."""
    return f"{source['bytes']:,} bytes with checksum {source['xxh3_128'][:8]}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value[:8] if isinstance(value, str) and len(value) == 32 else str(value)


def stored_dtype(name: str) -> np.dtype[Any]:
    """Little-endian, as it lies in the file on any machine."""
    return np.dtype(name).newbyteorder("<")
