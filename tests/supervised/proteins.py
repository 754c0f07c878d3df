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


def table(path, rows: list[tuple[str, ...]], columns: str = "sequence\tlabel\tsplit") -> None:
    """Writes a tab-separated table."""
    path.write_text("\n".join([columns, *("\t".join(row) for row in rows)]) + "\n")
