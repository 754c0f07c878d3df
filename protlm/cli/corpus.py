"""Commands about corpora: prepare, info, evaluate."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from protlm.cli.console import (
    Backend,
    Budget,
    Device,
    Invalid,
    Model,
    Nucleotides,
    Packed,
    load_network,
    model_files,
    progress,
    required,
    say,
)
from protlm.cli.outputs import HDF5, JSON, PICTURE, check_outputs
from protlm.errors import UserError, counted
from protlm.files import STDOUT


def prepare(
    fasta: Annotated[
        list[Path], Argument(help="FASTA or other files, plain or compressed (gz, bz2, xz, zst); - for stdin.")
    ],
    output: Annotated[Path, Option("--output", "-o", help="Corpus to write (HDF5).")],
    clusters: Annotated[Path | None, Option(help="MMseqs2 cluster table: representative, tab, member.")] = None,
    split_by: Annotated[
        str,
        Option(
            help="'cluster' keeps clusters within one split, 'record' the pieces of a record, 'sequence' splits by "
            "sequence hash."
        ),
    ] = "",
    held_out: Annotated[
        Path | None,
        Option("--ood", "--held-out", help="Ids of proteins, clusters or records to hold out as 'ood', one per line."),
    ] = None,
    valid: Annotated[float, Option(help="Fraction of the proteins in the validation split.")] = 0.05,
    test: Annotated[float, Option(help="Fraction of the proteins in the test split.")] = 0.1,
    min_length: Annotated[int, Option(help="Minimum length in residues, bases or bytes.")] = 1,
    max_length: Annotated[int | None, Option(help="Maximum length, likewise.")] = None,
    drop_fragments: Annotated[bool, Option("--drop-fragments", help="Drop records marked '(Fragment'.")] = False,
    nonstandard: Annotated[
        str, Option(help="'keep' or 'drop' records with other letters than the twenty amino acids, or A, C, G and T.")
    ] = "keep",
    deduplicate: Annotated[
        bool, Option("--deduplicate", help="Keep the first record of each sequence, and the ids of the others.")
    ] = False,
    identifier: Annotated[
        str, Option("--id", help="Identifier: the UniProt 'accession', the first 'word', or the whole 'header'.")
    ] = "accession",
    workers: Annotated[int, Option(help="Number of processes; each file is read by one.")] = 1,
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
    alphabet: Annotated[
        str, Option(help="What sequences consist of: protein, dna, rna, bytes, or your own class, MODULE.CLASS.")
    ] = "protein",
    layout: Annotated[
        str, Option(help="For other alphabets than protein: 'fasta', each 'file' a sequence, or each 'line' one.")
    ] = "",
    cut: Annotated[int, Option(help="For other alphabets than protein: cut longer records into pieces.")] = 1_000_000,
) -> None:
    """Turn FASTA files, or files of bytes, into a corpus for training."""
    from protlm.corpus.ingest import Selection
    from protlm.corpus.prepare import prepare_corpus
    from protlm.corpus.splits import BY, SplitRule, read_ids
    from protlm.sequence.alphabets import alphabet_of
    from protlm.sequence.nucleotides import NucleotidesError

    check_outputs({"--output": (output, HDF5)}, [*fasta, *filter(None, [clusters, held_out])])
    split_by = split_by or ("cluster" if clusters else "sequence")
    if split_by not in BY:
        raise UserError(f"--split-by {split_by!r}: expected one of {', '.join(BY)}")
    if split_by == "cluster" and not clusters:
        raise UserError("--split-by cluster requires --clusters")
    held = read_ids(held_out) if held_out else frozenset[str]()
    rule = SplitRule(valid, test, clusters, split_by != "sequence", held, split_by == "record")
    fragments = not drop_fragments
    selection = Selection(
        *(min_length, max_length, fragments, nonstandard, identifier, allow_nucleotides, invalid),
        *(alphabet_of(alphabet), layout, cut),
    )
    try:
        with progress("reading", "bytes") as report:
            summary = prepare_corpus(fasta, output, rule, selection, deduplicate, workers, report)
    except NucleotidesError as error:
        raise NucleotidesError(error.found, ", or prepare it with --alphabet dna or rna") from error
    say(*summary.describe(output))


def info(
    corpus: Annotated[Path, Argument(help="A corpus made by 'protlm prepare'.")],
    histogram: Annotated[Path | None, Option(help="Also draw the lengths (.png, .pdf or .svg).")] = None,
    json: Annotated[bool, Option("--json", help="Print all statistics as JSON.")] = False,
    max_length: Annotated[int, Option(min=3, help="data.max_length of training, for the steps per epoch.")] = 512,
    token_budget: Annotated[int, Option(min=3, help="data.token_budget of training, likewise.")] = 4000,
) -> None:
    """Print statistics of a corpus: lengths, clusters, residue frequencies, unigram baseline, steps per epoch."""
    from protlm.batching.batches import Objective, ProteinBatches
    from protlm.batching.masking import Masking
    from protlm.corpus.reader import Corpus
    from protlm.corpus.statistics import describe, draw_lengths, format_description
    from protlm.files import atomic_output
    from protlm.strict_json import dumps
    from protlm.tables import text_output

    check_outputs({"--histogram": (histogram, PICTURE)}, [corpus])
    opened = Corpus(corpus)
    training = ProteinBatches(opened, "train", Objective(False, Masking()), max_length, token_budget, seed=1)
    steps, exact = training.count(pools=64)
    figures = {**describe(opened), "steps_per_epoch": steps}
    with text_output() as file:
        print(dumps(figures, indent=2) if json else format_description(figures), file=file)
        if not json:
            where = f"--max-length {max_length}, --token-budget {token_budget} and one device"
            print(f"training: {'' if exact else 'about '}{counted(steps, 'step')} per epoch with {where}", file=file)
    if histogram:
        with atomic_output(histogram) as partial:
            draw_lengths(opened, partial)


def evaluate(
    corpus: Annotated[Path, Argument(help="A corpus made by 'protlm prepare'.")],
    model: Model = None,
    split: Annotated[
        list[str] | None,
        Option(help="train, valid, test or ood; repeatable. Default: test and ood."),
    ] = None,
    details: Annotated[bool, Option("--details", help="Also print tables by protein length and by residue.")] = False,
    json: Annotated[Path | None, Option(help="Write all results, including details, to this file.")] = None,
    max_length: Annotated[
        int | None, Option(min=3, help="Crop longer proteins to this many tokens. Default: the model's maximum.")
    ] = None,
    share: Annotated[float, Option(help="Fraction of the residues to mask.")] = 0.15,
    seed: Annotated[int, Option(min=0, help="Seed of crops and masks.")] = 1,
    token_budget: Budget = 16_384,
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
) -> None:
    """Print accuracy and perplexity on splits of a corpus, next to the unigram baseline."""
    model = required(model)

    from protlm.corpus.reader import Corpus
    from protlm.inference.evaluate import checked_splits, format_details, to_json
    from protlm.inference.evaluate import evaluate as measure
    from protlm.metrics import format_metrics
    from protlm.tables import text_output

    check_outputs({"--json": (json, JSON)}, [corpus, *model_files(model)])
    opened = Corpus(corpus)
    checked_splits(opened, split or (), share)  # before the model is loaded
    options: dict[str, Any] = {"attention_backend": attention_backend, "packed_batches": packed_batches}
    network = load_network(model, device, any_alphabet=True, **options)
    length = max_length or network.config.max_length
    options = {"max_length": length, "token_budget": token_budget, "share": share, "seed": seed}
    # opened first, so that a file that cannot be written is reported at once
    with text_output(json) if json else nullcontext() as file:
        with progress("evaluating", "proteins") as report:
            results = measure(network, opened, split or (), **options, progress=report)
        if file:
            file.write(to_json(results, network, model, opened, options))
    if str(json) != STDOUT:
        with text_output() as file:
            print(format_metrics(results), file=file)
            if details:
                print("", format_details(results), sep="\n", file=file)
