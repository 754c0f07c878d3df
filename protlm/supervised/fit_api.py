"""The Python API of supervised learning: what `protlm.fit` does, and the command `protlm fit` with it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from protlm import checkpoint
from protlm.errors import UserError, no_model
from protlm.inference.engine import check_of_proteins
from protlm.performer import Performer
from protlm.progress import Progress
from protlm.supervised.fit import Fitted, fit_probe
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.kinship import parent_of
from protlm.supervised.labels import LabelledSet, read_labels
from protlm.supervised.predictor import Predictor

PROBE = "probe"
METHODS = (PROBE, "head", "lora", "full")


def fit(
    labels: Any,
    output: str | Path | None = None,
    model: Any = None,
    method: str = PROBE,
    sequences: str | Path | None = None,
    mask: str | Path | None = None,
    target: str | Sequence[str] = (),
    split: str | None = None,
    kind: str | Mapping[str, str] | None = None,
    classes: Mapping[str, str] | None = None,
    copy_base: bool = False,
    epochs: int | None = None,
    learning_rate: float | None = None,
    settings: Sequence[str] = (),
    **options: Any,
) -> Predictor:
    """Learns to predict labels of proteins or residues from a language model, and evaluates it.

    Args:
        labels: a table (path or DataFrame), or FASTA of labels per residue; see `read_labels`.
        output: folder to write; must not exist.
        model: a model of `protlm.load`, or the path of one.
        method: "probe", linear on frozen embeddings; "head", a small network on a frozen model; "lora", adapters in
            the model, too; or "full", all of its weights. All but the probe take the path of a model.
        sequences, mask, split, classes: see `read_labels`.
        target: one or more columns with labels.
        kind: "classification", "multilabel", "regression" or "ranking", or target -> kind, instead of the kind found.
        copy_base: store the base model in `output`.
        epochs, learning_rate: of training, for all methods but the probe; training stops early.
        settings: more options of `python -m protlm.train +experiment=finetune`, such as "task.rank=4".
        **options: see `FitOptions`.

    Returns:
        A `Predictor`; its `report` has the evaluation.

    Raises:
        UserError: for arguments or labels that cannot be used.
    """
    check_method(method)
    check_model(model)
    if output is not None:
        checkpoint.check_absent(Path(output))
    targets = [target] if isinstance(target, str) else list(target)
    kinds = {"": kind} if isinstance(kind, str) else kind
    try:
        chosen = FitOptions(**options)
    except TypeError as error:
        raise UserError(f"fit: {str(error).removeprefix('FitOptions.__init__() ')}") from error
    if method != PROBE:
        from protlm.supervised.tuning.run import check_settings, options_of, tuned

        check_settings(settings)
        if not isinstance(model, str | Path):
            raise UserError(f"model: method {method} takes the path of a model, got {type(model).__name__}", "model")
        given = options_of((labels, sequences, mask, targets, split, kinds, classes), chosen, model)
        given |= {"callbacks.results.copy_base": copy_base}
        training = {"trainer.max_epochs": epochs, "optimizer.lr": learning_rate}
        given |= {name: value for name, value in training.items() if value is not None}
        return tuned(output, method, given, settings)
    if settings or epochs or learning_rate:
        raise UserError("epochs, learning_rate, settings: a probe has no such options", "method")
    labelled = read_labels(labels, sequences, mask, targets, split, kinds, classes)
    network, base = base_model(model)
    predictor, _ = fitted(labelled, network, base, chosen)
    if output is not None:
        predictor.save(output, copy_base)
    return predictor


def check_method(method: str) -> None:
    """Raises a UserError for an unknown method."""
    if method not in METHODS:
        raise UserError(f"method {method!r}: expected one of {', '.join(METHODS)}", "method")


def check_model(model: Any) -> None:
    """Raises a UserError without a model."""
    if model is None:
        raise no_model("model, a model of protlm.load or the path of one")


def base_model(model: Any) -> tuple[Performer, dict[str, Any]]:
    """The network of `fit`, and where it comes from: a path (None for an object), and its fingerprint."""
    check_model(model)
    path: str | None = None
    if isinstance(model, str | Path):
        path = base_path(model)
        model = checkpoint.load(path)
    if not isinstance(model, Performer):
        raise UserError(f"model: expected a model or the path of one, got {type(model).__name__}", "model")
    check_of_proteins(model, "fit")
    return model, {"path": path, "fingerprint": checkpoint.fingerprint(model)}


def base_path(model: str | Path) -> str:
    """How the folder of a fitted model names its base model: the absolute path."""
    return str(Path(model).resolve())


def fitted(
    labelled: LabelledSet,
    network: Performer,
    base: dict[str, Any],
    options: FitOptions,
    progress: Callable[[str], Progress] | None = None,
) -> tuple[Predictor, Fitted]:
    """Fits and evaluates; see `fit_probe`."""
    found = fit_probe(labelled, network, options, progress)
    return Predictor(network, [one.head for one in found.learned], report_of(found, base), base), found


def report_of(found: Fitted, base: dict[str, Any], method: str = PROBE) -> dict[str, Any]:
    """The content of report.json."""
    labelled, targets = found.labelled, []
    for one, evaluation in zip(found.learned, found.evaluations, strict=True):
        about = evaluation.to_dict()
        about |= {"described": evaluation.target.described, "features": list(one.head.blocks)}
        about |= {"strengths": [strength for _, strength in one.sets], "temperature": one.head.temperature}
        if evaluation.points is not None:
            about["points"] = evaluation.points.tolist()
        targets.append(about)
    leakage = found.leakage
    return {
        "method": method,
        "base": base,
        "data": {
            "source": Path(labelled.source).name,
            "proteins": len(labelled.ids),
            "fingerprint": labelled.fingerprint,
            "parent": parent_of(labelled.sequences),
            "notes": labelled.notes,
        },
        "split": {
            "described": found.partition.described,
            "rounds": len(found.partition.rounds),
            "leakage": leakage and {**leakage.__dict__, "described": leakage.described},
        },
        "targets": targets,
        "warnings": [*found.warnings, *(line for one in found.evaluations for line in one.worse)],
    }
