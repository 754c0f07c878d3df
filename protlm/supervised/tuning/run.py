"""Fine-tuning as `protlm fit` and `protlm.fit` do it: a run of training in a folder beside the output, resumed if it is
there already, and then only the fitted model.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from protlm.supervised.fit_api import base_path
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.labels import write_labels
from protlm.supervised.predictor import Predictor
from protlm.supervised.predictor_folder import load_predictor
from protlm.training.unfinished import complete_run, override

KEPT = ("config.yaml", "run.json", "metrics")
"""Files and folders of the run that are moved to `training/` in the folder of the fitted model."""


def fine_tune(output: Path, method: str, options: Mapping[str, Any], settings: Sequence[str] = ()) -> None:
    """Fine-tunes, tests and writes the folder `output`; what is printed goes to standard error.

    An interrupted run is resumed, if the options are the same.

    Args:
        output: must not exist.
        method: see `FineTuningTask`.
        options: name of an option of `python -m protlm.train +experiment=finetune` -> value.
        settings: more of them, as on its command line.

    Raises:
        UserError: for options or labels that cannot be used; for an unfinished run with others.
    """
    overrides = overrides_of(method, options, settings)
    with complete_run(output, "fit", overrides, {"callbacks.results.table": False}) as folder:
        training = folder / "model" / "training"
        training.mkdir()
        for name in KEPT:
            if (folder / name).exists():
                shutil.move(folder / name, training / name)
        (folder / "model").rename(output)


def check_settings(settings: Sequence[str]) -> None:
    """Raises a UserError for settings, as for `fine_tune`, that are wrong whatever the labels and the model are."""
    from protlm.training.composed import check_composed

    check_composed(overrides_of("head", {"data.labels": "labels"}, settings))


def overrides_of(method: str, options: Mapping[str, Any], settings: Sequence[str]) -> list[str]:
    """The command line of a run, without how it ends; arguments as for `fine_tune`."""
    given = {"task.method": method, **options}
    return ["+experiment=finetune", *(override(name, value) for name, value in given.items()), *settings]


def options_of(
    read: Sequence[Any],
    options: FitOptions,
    model: str | Path,
    device: str = "auto",
) -> dict[str, Any]:
    """Options of `python -m protlm.train +experiment=finetune` by name.

    Args:
        read: arguments of `read_labels`.
        options: of the split; `precision` bfloat16 is mixed precision.
        model: path of the base model.
        device: as for `protlm.load`.
    """
    names = ("labels", "sequences", "mask", "target", "split", "kind", "classes")
    found: dict[str, Any] = {f"data.{name}": value for name, value in zip(names, read, strict=True)}
    found |= {name: None for name in ("data.target", "data.kind", "data.classes") if not found[name]}
    for name in ("labels", "sequences", "mask"):  # a run may be resumed from elsewhere
        if isinstance(path := found[f"data.{name}"], str | Path):
            found[f"data.{name}"] = Path(path).resolve()
    if isinstance(kinds := found["data.kind"], Mapping) and list(kinds) == [""]:
        found["data.kind"] = kinds[""]
    for name in ("split_by", "folds", "identity", "layers", "relatives", "threads"):
        found[f"data.{name}"] = getattr(options, name)
    found |= {"data.clusters": options.clusters and Path(options.clusters).resolve(), "seed": options.seed}
    found["model.path"] = base_path(model)
    kind, _, number = device.partition(":")
    found |= {"trainer.accelerator": kind, "trainer.devices": [int(number)] if number.isdigit() else 1}
    found["trainer.precision"] = "bf16-mixed" if options.precision == "bfloat16" else "32-true"
    return found


def tuned(output: str | Path | None, method: str, options: dict[str, Any], settings: Sequence[str] = ()) -> Predictor:
    """`fine_tune`, for Python: labels may be a DataFrame, and without `output` no files are kept."""
    with TemporaryDirectory() as temporary:
        labels = options["data.labels"]
        if not isinstance(labels, Path):
            options["data.labels"] = Path(temporary) / "labels.csv"
            write_labels(labels, options["data.labels"])
        folder = Path(temporary) / "fitted" if output is None else Path(output)
        fine_tune(folder, method, options, settings)
        predictor = load_predictor(folder)
        if output is None and Path(temporary).resolve() in Path(predictor.base["path"]).parents:
            predictor.base["path"] = None  # it has to be copied
        return predictor
