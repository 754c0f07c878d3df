"""A teacher with exact attention, in a folder, and proteins for its students."""

from pathlib import Path

import numpy as np
import pytest
import torch

from protlm.checkpoint import export
from protlm.performer import Performer
from protlm.sequence.alphabet import STANDARD


@pytest.fixture
def teacher_folder(tiny_model: Performer, tmp_path: Path) -> Path:
    """`tiny_model` with sharp exact attention."""
    tiny_model.switch_attention("exact")
    with torch.no_grad():
        for block in tiny_model.blocks:
            block.attention.qkv.weight.mul_(20)
    export(tiny_model, tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def proteins() -> list[tuple[str, str]]:
    """Random ones, of 20 to 80 residues."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(20, 80, 120)
    return [(f"P{i}", "".join(draw.choice(list(STANDARD), size))) for i, size in enumerate(sizes)]
