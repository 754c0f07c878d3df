"""Distillation as `protlm linearise` does it: a run of training in a folder beside the output, resumed if it is there
already, and then only the student.
"""

import heapq
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

from protlm.checkpoint import check_absent, export, load, read_lightning
from protlm.distillation.card import card_of, described_heads
from protlm.distillation.choice import PROTEINS, Chosen, block_of, chosen_heads
from protlm.distillation.options import LineariseOptions
from protlm.distillation.stages import Stages
from protlm.distillation.student import student_of
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.performer import Performer
from protlm.sequence.fasta import FastaFile
from protlm.sequence.fasta_files import checked_inputs
from protlm.strict_json import dumps
from protlm.training.checkpoints import BEST, LAST
from protlm.training.composed import check_composed
from protlm.training.unfinished import complete_run, override, run_folder

KEPT = ("config.yaml", "run.json", "metrics", "results.json")
"""Files and folders of the run that are moved to `training/` in the folder of the student."""
CHOICE = "heads.json"
TEACHER = "training/teacher.json"
"""In the folder of the student: path and fingerprint of its teacher."""
_LONGEST = 1022  # residues of the proteins on which heads are chosen


def linearise(
    teacher: str | Path,
    output: str | Path,
    fasta: str | Path | Sequence[str | Path],
    settings: Sequence[str] = (),
    **options: Any,
) -> None:
    """Trains a student and writes its model folder, with `training/` and the students of earlier stages in `stages/`.

    An interrupted run is resumed, if the options are the same. What is printed goes to standard error.

    Args:
        teacher: model folder or checkpoint with exact attention.
        output: must not exist.
        fasta: one or more files with proteins to train on.
        settings: more options of `python -m protlm.train +experiment=linearise`, as on its command line.
        **options: fields of `LineariseOptions`.

    Raises:
        UserError: for options or proteins that cannot be used; for an unfinished run with others.
    """
    output, how = Path(output), LineariseOptions(**options)
    check_absent(output)
    student = student_of(str(teacher), **how.of_student)
    try:
        student.use_backend(how.attention_backend)
    except ValueError as error:
        raise UserError(str(error), "attention_backend") from error
    files = [path.resolve() for path in checked_inputs(fasta)]
    given = {"model.teacher": Path(teacher).resolve(), "data.fasta": [str(path) for path in files], **how.named}
    given["data.causal"] = student.config.causal
    check_composed(_overrides(given, settings))
    if how.budget:
        heads = _remembered(output, teacher, student, files, how)
        given |= {f"model.{name}": chosen for name, chosen in heads._asdict().items()}
    overrides = _overrides(given, settings)
    with complete_run(output, "distillation", overrides, {}) as folder:
        path = folder / "checkpoints" / (LAST if how.tune else BEST)  # tuning leaves the teacher on purpose
        path = path if path.exists() else path.with_name(LAST)
        made, best = folder / "student", load(path)
        shutil.rmtree(made, ignore_errors=True)
        export(best, made)
        content = read_lightning(path)
        step = content["global_step"]
        stage = Stages.of(how.steps, how.match, how.tune).place(step - 1)[0]
        chosen = f"{'after the last stage' if how.tune else 'lowest error on validation'}: step {step:,} ({stage})"
        print(chosen, file=sys.stderr, flush=True)
        card = card_of(best, teacher, folder, chosen, how)
        (made / "README.md").write_text(card, encoding="utf-8")
        (made / "training").mkdir()
        about = {"path": str(Path(teacher).resolve()), "fingerprint": content["teacher"]}
        (made / TEACHER).write_text(dumps(about, indent=2) + "\n")
        for name in KEPT:
            if (folder / name).exists():
                shutil.move(folder / name, made / "training" / name)
        if (folder / "stages").exists():
            shutil.move(folder / "stages", made / "stages")
        made.rename(output)


def _overrides(options: Mapping[str, Any], settings: Sequence[str]) -> list[str]:
    return ["+experiment=linearise", *(override(name, value) for name, value in options.items()), *settings]


def sampled(files: Sequence[Path], count: int, least: int = 1, most: int = sys.maxsize) -> list[str]:
    """Proteins of FASTA files with a length in these bounds: those with the smallest hashes of their residues."""
    proteins = (record.sequence for path in files for record in FastaFile(path))
    chosen = (one for one in proteins if least <= len(one) <= most)
    return heapq.nsmallest(count, dict.fromkeys(chosen), key=lambda one: (xxh3_64_intdigest(one.encode()), one))


def _remembered(
    output: Path, teacher: str | Path, student: Performer, files: Sequence[Path], how: LineariseOptions
) -> Chosen:
    """Chooses heads without learned features, or reads what an interrupted command has chosen."""
    how.budget.counts(student.config.layers, student.config.heads)
    path = run_folder(output) / CHOICE
    about = {**asdict(how.budget), "by": how.choose_by, **how.of_student, "files": [str(file) for file in files]}
    try:
        stored = json.loads(path.read_text())
        if {name: stored[name] for name in about} == about:
            return Chosen(**stored["chosen"])
    except (OSError, ValueError, KeyError):
        pass
    least = 2 * block_of(student)
    proteins = sampled(files, PROTEINS, least, _LONGEST)
    if not proteins:
        raise UserError(f"no protein of {least} to {_LONGEST:,} residues to choose heads on")
    print(f"choosing heads, on {len(proteins)} proteins", file=sys.stderr, flush=True)
    chosen = chosen_heads(load(teacher).eval(), student, proteins, how.budget, how.choose_by)
    for name, heads in chosen._asdict().items():
        if any(heads):
            print(
                f"{name.replace('_', ' ')}: {described_heads(heads, student.config.heads)}", file=sys.stderr, flush=True
            )
    path.parent.mkdir(exist_ok=True)
    with atomic_output(path) as partial:
        partial.write_text(dumps({**about, "chosen": chosen._asdict()}) + "\n")
    return chosen
