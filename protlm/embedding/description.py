"""What a file of embeddings or predictions was made from, and the shape of what it holds (docs/formats.md).

Legend: n proteins, P poolings, K layers, L residues, D width; axes P and K are left out where they are 1.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

FORMAT = "protlm embeddings"
VERSION = 1
PREDICTIONS = "protlm predictions"
COMPARED = (
    "model", "targets", "layers", "pool", "dtype", "precision", "layout", "id", "duplicates", "shard", "source",
)  # fmt: skip
"""Entries of a description that have to agree; where and how fast a file was computed does not matter."""

Values = Callable[[int], np.ndarray]
"""Index of a protein -> its values, flattened: pooled (P, K, D), then residues (K, L, D), or (L, K, D) for a layout
with rows of residues."""
Count = Callable[[int], None]
"""Gets the number of proteins joined since the last call."""

BLOCK = 1 << 22
"""Values written at a time."""


def is_description(found: Any) -> bool:
    """Whether JSON read from a file describes embeddings, or predictions, of protlm."""
    return isinstance(found, dict) and found.get("format") in (FORMAT, PREDICTIONS)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], leave_out: tuple[str, ...] = ()) -> str:
    """How the descriptions of two files differ, in words, apart from the names to leave out; empty if they do not.

    Their sources are compared if both have one.
    """
    kind = expected.get("format", FORMAT)
    if (found.get("format"), found.get("version")) != (kind, VERSION):
        return f"not {kind.removeprefix('protlm ')} of this version of protlm"
    words = []
    for name in COMPARED:
        one, other = found.get(name), expected.get(name)
        if name in leave_out:
            continue
        if name == "source":  # whatever the name of the file
            if not (one and other):
                continue
            one, other = (f"{s['bytes']:,} bytes with checksum {s['xxh3_128'][:8]}" for s in (one, other))
        if one != other:
            words.append(f"{name}: {_text(one)} instead of {_text(other)}")
    return "; ".join(words)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value[:8] if isinstance(value, str) and len(value) == 32 else str(value)


def stored_dtype(description: Mapping[str, Any]) -> np.dtype[Any]:
    """Little-endian on any machine."""
    return np.dtype(description["dtype"]).newbyteorder("<")


def of_residues(description: Mapping[str, Any]) -> bool:
    """Whether a file holds every residue."""
    return "residues" in description["pool"]


def axes(description: Mapping[str, Any]) -> tuple[int, ...]:
    """Axes P and K, except those of size one."""
    pools = 1 if of_residues(description) else len(description["pool"])
    return tuple(size for size in (pools, len(description["layers"])) if size > 1)


def vectors(description: Mapping[str, Any]) -> list[str]:
    """Names of the P x K vectors of a protein or residue in a table, in the order of their values.

    >>> vectors({"pool": ["mean"], "layers": [6]}), vectors({"pool": ["mean", "max"], "layers": [0, 6]})
    (['embedding'], ['mean_layer_0', 'mean_layer_6', 'max_layer_0', 'max_layer_6'])
    """
    pools = [] if len(description["pool"]) == 1 else description["pool"]
    layers = [] if len(description["layers"]) == 1 else [f"layer_{layer}" for layer in description["layers"]]
    names = [f"{pool}_{layer}" for pool in pools for layer in layers] or [*pools, *layers]
    return names or ["embedding"]
