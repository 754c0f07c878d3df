"""Small sets of made-up proteins whose labels follow from their composition."""

import numpy as np

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))


def proteins(count: int, seed: int = 0, length: int = 30) -> tuple[list[str], list[str]]:
    """Sequences and labels: half of them rich in lysine ("basic"), half in glutamate ("acidic")."""
    draw = np.random.default_rng(seed)
    sequences, labels = [], []
    for number in range(count):
        letters = draw.choice(LETTERS, length + int(draw.integers(10)))
        letters[draw.random(len(letters)) < 0.4] = "KE"[number % 2]
        sequences.append("".join(letters))
        labels.append(("basic", "acidic")[number % 2])
    return sequences, labels


def variants(count: int, seed: int = 0) -> tuple[list[str], list[float]]:
    """Variants of one protein at three sites, and values that are sums over these."""
    draw = np.random.default_rng(seed)
    parent, worth = draw.choice(LETTERS, 30), draw.normal(size=(3, 20))
    sequences, values = [], []
    for _ in range(count):
        letters, own = parent.copy(), draw.integers(20, size=3)
        letters[[4, 11, 20]] = LETTERS[own]
        sequences.append("".join(letters))
        values.append(float(worth[np.arange(3), own].sum()))
    return sequences, values


def table(path, rows: list[tuple[str, ...]], columns: str = "sequence\tlabel\tsplit") -> None:
    """Writes a tab-separated table."""
    path.write_text("\n".join([columns, *("\t".join(row) for row in rows)]) + "\n")
