"""Models with known output, which reveal an error in counting positions."""

import numpy as np
import torch

from protlm.performer import Performer, PerformerConfig

TOKENS = 33


def table_model(table: np.ndarray, by: str, causal: bool = False) -> Performer:
    """A model whose log-probabilities at a position are a row of a table.

    Positions are independent: attention returns the values unchanged, and all branches end in zero weights. The
    embedding of each token (or each place) is a unit vector, whose norm the head turns into a row of the table.

    Args:
        table: (n, 33) log-probabilities; n is 33 for tokens, the number of places for places.
        by: "token" or "place", the number of which chooses the row.
        causal: of the configuration.
    """
    width = 2 * (len(table) // 2 + 1)  # one more than rows, for the norm takes the mean away
    config = PerformerConfig(
        TOKENS, 1, layers=1, heads=1, width=width, feed_forward=2, attention="opt", causal=causal, dropout=0.0,
        positions="learned" if by == "place" else "rotary", max_length=len(table),
    )  # fmt: skip
    model = Performer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        units = torch.eye(len(table), width)
        if by == "place":
            model.position.copy_(units)
        else:
            model.embedding.weight.copy_(units)
        model.norm.weight.fill_(1.0)
        # not torch.linalg.lstsq: torch 2.13 now and then gives another answer for fewer rows than columns
        solved = np.linalg.lstsq(model.norm(units).double().numpy(), np.asarray(table), rcond=None)[0]
        model.head.weight.copy_(torch.from_numpy(solved.T))
    return model


def random_table(rows: int, seed: int = 0) -> np.ndarray:
    """(rows, 33) log-probabilities, all different."""
    logits = np.random.default_rng(seed).normal(size=(rows, TOKENS))
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
