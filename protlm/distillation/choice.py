"""Which heads stay exact, or have no features: those that learned features imitate worst, or that need none.

Legend: H heads, L length, d head width.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from protlm.distillation.budget import Budget, Counts
from protlm.distillation.matching import Attended, attention_errors, near_keys_only, recorded, relative
from protlm.distillation.stages import FEATURES
from protlm.errors import UserError
from protlm.inference.engine import framed
from protlm.performer import Performer
from protlm.performer.baselines import ExactAttention
from protlm.performer.hybrid import HybridAttention
from protlm.sequence.alphabet import encode

MEASURES = ("error", "kl")
"""The error of the output of the layer that a head causes; the divergence of its attention from the teacher's."""
PROTEINS = 64
"""How many proteins are enough to rank heads."""
STEPS = 100
_RATE = 2e-2


class Chosen(NamedTuple):
    """Numbers of heads, by layer."""

    exact_heads: list[list[int]]
    window_heads: list[list[int]]


def check_measure(by: str) -> None:
    """Raises a UserError for an unknown measure."""
    if by not in MEASURES:
        raise UserError(f"choose_by {by!r}: expected one of {', '.join(MEASURES)}", "choose_by")


def chosen_heads(
    teacher: Performer,
    student: Performer,
    proteins: Sequence[str],
    budget: Budget,
    by: str = "error",
    steps: int = STEPS,
    note: Callable[[int, int], None] = lambda done, steps: None,
) -> Chosen:
    """The heads that are to stay exact, and those that are to have no features.

    The features of the student are fitted first, so that heads are judged by what features can learn. Whole layers are
    chosen before single heads of the others, and exact ones before those without features.

    Args:
        teacher, student: see `student_of`; the student with features for all heads, which are changed.
        proteins: in one-letter code; longer than two blocks of the student, some hundreds of residues.
        budget: how many.
        by: one of MEASURES.
        steps: of fitting, one protein each.
        note: called with the number of steps done and of all.

    Raises:
        UserError: for a budget or measure out of range, or proteins so short that exact attention covers them.
    """
    check_measure(by)
    counts = budget.counts(student.config.layers, student.config.heads)
    rows = [_row(teacher, protein) for protein in proteins]
    rows = [row for row in rows if row.shape[1] > 2 * block_of(student)]
    if not rows:
        raise UserError("no protein is longer than two blocks, so that all heads are exact: no heads to choose")
    features = [weight for name, weight in student.named_parameters() if FEATURES in name]
    optimizer = torch.optim.AdamW(features, _RATE, weight_decay=0.0)
    for step in range(steps):
        row = rows[step % len(rows)]
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
        optimizer.zero_grad()
        attention_errors(teacher, student, row, torch.ones_like(row, dtype=torch.bool)).mean().backward()
        optimizer.step()
        note(step + 1, steps)
    measure = _output_errors if by == "error" else _divergences

    with torch.no_grad():
        bad = torch.stack([measure(teacher, student, row) for row in rows]).mean(0).cpu().numpy()
        loss = np.zeros_like(bad)
        if counts.window_heads or counts.window_layers:
            with near_keys_only(student):
                loss = torch.stack([measure(teacher, student, row) for row in rows]).mean(0).cpu().numpy() - bad
    return _ranked(bad, loss, counts)


def _ranked(bad: np.ndarray, loss: np.ndarray, counts: Counts) -> Chosen:
    """Those that are worst with features stay exact; of the others, those that lose least without them have none.

    Args:
        bad: (layers, H + 1), how bad each head and, in the last column, each layer is with features.
        loss: (layers, H + 1), how much worse it is without.
        counts: how many to choose.
    """
    kinds = np.zeros((bad.shape[0], bad.shape[1] - 1), dtype=int)  # 1 exact, 2 without features
    for kind, order, count in ((1, -bad[:, -1], counts.exact_layers), (2, loss[:, -1], counts.window_layers)):
        free = (kinds == 0).all(1)
        kinds[np.argsort(np.where(free, order, np.inf), kind="stable")[:count]] = kind
    for kind, order, count in ((1, -bad[:, :-1], counts.exact_heads), (2, loss[:, :-1], counts.window_heads)):
        ranked = np.argsort(np.where(kinds == 0, order, np.inf), axis=None, kind="stable")
        kinds.flat[ranked[:count]] = kind
    return Chosen(*([np.flatnonzero(layer == kind).tolist() for layer in kinds] for kind in (1, 2)))


def _row(model: Performer, protein: str) -> Tensor:
    return torch.from_numpy(framed(model, encode(protein))).long().to(model.embedding.weight.device)[None]


def block_of(student: Performer) -> int:
    """C of the student's hybrid attention."""
    return next(module.block for module in student.modules() if isinstance(module, HybridAttention))


def _layers(teacher: Performer, student: Performer, row: Tensor) -> Iterator[tuple[Any, Attended]]:
    """The self-attention of each layer of the student, with the call of the teacher's."""
    with recorded(teacher) as calls:
        teacher.hidden(row)
    return zip((block.attention for block in student.blocks), calls, strict=True)


def _output_errors(teacher: Performer, student: Performer, row: Tensor) -> Tensor:
    """(layers, H + 1): relative error of the layer's output if only this head is not exact, and if all are not."""
    found = []
    for own, call in _layers(teacher, student, row):
        difference = own.attention(*call[:4]) - call.out
        project = own.out.weight.unflatten(1, difference.shape[1::2])  # (D, H, d)
        target = torch.einsum("bhld,mhd->blm", call.out, project)
        everything = torch.ones_like(row, dtype=torch.bool)
        caused = torch.einsum("bhld,mhd->hblm", difference, project)
        each = [relative(one, target, everything)[0] for one in (*caused, caused.sum(0))]
        found.append(torch.stack(each))
    return torch.stack(found)


def _divergences(teacher: Performer, student: Performer, row: Tensor) -> Tensor:
    """(layers, H + 1): mean KL divergence in nats of the student's attention from the teacher's; mean over heads."""
    found = []
    for own, call in _layers(teacher, student, row):
        taught, learned = ExactAttention.matrix(call.q, call.k), own.attention.matrix(call.q, call.k)
        logarithms = [x.clamp(min=1e-30).log() for x in (taught, learned)]
        each = (taught * (logarithms[0] - logarithms[1])).sum(-1).mean((0, 2))
        found.append(torch.cat((each, each.mean()[None])))
    return torch.stack(found)
