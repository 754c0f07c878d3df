"""Commands about supervised learning: fit, predict."""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from protlm.cli.console import (
    Backend,
    Budget,
    Device,
    Invalid,
    Nucleotides,
    Packed,
    Precision,
    model_files,
    progress,
    say,
    warn,
)
from protlm.cli.outputs import FASTA, FOLDER, HDF5, TABLE, OutputKind, check_outputs
from protlm.errors import UserError, counted
from protlm.files import STDOUT

BaseModel = Annotated[
    Path | None,
    Option("--model", "-m", help="Model folder or training checkpoint (.ckpt). Default: the bundled model."),
]
PREDICTIONS = OutputKind(
    "a file of predictions", (*TABLE.suffixes, ".parquet", *HDF5.suffixes, *FASTA.suffixes), text=True
)


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
        Option(help="classification, multilabel or regression, or TARGET=KIND; repeatable. Default: from the labels."),
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
    network = _placed(network, device, attention_backend, packed_batches)
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


def predict(
    fasta: Annotated[Path, Argument(help="FASTA file, plain or compressed; - for standard input.")],
    model: Annotated[Path, Option("--model", "-m", help="Folder of protlm fit.")],
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            help="Table (.csv, .tsv, .parquet), HDF5 (.h5), or labels of residues as FASTA (.fasta). Default: CSV on "
            "standard output.",
        ),
    ] = None,
    target: Annotated[list[str] | None, Option(help="What to predict; repeatable. Default: all targets.")] = None,
    base: Annotated[Path | None, Option(help="Base model, if it has moved.")] = None,
    token_budget: Budget = 16_384,
    precision: Precision = "float32",
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Predict labels of proteins or residues with a model from 'protlm fit'."""
    from protlm.sequence.fasta import FastaFile, none_left
    from protlm.supervised.prediction_hdf5 import write_hdf5
    from protlm.supervised.prediction_output import checked_heads, predicted_records
    from protlm.supervised.prediction_table import write_parquet, write_strings, write_text
    from protlm.supervised.predictor_folder import load_predictor

    used = [fasta, *model_files(model), *(model / name for name in ("head.safetensors", "report.json"))]
    check_outputs({"--output": (output, PREDICTIONS)}, used)
    file = FastaFile(fasta, allow_nucleotides, invalid=invalid)
    file.check_start()
    predictor = load_predictor(model, base=base)
    _placed(predictor.model, device, attention_backend, packed_batches)
    heads = checked_heads(predictor, target or ())
    suffix = output.suffix.lower() if output and str(output) != STDOUT else ".csv"
    write: Any = {".parquet": write_parquet} | dict.fromkeys(HDF5.suffixes, write_hdf5)
    write |= dict.fromkeys(FASTA.suffixes, write_strings) | dict.fromkeys(TABLE.suffixes, write_text)
    with progress("predicting", "residues") as report:
        count = [0]
        answers = predicted_records(predictor, file, heads, count, token_budget, precision, report)
        if (first := next(answers, None)) is None:  # before anything is written
            raise none_left(file.path, file.tally)
        write[suffix](output, chain([first], answers), heads)
    say(f"{output or 'standard output'}: {counted(count[0], 'protein')}", *file.tally.lines())


def _placed(network: Any, device: str, attention_backend: str, packed: bool | None) -> Any:
    """The network on a device."""
    from protlm.model_api import placed

    return placed(network, device, attention_backend, packed)


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
