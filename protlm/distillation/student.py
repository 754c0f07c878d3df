"""The student: the teacher's weights with another kind of attention."""

from collections.abc import Sequence

from protlm.checkpoint import load
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.performer.hybrid import Hybrid


def student_of(
    teacher: str,
    map: str = "positive",  # noqa: A002
    block: int = 64,
    num_features: int = 64,
    exact_heads: Sequence[Sequence[int]] = (),
    window_heads: Sequence[Sequence[int]] = (),
) -> Performer:
    """A model with the teacher's weights and untrained `Hybrid` attention.

    Args:
        teacher: model folder or training checkpoint, with exact attention.
        map, block, exact_heads, window_heads: see `Hybrid`.
        num_features: M, features of each head.

    Raises:
        UserError: for a path that is not a model, attention that is not exact, or options out of range.
    """
    student = load(teacher)
    check_teacher(student, teacher)
    for name, heads in (("exact_heads", exact_heads), ("window_heads", window_heads)):
        if len(heads) > len(student.blocks):
            raise UserError(f"{name}: has heads of {len(heads)} layers; the model has {len(student.blocks)}")
    exact, near = (tuple(tuple(layer) for layer in heads) for heads in (exact_heads, window_heads))
    try:
        student.switch_attention(Hybrid(map, block, exact, near), num_features)
    except ValueError as error:
        raise UserError(str(error)) from error
    return student


def check_teacher(teacher: Performer, path: str) -> None:
    """Raises a UserError for a model whose attention is not exact."""
    config = teacher.config
    if config.attention_name != "exact" or config.local_heads:
        local = " with local heads" if config.local_heads else ""
        raise UserError(
            f"{path}: has {config.attention_label} attention{local}; expected a teacher with exact attention"
        )
