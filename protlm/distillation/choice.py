"""Which heads stay exact: those that learned features imitate worst.

Legend: H heads, L length, d head width.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protlm.distillation.matching import Attended, attention_errors, recorded, relative
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


def check_choice(share: float, by: str) -> None:
    """Raises a UserError for a share of heads out of range, or an unknown measure."""
    if not 0 <= share < 1:
        raise UserError(f"exact_heads {share}: expected a fraction of all heads, from 0 to below 1", "exact_heads")
    if by not in MEASURES:
        raise UserError(f"choose_by {by!r}: expected one of {', '.join(MEASURES)}", "choose_by")


def chosen_heads(
    teacher: Performer,
    student: Performer,
    proteins: Sequence[str],
    share: float,
    by: str = "error",
    steps: int = STEPS,
    note: Callable[[int, int], None] = lambda done, steps: None,
) -> list[list[int]]:
    """The numbers of heads, by layer, that are to stay exact.

    The features of the student are fitted first, so that heads are judged by what features can learn.

    Args:
        teacher, student: see `student_of`; the student without exact heads, whose features are changed.
        proteins: in one-letter code; longer than the blocks of the student, some hundreds of residues.
        share: of all heads of all layers.
        by: one of MEASURES.
        steps: of fitting, one protein each.
        note: called with the number of steps done and of all.

    Raises:
        UserError: for a share or measure out of range, or proteins so short that exact attention covers them.
    """
    check_choice(share, by)
    rows = [_row(teacher, protein) for protein in proteins]
    rows = [row for row in rows if row.shape[1] > 2 * block_of(student)]
    if not rows:
        raise UserError("exact_heads: no protein is longer than two blocks, so that all heads are exact", "exact_heads")
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
        badness = torch.stack([measure(teacher, student, row) for row in rows]).mean(0).cpu().numpy()
    count = round(share * badness.size)
    layers, heads = np.unravel_index(np.argsort(-badness, axis=None)[:count], badness.shape)
    return [sorted(heads[layers == layer].tolist()) for layer in range(len(badness))]


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
    """(layers, H): relative error of the layer's output if only this head is not exact."""
    found = []
    for own, call in _layers(teacher, student, row):
        difference = own.attention(*call[:4]) - call.out
        project = own.out.weight.unflatten(1, difference.shape[1::2])  # (D, H, d)
        target = torch.einsum("bhld,mhd->blm", call.out, project)
        everything = torch.ones_like(row, dtype=torch.bool)
        caused = torch.einsum("bhld,mhd->hblm", difference, project)
        found.append(torch.stack([relative(one, target, everything)[0] for one in caused]))
    return torch.stack(found)


def _divergences(teacher: Performer, student: Performer, row: Tensor) -> Tensor:
    """(layers, H): mean KL divergence in nats of the student's attention from the teacher's."""
    found = []
    for own, call in _layers(teacher, student, row):
        taught, learned = ExactAttention.matrix(call.q, call.k), own.attention.matrix(call.q, call.k)
        logarithms = [x.clamp(min=1e-30).log() for x in (taught, learned)]
        found.append((taught * (logarithms[0] - logarithms[1])).sum(-1).mean((0, 2)))
    return torch.stack(found)
