"""The gap of a student at each stage of its training, as a file beside the model and as tables."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from protlm.checkpoint import fingerprint, load
from protlm.distillation.gap import Report, check_pair, measure_gap
from protlm.distillation.run import TEACHER
from protlm.distillation.student import student_of
from protlm.distillation.timing import LENGTHS, MINUTE
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.performer import Performer
from protlm.performer.hybrid import Hybrid
from protlm.strict_json import dumps
from protlm.tables import aligned

GAP = "gap.json"
"""In the folder of the student."""
UNTRAINED, FINAL = "untrained", "student"


def check_student(
    teacher: str | Path,
    student: str | Path,
    proteins: Sequence[str],
    lengths: Sequence[int] | None = None,
    place: Callable[[Performer], Performer] = lambda model: model,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Report]:
    """Measures the student, those of its earlier stages and an untrained one; writes GAP into its folder.

    Args:
        teacher: model folder or checkpoint.
        student: model folder of `linearise`, or any other model with the teacher's shapes.
        proteins: that were not trained on, in one-letter code.
        lengths: tokens at which the last student is timed; None for `LENGTHS`, as far as the teacher takes less than a
            minute.
        place: moves a model to the device on which to compare.
        note: called with what is measured next.

    Returns:
        name of a stage -> report of `measure_gap`.
    """
    timing: Any = {"lengths": LENGTHS, "limit": MINUTE} if lengths is None else {"lengths": lengths}
    taught, reports = place(load(teacher)), {}
    check_pair(taught, load(student))
    _check_teacher(taught, Path(student) / TEACHER)
    for name, model in _students(teacher, Path(student)):
        named = partial(_prefixed, note, name)
        times = {} if name == FINAL else {"lengths": ()}
        reports[name] = measure_gap(taught, place(model), proteins, note=named, **(timing | times))
    if Path(student).is_dir():
        with atomic_output(Path(student) / GAP) as file:
            file.write_text(dumps(reports, indent=2) + "\n")
    return reports


def _check_teacher(teacher: Performer, path: Path) -> None:
    """Raises a UserError if the student was made from another teacher, as far as its folder says."""
    if not path.exists():
        return
    made = json.loads(path.read_text())
    if made["fingerprint"] != fingerprint(teacher):
        raise UserError(f"{path}: the student was made from another teacher, {made['path']}; give that one")


def _prefixed(note: Callable[[str], None], name: str, text: str) -> None:
    note(f"{name}: {text}")


def _students(teacher: str | Path, student: Path) -> Iterator[tuple[str, Performer]]:
    last = load(student)
    kind = last.config.kind
    if isinstance(kind, Hybrid):
        heads = kind.exact_heads, kind.window_heads
        yield UNTRAINED, student_of(str(teacher), kind.map, kind.block, last.config.num_features, *heads)
    stages = student / "stages"
    for folder in sorted(stages.iterdir(), key=lambda path: path.stat().st_mtime) if stages.is_dir() else ():
        yield folder.name, load(folder)
    yield FINAL, last


def tables_of(reports: dict[str, Report]) -> str:
    """Everything that was measured, as aligned tables."""
    final = reports[FINAL]
    layers = len(final["errors"]["all"]["layers"])
    header = ["relative error by layer", *map(str, range(1, layers + 1))]
    rows = [[name, *_decimals(report["errors"]["all"]["layers"])] for name, report in reports.items()]
    if "nearby" in final:
        rows.append([f"{FINAL}, near keys only", *_decimals(final["nearby"]["all"]["layers"])])
    parts = [aligned(header, rows)]
    ranges = {name: f"{name} residues ({one['proteins']})" for name, one in final["errors"].items() if name != "all"}
    by_length = [
        [name, *(f"{report['errors'][one]['layers'][-1]:.3f}" for one in ranges)] for name, report in reports.items()
    ]
    parts.append(aligned(["last layer by length", *ranges.values()], by_length))
    columns = ["", "same nearest protein", "shared of ten nearest"]
    more = [
        [name, *(f"{report['neighbours'][one]:.1%}" for one in ("first", "ten"))] for name, report in reports.items()
    ]
    for key, what in (("masked", "masked residues"), ("next", "next residues")):
        if key in final:
            columns += [f"accuracy at {what}", "perplexity"]
            for row, report in zip(more, reports.values(), strict=True):
                row += [f"{report[key]['accuracy'][1]:.2%}", f"{report[key]['perplexity'][1]:.3f}"]
            taught = [f"{final[key]['accuracy'][0]:.2%}", f"{final[key]['perplexity'][0]:.3f}"]
            more.insert(0, ["teacher", "", "", *taught])
    if final.get("contacts", {}).get("proteins"):
        columns.append("shared contacts")
        for row in more:
            shared = reports[row[0]]["contacts"]["shared"] if row[0] in reports else None
            row.append("" if shared is None else f"{shared:.1%}")
    parts.append(aligned(columns, more))
    if final["seconds"]:
        times = [
            [f"{int(length):,}", f"{before:.2f}", f"{after:.2f}", f"{before / after:.1f}"]
            for length, (before, after) in final["seconds"].items()
        ]
        parts.append(aligned(["tokens", "teacher, seconds", "student, seconds", "times as fast"], times))
    if final["not_timed"]:
        parts.append(final["not_timed"])
    return "\n\n".join(parts)


def _decimals(values: Sequence[Any]) -> list[str]:
    return [f"{value:.3f}" for value in values]


def lengths_of(text: str) -> tuple[int, ...]:
    """Numbers of tokens from a list such as "1024,8192"; "" for none.

    Raises:
        UserError: for anything else.
    """
    try:
        lengths = tuple(int(one) for one in text.split(",") if one.strip())
    except ValueError:
        lengths = (0,)
    if any(length < 1 for length in lengths):
        raise UserError(f"lengths {text!r}: expected numbers of tokens, such as 1024,8192", "lengths")
    return lengths
