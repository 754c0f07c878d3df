"""The model card of a student."""

import json
from collections.abc import Sequence
from pathlib import Path

from protlm import __version__
from protlm.distillation.options import LineariseOptions
from protlm.distillation.stages import Stages
from protlm.performer import Performer
from protlm.performer.hybrid import Hybrid


def described_heads(heads: Sequence[Sequence[int]], total: int) -> str:
    """Heads by layer, both numbered from 1, for users.

    Args:
        heads: by layer, numbered from 0.
        total: number of heads of a layer.

    >>> described_heads([[0], [], [0, 1, 2], [1, 2]], 3)
    '6; layer 1: 1; layer 3: all; layer 4: 2, 3'
    """
    named = ["all" if len(layer) == total else ", ".join(str(head + 1) for head in layer) for layer in heads]
    return "; ".join([str(sum(map(len, heads))), *(f"layer {i}: {one}" for i, one in enumerate(named, 1) if one)])


def _stages(how: LineariseOptions) -> str:
    stages = Stages.of(how.steps, how.match, how.tune)._asdict().items()
    by = " by low-rank adapters, merged" if how.tune_method == "lora" else ""
    return ", ".join(f"{name} {count:,}{by if name == 'tune' else ''}" for name, count in stages if count)


def card_of(student: Performer, teacher: str | Path, run: Path, chosen: str, how: LineariseOptions) -> str:
    """README.md of a student.

    Args:
        student: that is written.
        teacher: path of the teacher.
        run: folder of the run, with results.json if there was a test, of the student with the lowest error.
        chosen: why this student and of which step, for users.
        how: the options of the run.
    """
    kind, config = student.config.kind, student.config
    assert isinstance(kind, Hybrid)
    lines = [
        f"A protein language model of {config.layers} layers and width {config.width} with linear attention, made by "
        f"`protlm linearise` of protlm {__version__} from {Path(teacher).name}.",
        "",
        f"- attention: exact within blocks of {kind.block} and their neighbours, {config.num_features} learned "
        f"features ({kind.map}) beyond",
        f"- exact heads: {described_heads(kind.exact_heads, config.heads)}",
        f"- heads without features, which see near residues only: {described_heads(kind.window_heads, config.heads)}",
        f"- training: {how.steps:,} steps ({_stages(how)})",
        f"- chosen: {chosen}",
    ]
    results = run / "results.json"
    if results.exists() and not how.tune:
        test = json.loads(results.read_text()).get("test", {})
        layers = [value for name, value in test.items() if name != "error"]
        lines += [
            "",
            "Distance from the teacher's representations on test proteins, divided by the distance of their mean:",
            "",
            "| layer | " + " | ".join(str(number) for number in range(1, len(layers) + 1)) + " |",
            "|---|" + "---|" * len(layers),
            "| error | " + " | ".join(f"{value:.3f}" for value in layers) + " |",
        ]
    return "\n".join(lines) + "\n"
