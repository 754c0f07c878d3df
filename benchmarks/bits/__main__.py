"""Kinds of attention on text and on pictures, in bits per byte (small versions of the paper's PG-19 and ImageNet64).

    python -m benchmarks.bits train text data/prose.h5            # resumes if interrupted
    python -m benchmarks.bits report text                         # also while training is under way
    python -m benchmarks.bits time text
    python -m benchmarks.bits train text_short data/prose.h5
    python -m benchmarks.bits report text_short                   # text_long likewise: five times as many steps
    python -m benchmarks.bits train images data/pictures.h5
    python -m benchmarks.bits report images
    python -m benchmarks.bits draw images data/pictures.h5

train: one run of `python -m protlm.train +experiment=NAME` for each seed and kind of attention of
benchmarks/bits/studies.py, in runs/bits/STUDY/KIND/SEED. More steps (--steps) than before start the runs again, since
the schedule changes; set them aside with --redo, or use another --work.

report: the table, docs/results/STUDY.csv, STUDY_curves.csv and docs/figures/STUDY.png.

time: processor seconds of a training step of each kind, docs/results/STUDY_time.csv.

draw: completions of held-out pictures by each finished run, docs/figures/STUDY_completions.png; not by Reformer, which
cannot be computed token by token.
"""

import argparse
from pathlib import Path

from benchmarks.bits.completions import draw_completions
from benchmarks.bits.report import report
from benchmarks.bits.studies import STUDIES, Study
from benchmarks.bits.time import measure_time
from benchmarks.measure import numbers, positive, program
from benchmarks.quality.recipe import Run, check_models, compared
from benchmarks.quality.runs import run_all
from benchmarks.tables import check_folder
from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.sequence.alphabets import ALPHABETS

WORK = Path("runs/bits")


def train(options: argparse.Namespace) -> int:
    """Trains the runs that are not done; returns the exit code."""
    study = STUDIES[options.study]
    if Corpus(options.corpus).alphabet != ALPHABETS["bytes"]:
        raise UserError(f"{options.corpus}: expected a corpus of bytes; prepare it with --alphabet bytes")
    kinds = chosen(study, options.kinds)
    more = [*([f"trainer.max_steps={options.steps}"] if options.steps else []), *options.overrides]
    runs = [
        Run(
            f"{kind}/{seed}",
            options.corpus,
            (f"+experiment={study.experiment}", *study.options, *study.kinds[kind].options, *more, f"seed={seed}"),
        )
        for seed in dict.fromkeys(options.seeds)
        for kind in kinds
    ]
    work = options.work / options.study
    check_folder(work)
    check_models(runs)
    return run_all(runs, compared(runs, work, options.redo, options.ignore), options.jobs)


def chosen(study: Study, names: str | None) -> list[str]:
    """The kinds of a study with names separated by commas, by default the usual ones."""
    if names is None:
        return [name for name, kind in study.kinds.items() if kind.usual]
    kinds = list(dict.fromkeys(names.split(",")))
    if odd := [name for name in kinds if name not in study.kinds]:
        raise UserError(f"--kinds {', '.join(odd)}: expected some of {','.join(study.kinds)}")
    return kinds


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.bits"
    )
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("train", help="all runs of a study")
    part.add_argument("study", choices=STUDIES)
    part.add_argument("corpus", type=Path, help="corpus of bytes")
    part.add_argument("--kinds", help="separated by commas; default: the usual ones")
    part.add_argument("--seeds", type=numbers, default=[1], help="separated by commas")
    part.add_argument("--steps", type=positive, help="steps of each run; default: those of the experiment")
    part.add_argument("--jobs", type=positive, default=1, help="number of runs at a time, which share the threads")
    part.add_argument("--overrides", nargs="+", default=[], help="additional options of protlm.train, for all runs")
    part.add_argument("--redo", action="store_true", help="set aside and repeat runs made with other options")
    part.add_argument(
        "--ignore", nargs="+", default=[], metavar="OPTION", help="options that may differ from earlier runs"
    )
    part = parts.add_parser("report", help="table, CSV files and figure of the runs")
    part.add_argument("study", choices=STUDIES)
    part.add_argument("--csv", type=Path, help="default: docs/results/STUDY.csv")
    part.add_argument("--figure", type=Path, help="default: docs/figures/STUDY.png")
    part = parts.add_parser("time", help="processor seconds of a training step")
    part.add_argument("study", choices=STUDIES)
    part.add_argument("--kinds", help="separated by commas; default: the usual ones")
    part.add_argument("--repeats", type=positive, default=3, help="timed steps, after one warm-up step")
    part.add_argument("--csv", type=Path, help="default: docs/results/STUDY_time.csv")
    part = parts.add_parser("draw", help="completions of held-out pictures by the finished runs")
    part.add_argument("study", choices=[name for name, study in STUDIES.items() if study.unit == "dimension"])
    part.add_argument("corpus", type=Path, help="corpus of the pictures")
    part.add_argument("--pictures", type=positive, default=2, help="of each held-out split, test and ood")
    part.add_argument("--figure", type=Path, help="default: docs/figures/STUDY_completions.png")
    for part in parts.choices.values():
        part.add_argument("--work", type=Path, default=WORK, help="folder of the runs")
    return parser.parse_args()


def main() -> int:
    """The command; returns the exit code."""
    options = parsed()
    if options.part == "train":
        return train(options)
    if options.part == "report":
        table = options.csv or Path(f"docs/results/{options.study}.csv")
        figure = options.figure or Path(f"docs/figures/{options.study}.png")
        report(STUDIES[options.study], options.work / options.study, table, figure)
        return 0
    if options.part == "time":
        study = STUDIES[options.study]
        table = options.csv or Path(f"docs/results/{options.study}_time.csv")
        measure_time(study, chosen(study, options.kinds), options.repeats, table)
        return 0
    figure = options.figure or Path(f"docs/figures/{options.study}_completions.png")
    draw_completions(options.corpus, options.work / options.study, options.pictures, figure)
    return 0


if __name__ == "__main__":
    program(main)
