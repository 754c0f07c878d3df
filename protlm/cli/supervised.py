"""The command fit."""

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from protlm.cli.console import (
    Backend,
    Device,
    Model,
    Packed,
    Precision,
    announced,
    required,
    say,
    stages,
    warn,
)
from protlm.cli.outputs import FOLDER, check_outputs
from protlm.errors import UserError, counted
from protlm.progress import reporting_to


def fit(
    labels: Annotated[
        Path,
        Argument(help="Table (.csv, .tsv, .parquet) with sequences and labels, or FASTA with a label per residue."),
    ],
    output: Annotated[Path, Option("--output", "-o", help="Folder to write: the fitted model and its report.")],
    model: Model = None,
    method: Annotated[
        str,
        Option(
            help="probe: linear, on embeddings of the frozen model, in seconds; head: a small network on it; lora: "
            "adapters in the model, too (requires peft); full: all of its weights."
        ),
    ] = "probe",
    target: Annotated[
        list[str] | None, Option(help="Column with labels; repeatable. Default: the only one that is left.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        Option(
            help="classification, multilabel, regression, ranking, or TARGET=KIND; repeatable. Default: by the labels."
        ),
    ] = None,
    sequences: Annotated[
        Path | None, Option(help="FASTA file of the proteins, if LABELS has only identifiers.")
    ] = None,
    mask: Annotated[Path | None, Option(help="FASTA file with 1 for residues to use, 0 for others.")] = None,
    classes: Annotated[
        list[str] | None,
        Option(
            "--class",
            metavar="CLASS=LETTERS",
            help="Of a FASTA file of labels: letters that count as one class, such as b=1234567; repeatable.",
        ),
    ] = None,
    split: Annotated[str | None, Option(help="Column with train, valid, test. Default: split or set, if any.")] = None,
    split_by: Annotated[
        str,
        Option(
            help="column, homology (cross-validation over clusters of relatives), random, or auto: column, if there is "
            "one, otherwise homology."
        ),
    ] = "auto",
    clusters: Annotated[
        Path | None, Option(help="Clusters as of MMseqs2 (representative, tab, member), for --split-by homology.")
    ] = None,
    identity: Annotated[float, Option(help="Identity from which relatives share a cluster.")] = 0.3,
    folds: Annotated[int, Option(help="Of cross-validation, without a test part.")] = 5,
    layers: Annotated[
        str | None, Option(help="Layers to choose from, such as 3,6. Default: the middle and the last one.")
    ] = None,
    no_relatives: Annotated[
        bool, Option("--no-relatives", help="Do not search training relatives of test proteins, which takes longest.")
    ] = False,
    epochs: Annotated[
        int | None, Option(min=1, help="Of head, lora and full, at most: training stops early. Default: 20.")
    ] = None,
    learning_rate: Annotated[float | None, Option(help="Of lora and full. Default: 0.0002.")] = None,
    setting: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Of head, lora and full: any option of python -m protlm.train +experiment=finetune, such as "
            "task.rank=4; repeatable.",
        ),
    ] = None,
    copy_base: Annotated[bool, Option("--copy-base", help="Store the base model in the folder, too.")] = False,
    seed: Annotated[int, Option(help="Of folds and bootstrap samples.")] = 0,
    threads: Annotated[int | None, Option(min=1, help="Threads of phmmer. Default: one for each core.")] = None,
    token_budget: Annotated[
        int | None,
        Option(min=1, help="Maximum number of tokens in a batch. Default: 16,384; 4,000 for head, lora and full."),
    ] = None,
    precision: Precision = "float32",
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
) -> None:
    """Learn to predict labels of proteins or residues; evaluate on held-out proteins, beside baselines.

    A fit by head, lora or full that is interrupted resumes when the command is repeated.
    """
    model = required(model)

    from protlm.checkpoint import check_absent
    from protlm.inference.engine import TOKEN_BUDGET
    from protlm.model_api import placed
    from protlm.supervised.fit_api import PROBE, base_model, check_method, fitted
    from protlm.supervised.fit_options import FitOptions
    from protlm.supervised.labels import read_labels

    check_method(method)
    check_absent(output)
    check_outputs({"--output": (output, FOLDER)}, [labels, *filter(None, [sequences, mask, clusters])])
    kinds, split_options = _kinds(kind), (split_by, folds, clusters, identity, _layers(layers), not no_relatives, seed)
    options = FitOptions(*split_options, threads, token_budget or TOKEN_BUDGET, precision)
    if method != PROBE and setting:
        from protlm.supervised.tuning.run import check_settings

        check_settings(setting)
    read = (labels, sequences, mask, target or (), split, kinds, _classes(classes))
    labelled = read_labels(*read)
    for one in labelled.targets:
        say(f"{one.name}: {one.described}, {counted(len(one.owner), 'label')}")
    if method != PROBE:
        from protlm.supervised.tuning.run import fine_tune, options_of

        if packed_batches is not None:
            raise UserError("--packed-batches, --padded-batches: are for a probe; fine-tuning pads its batches")
        given = options_of(read, options, model, device)
        given |= {} if epochs is None else {"trainer.max_epochs": epochs}
        given |= {"task.attention_backend": attention_backend, "callbacks.results.copy_base": copy_base}
        given |= {} if token_budget is None else {"data.token_budget": token_budget}
        given |= {} if learning_rate is None else {"optimizer.lr": learning_rate}
        with stages() as stage, reporting_to(stage):
            fine_tune(output, method, given, setting or ())
        say_report(output)
        return
    for name, value in (("--set", setting), ("--epochs", epochs), ("--learning-rate", learning_rate)):
        if value:
            raise UserError(f"{name}: is for --method head, lora and full; a probe has no such option")
    network, base = base_model(model)
    network = announced(placed(network, device, attention_backend, packed_batches))
    units = {"comparing": "proteins", "embedding": "residues"}
    with stages() as stage:
        predictor, _ = fitted(labelled, network, base, options, lambda name: stage(name, units[name]))
    predictor.save(output, copy_base)
    say_report(output)


def say_report(output: Path) -> None:
    """Prints what a finished fit came to, from its report."""
    from protlm.supervised.evaluation import table_of

    report = json.loads((output / "report.json").read_text())
    say(*report["data"]["notes"], f"evaluated by {report['split']['described']}")
    if report["split"]["leakage"]:
        say(report["split"]["leakage"]["described"])
    for target in report["targets"]:
        print(table_of(target))
    for line in report["warnings"]:
        warn(line)
    say(f"wrote {output}; report: {output / 'report.html'}; use it: protlm predict FASTA --model {output}")


def _kinds(given: list[str] | None) -> dict[str, str]:
    """Target -> kind, "" for all targets."""
    found = {}
    for one in given or ():
        target, _, kind = one.rpartition("=")
        found[target] = kind
    return found


def _classes(given: list[str] | None) -> dict[str, str]:
    """Class -> letters."""
    found: dict[str, str] = {}
    for one in given or ():
        name, equals, letters = one.partition("=")
        if not equals or name in found:
            raise UserError(f"--class {one}: expected CLASS=LETTERS, each class once, such as b=1234567")
        found[name] = letters
    return found


def _layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UserError(f"--layers {text!r}: expected numbers such as -1 or 3,6") from None
