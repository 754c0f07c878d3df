"""How far a student is from its teacher, on proteins that neither the training of the student nor its choice has seen.

Legend: D model width, n proteins.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protlm.contacts.attention_head import head_contacts
from protlm.distillation.matching import hidden_errors, near_keys_only
from protlm.distillation.timing import LENGTHS, timed
from protlm.errors import UserError
from protlm.inference.engine import evaluating, framed
from protlm.performer import Performer
from protlm.performer.hybrid import Hybrid
from protlm.sequence.alphabet import INDEX, encode

EDGES = (500, 1024)
"""Proteins are reported by length: up to each of these residues, and longer ones."""
OF_ATTENTION = frozenset(
    ("attention", "num_features", "local_heads", "local_window", "directions", "norms", "feature_seed", "dropout")
)
"""Settings in which a student may differ from its teacher."""
_MASKED = 0.15
_NEIGHBOURS = 10
_CONTACTS_MOST = 400  # residues of a protein whose contacts are compared
_APART = 24  # residues between contacts, long range

Report = dict[str, Any]


def measure_gap(
    teacher: Performer,
    student: Performer,
    proteins: Sequence[str],
    lengths: Sequence[int] = LENGTHS,
    seed: int = 0,
    limit: float = math.inf,
    note: Callable[[str], None] = lambda text: None,
) -> Report:
    """Everything by which the two models differ.

    Args:
        teacher, student: on one device; their shapes are equal.
        proteins: at least two, in one-letter code.
        lengths: tokens at which the forward pass is timed; () for none.
        seed: of the masks.
        limit: seconds of a pass of the teacher, see `timed`.
        note: called with what is measured next.

    Returns:
        "errors": for all proteins and for ranges of lengths, the number of proteins and the mean relative error of
        each layer (root of `relative`); "nearby": the same without far keys; "masked" (or "next" of causal models),
        with accuracy and perplexity of both, for a language-model head; "neighbours": the fraction of proteins whose
        nearest other protein is the same, and that of the ten nearest; "contacts", with a contact head: the fraction
        of the student's L most probable long-range contacts that are among the teacher's; "seconds": by length;
        "not_timed": why longer proteins were not, or None.

    Raises:
        UserError: for fewer than two proteins, or models of other shapes.
    """
    check_pair(teacher, student)
    if len(proteins) < 2:
        raise UserError("at least two proteins are needed to compare teacher and student")
    tokens = [encode(protein) for protein in proteins]
    with evaluating(teacher), evaluating(student):
        note("representations")
        errors, means = _errors(teacher, student, tokens)
        report: Report = {"proteins": len(proteins), "errors": _by_length(errors, tokens)}
        report["neighbours"] = _neighbours(*means)
        if isinstance(student.config.kind, Hybrid):
            note("representations without far keys")
            with near_keys_only(student):
                report["nearby"] = _by_length(_errors(teacher, student, tokens)[0], tokens)
        if teacher.head is not None:
            note("residues")
            report["next" if teacher.config.causal else "masked"] = _residues(teacher, student, tokens, seed)
        if teacher.config.predicts_contacts and student.config.predicts_contacts:
            note("contacts")
            report["contacts"] = _contacts(teacher, student, tokens)
        report["seconds"], report["not_timed"] = timed(teacher, student, lengths, limit, note)
    return report


def check_pair(teacher: Performer, student: Performer) -> None:
    """Raises a UserError for models of which one cannot have been made from the other."""
    settings, own = teacher.config.to_dict(), student.config.to_dict()
    if odd := [name for name in settings if name not in OF_ATTENTION and settings[name] != own[name]]:
        raise UserError(f"teacher and student differ in model.{odd[0]}: one was not made from the other")


def _row(model: Performer, tokens: np.ndarray) -> Tensor:
    return torch.from_numpy(framed(model, tokens)).long().to(model.embedding.weight.device)[None]


def _errors(
    teacher: Performer, student: Performer, tokens: Sequence[np.ndarray]
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Relative errors (n, layers), and mean representations (n, D) of both models."""
    errors, means = [], ([], [])
    for one in tokens:
        row = _row(teacher, one)
        layers = range(len(teacher.blocks) + 1)
        taught, learned = (model.representations(row, layers) for model in (teacher, student))
        errors.append(hidden_errors(taught, learned, torch.ones_like(row, dtype=torch.bool))[:, 0].sqrt())
        for kept, found in zip(means, (taught, learned), strict=True):
            kept.append(found[layers[-1]][0, 1:-1].mean(0).float().cpu().numpy())
    return torch.stack(errors).float().cpu().numpy(), (np.stack(means[0]), np.stack(means[1]))


def _by_length(errors: np.ndarray, tokens: Sequence[np.ndarray]) -> dict[str, Any]:
    sizes = np.array([len(one) for one in tokens])
    ranges = {"all": sizes >= 0}
    low = 0
    for edge in EDGES:
        ranges[f"{low + 1:,} to {edge:,}"] = (sizes > low) & (sizes <= edge)
        low = edge
    ranges[f"over {low:,}"] = sizes > low
    return {
        name: {"proteins": int(chosen.sum()), "layers": errors[chosen].mean(0).tolist()}
        for name, chosen in ranges.items()
        if chosen.any()
    }


def _neighbours(taught: np.ndarray, learned: np.ndarray) -> dict[str, float]:
    count = min(_NEIGHBOURS, len(taught) - 1)
    nearest = []
    for means in (taught, learned):
        centred = means - means.mean(0)
        unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        similar = unit @ unit.T
        np.fill_diagonal(similar, -np.inf)
        nearest.append(np.argsort(-similar, 1)[:, :count])
    shared = [len(np.intersect1d(one, other)) for one, other in zip(*nearest, strict=True)]
    return {"first": float((nearest[0][:, 0] == nearest[1][:, 0]).mean()), "ten": float(np.mean(shared) / count)}


def _residues(teacher: Performer, student: Performer, tokens: Sequence[np.ndarray], seed: int) -> Report:
    """Accuracy and perplexity of both models at the same masked, or at all next, residues."""
    generator = np.random.default_rng(seed)
    right, loss, count = np.zeros(2), np.zeros(2), 0
    for one in tokens:
        row, causal = _row(teacher, one), teacher.config.causal
        target = row.clone()
        if causal:
            where = torch.arange(len(one), device=row.device)
            target = row[:, 1:]
        else:
            some = generator.random(len(one)) < _MASKED
            where = torch.from_numpy(1 + np.flatnonzero(some)).to(row.device)
            row[:, where] = INDEX["<mask>"]
        for number, model in enumerate((teacher, student)):
            logits = model(row)[0, where].float()
            right[number] += int((logits.argmax(-1) == target[0, where]).sum())
            loss[number] += float(torch.nn.functional.cross_entropy(logits, target[0, where], reduction="sum"))
        count += len(where)
    scores = {"accuracy": right / max(1, count), "perplexity": np.exp(loss / max(1, count))}
    return {"residues": count, **{name: values.tolist() for name, values in scores.items()}}


def _contacts(teacher: Performer, student: Performer, tokens: Sequence[np.ndarray]) -> Report:
    found = []
    for one in tokens:
        if not 2 * _APART <= len(one) <= _CONTACTS_MOST:
            continue
        pairs = np.triu_indices(len(one), _APART)
        best = [set(np.argsort(-head_contacts(model, one)[pairs])[: len(one)]) for model in (teacher, student)]
        found.append(len(best[0] & best[1]) / len(best[0]))
    return {"proteins": len(found), "shared": float(np.mean(found)) if found else None}
