"""The command fit."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from protlm.cli.console import (
    Backend,
    Budget,
    Device,
    Packed,
    Precision,
    progress,
    say,
    warn,
)
from protlm.cli.outputs import FOLDER, check_outputs
from protlm.errors import UserError, counted

BaseModel = Annotated[
    Path | None,
    Option("--model", "-m", help="Model folder or training checkpoint (.ckpt). Default: the bundled model."),
]


def fit(
    labels: Annotated[
        Path,
        Argument(help="Table (.csv, .tsv, .parquet) with sequences and labels, or FASTA with a label per residue."),
    ],
    output: Annotated[Path, Option("--output", "-o", help="Folder to write: the fitted model and its report.")],
    model: BaseModel = None,
    method: Annotated[str, Option(help="probe: linear, on embeddings of the frozen model.")] = "probe",
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
    copy_base: Annotated[bool, Option("--copy-base", help="Store the base model in the folder, too.")] = False,
    seed: Annotated[int, Option(help="Of folds and bootstrap samples.")] = 0,
    threads: Annotated[int | None, Option(min=1, help="Threads of phmmer. Default: one for each core.")] = None,
    token_budget: Budget = 16_384,
    precision: Precision = "float32",
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
) -> None:
    """Learn to predict labels of proteins or residues; evaluate on held-out proteins, beside baselines."""
    from protlm.checkpoint import check_absent
    from protlm.model_api import placed
    from protlm.supervised.fit_api import base_model, check_method, fitted
    from protlm.supervised.fit_options import FitOptions
    from protlm.supervised.labels import read_labels

    check_method(method)
    check_absent(output)
    check_outputs({"--output": (output, FOLDER)}, [labels, *filter(None, [sequences, mask, clusters])])
    kinds = _kinds(kind)
    options = FitOptions(
        split_by, folds, clusters, identity, _layers(layers), not no_relatives, seed, threads, token_budget, precision
    )
    labelled = read_labels(labels, sequences, mask, target or (), split, kinds)
    for one in labelled.targets:
        say(f"{one.name}: {one.described}, {counted(len(one.owner), 'label')}")
    network, base = base_model(model, announce=model is None)
    network = placed(network, device, attention_backend, packed_batches)
    units = {"comparing": "proteins", "embedding": "residues"}
    with ExitStack() as stack:

        def stage(name: str) -> Callable[[int, int], None]:
            stack.close()
            return stack.enter_context(progress(name, units[name]))

        predictor, found = fitted(labelled, network, base, options, stage)
    predictor.save(output, copy_base)
    say(*labelled.notes, f"evaluated by {found.partition.described}")
    if found.leakage:
        say(found.leakage.described)
    for evaluation in found.evaluations:
        print(evaluation.table())
    for line in found.warnings:
        warn(line)
    say(f"wrote {output}; report: {output / 'report.html'}; use it: protlm predict FASTA --model {output}")


def _kinds(given: list[str] | None) -> dict[str, str]:
    """Target -> kind, "" for all targets."""
    found = {}
    for one in given or ():
        target, _, kind = one.rpartition("=")
        found[target] = kind
    return found


def _layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UserError(f"--layers {text!r}: expected numbers such as -1 or 3,6") from None
