"""Commands about variant effects: score, proteingym."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Option

from protlm.cli.console import (
    Backend,
    Budget,
    Device,
    LateNetwork,
    Nucleotides,
    Packed,
    Precision,
    load_network,
    model_files,
    model_option,
    named,
    progress,
    required,
    say,
)
from protlm.cli.outputs import FOLDER, HTML, PICTURE, TABLE, check_outputs
from protlm.cli.perplexity import report_perplexities
from protlm.errors import UserError, counted
from protlm.files import STDOUT

Method = Annotated[
    str | None,
    Option(
        help="masked-marginals, wt-marginals or pseudo-log-likelihood; likelihood for causal models. Default: "
        "masked-marginals, or likelihood."
    ),
]
SearchedDatabases = Annotated[
    list[Path] | None,
    Option(
        "--database",
        help="FASTA file to search for homologs, plain or compressed; repeatable. See also: protlm homologs.",
    ),
]
NamedModel = Annotated[
    Path | None,
    model_option(
        "Model folder or training checkpoint (.ckpt). Default: none; the environment variable counts only where a "
        "model is needed, with --scorer model or --pseudo-perplexity."
    ),
]
ScorerName = Annotated[
    str,
    Option(
        "--scorer",
        help="blosum62, profile (of homologs), model, blend (of both), or auto: what uses all that is given.",
    ),
]
Threads = Annotated[int | None, Option(min=1, help="Threads of the search. Default: one for each core.")]
NoCache = Annotated[bool, Option("--no-cache", help="Do not keep or reuse alignments of searches.")]
_ONLY = (
    "variants, BLOSUM62 and homologs are of proteins; for the perplexity of whole sequences, use --pseudo-perplexity"
)
_FATES = "'error' stops, 'skip' leaves them out, 'nan' leaves the score empty; 'skip' and 'nan' list them at the end"


def score(
    context: Context,
    protein: Annotated[str, Argument(help="The wild type: a FASTA file, - for standard input, or a sequence.")],
    variants: Annotated[
        Path | None,
        Option(help="Table with a column 'mutant' (A42G, A42G:L50P, p.Lys23del) or 'mutated_sequence'."),
    ] = None,
    column: Annotated[str | None, Option(help="Column of --variants with the variants. Default: mutant.")] = None,
    variant: Annotated[list[str] | None, Option(help="A variant such as A42G; repeatable.")] = None,
    all_singles: Annotated[bool, Option("--all", help="Score all 19 substitutions of each residue.")] = False,
    database: SearchedDatabases = None,
    alignment: Annotated[
        Path | None, Option(help="Alignment with homologs of the protein: A3M, A2M, Stockholm, FASTA or Clustal.")
    ] = None,
    model: NamedModel = None,
    structure: Annotated[
        Path | None, Option(help="Structure of the protein (.cif, .bcif, .pdb): buried residues count more.")
    ] = None,
    scorer: ScorerName = "auto",
    output: Annotated[Path | None, Option("--output", "-o", help="Table to write. Default: standard output.")] = None,
    no_sequences: Annotated[
        bool, Option("--no-sequences", help="With --all: omit the column 'mutated_sequence', which is long.")
    ] = False,
    heatmap: Annotated[Path | None, Option(help="Draw the single substitutions here (.png, .pdf or .svg).")] = None,
    html: Annotated[Path | None, Option(help="Write an interactive page of the scan here, one file (.html).")] = None,
    method: Method = None,
    offset: Annotated[
        int,
        Option(
            help="Number to subtract from the positions of variants, such as the length of a removed signal peptide."
        ),
    ] = 0,
    threads: Threads = None,
    no_cache: NoCache = False,
    pseudo_perplexity: Annotated[
        bool,
        Option(
            "--pseudo-perplexity", help="Compute the pseudo-perplexity of each protein instead of scores of variants."
        ),
    ] = False,
    one_pass: Annotated[
        bool, Option("--one-pass", help="Estimate the pseudo-perplexity from one pass per protein.")
    ] = False,
    masking: Annotated[
        str,
        Option(help="For --one-pass: fractions of the selected residues that training masked, replaced and kept."),
    ] = "0.8,0.1,0.1",
    token_budget: Budget = 16_384,
    precision: Precision = "float32",
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
    invalid: Annotated[str, Option(help=f"Malformed variants, and invalid records: {_FATES}.")] = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Score variants of a protein by its homologs, a model or both, or the pseudo-perplexity of whole proteins."""
    if sum(map(bool, (variants, variant, all_singles, pseudo_perplexity))) != 1:
        raise UserError("expected one of --variants FILE, --variant A42G, --all and --pseudo-perplexity")
    if pseudo_perplexity and (heatmap or html or method or offset or database or alignment or structure):
        raise UserError(
            "--heatmap, --html, --method, --offset, --database, --alignment and --structure apply to variants; "
            "omit them with --pseudo-perplexity"
        )
    if one_pass and not pseudo_perplexity:
        raise UserError("--one-pass requires --pseudo-perplexity; for variants, use --method wt-marginals")
    if no_sequences and not all_singles:
        raise UserError("--no-sequences requires --all")
    if column is not None and not variants:
        raise UserError("--column requires --variants")
    if database and alignment:
        raise UserError("expected one of --database and --alignment")
    model = _model(context, model, pseudo_perplexity or scorer == "model")
    if method and model is None:
        raise UserError("--method requires --model")
    _check_invalid(invalid)
    if invalid == "nan" and not (variants or variant):
        raise UserError("--invalid nan requires --variants or --variant")

    from protlm.inference.proteins import open_proteins

    options: dict[str, Any] = {"attention_backend": attention_backend, "packed_batches": packed_batches}
    if pseudo_perplexity:
        assert model is not None
        reading: dict[str, Any] = {"allow_nucleotides": allow_nucleotides, "invalid": invalid}
        how = not one_pass, masking, token_budget, precision
        report_perplexities(LateNetwork(model, device, **options), protein, model_files(model), output, how, reading)
        return

    loaded = LateNetwork(model, device, only=_ONLY, **options) if model else None
    opened = open_proteins(protein, allow_nucleotides, gaps=False, invalid="error" if invalid == "nan" else invalid)
    typed = isinstance(opened, list)
    inputs = [*filter(None, [variants, alignment, structure, *(database or ())])]
    inputs += [*(model_files(model) if model else ()), *([] if typed else [Path(protein)])]
    outputs = {"--output": (output, TABLE), "--heatmap": (heatmap, PICTURE), "--html": (html, HTML)}
    check_outputs(outputs, inputs)

    from protlm.plots.positions import check_picture
    from protlm.variant_api import computer_of
    from protlm.variants.knowledge import Knowledge
    from protlm.variants.scan import Scan
    from protlm.variants.scan_page import check_page
    from protlm.variants.sources import chosen_scorer

    chosen_scorer(scorer, bool(database or alignment), model is not None)
    scan = Scan(opened, "sequence" if typed else protein, variants, variant or (), offset, invalid, column)
    if heatmap:
        check_picture(heatmap, len(scan.only("for a heat map")))
    for option, given in (("--html", html), ("--alignment", alignment), ("--structure", structure)):
        if given:
            scan.only(f"for {option}")
    if html:
        check_page(html, len(scan.only("for --html")))
    computer = computer_of(loaded.network, token_budget=token_budget, precision=precision) if loaded else None
    with progress("scoring", "passes") as report:
        known = alignment, database or (), threads, not no_cache, structure, computer, method, report
        knowledge = Knowledge(*known, allow_nucleotides, invalid)
        result = scan.assess(knowledge.of, scorer)
    if heatmap:
        result.draw(heatmap)
    if html:
        result.write_page(html)
    result.write(output, not no_sequences)
    say(*result.describe())


def proteingym(
    context: Context,
    folder: Annotated[Path, Argument(help="Folder with a CSV file per assay, and DMS_substitutions.csv or wt.fasta.")],
    database: SearchedDatabases = None,
    msa: Annotated[
        Path | None, Option(help="Folder of alignments, which the reference table names; also for a baseline.")
    ] = None,
    model: NamedModel = None,
    scorer: ScorerName = "auto",
    output: Annotated[Path | None, Option("--output", "-o", help="Also write the table here (CSV).")] = None,
    reference: Annotated[
        Path | None,
        Option(
            help="ProteinGym's table of assays. Default: those in the folder, such as DMS_substitutions.csv, "
            "DMS_indels.csv and clinical_substitutions.csv."
        ),
    ] = None,
    published: Annotated[
        Path | None, Option(help="ProteinGym's published results, DMS_substitutions_Spearman_DMS_level.csv.")
    ] = None,
    columns: Annotated[
        str | None,
        Option(help="With --published: models to compare with, such as 'ESM2 (650M),GEMME'. Default: three of them."),
    ] = None,
    scores: Annotated[Path | None, Option(help="Folder for scores of each assay; existing ones are reused.")] = None,
    method: Method = None,
    token_budget: Budget = 16_384,
    precision: Precision = "float32",
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
    invalid: Annotated[
        str,
        Option(help=f"Malformed rows: {_FATES}. Rows without a measurement are scored, but not compared."),
    ] = "skip",
    threads: Threads = None,
    no_cache: NoCache = False,
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Print Spearman's correlation with each ProteinGym assay, or the AUROC of clinical annotations, and averages."""
    from protlm.proteingym.assays import REFERENCES, Published, find_assays, split_columns
    from protlm.proteingym.benchmark import benchmark
    from protlm.proteingym.correlation import format_correlations, to_rows
    from protlm.proteingym.sources import search_together, settings, sources_of
    from protlm.tables import text_output, write_table
    from protlm.variant_api import computer_of
    from protlm.variants.knowledge import Knowledge
    from protlm.variants.sources import chosen_scorer

    model = _model(context, model, scorer == "model")
    _check_invalid(invalid)
    if method and model is None:
        raise UserError("--method requires --model")
    if columns is not None and published is None:
        raise UserError("--columns requires --published")
    if msa and not msa.is_dir():
        raise UserError(f"--msa {msa}: no such folder; expected the alignments named in the reference table")
    assays = find_assays(folder, reference, [published] if published else [])
    inputs = [path for path in (model, reference, published) if path]
    inputs += [folder / name for name in ("wt.fasta", *REFERENCES)] + [assay.path for assay in assays.found]
    inputs += [*(msa.glob("*") if msa else ()), *(database or ())]
    check_outputs({"--output": (output, TABLE), "--scores": (scores, FOLDER)}, inputs)
    figures = Published(published, None if columns is None else split_columns(columns)) if published else None
    chosen_scorer(scorer, bool(database or msa), model is not None)
    computer = None
    if model:
        options: dict[str, Any] = {"attention_backend": attention_backend, "packed_batches": packed_batches}
        network = load_network(model, device, only="ProteinGym's assays are of proteins", **options)
        computer = computer_of(network, token_budget=token_budget, precision=precision)
    known = None, database or (), threads, not no_cache, None, computer, method, None
    knowledge = Knowledge(*known, allow_nucleotides, invalid)
    about = settings(knowledge, scorer, msa)
    sources = sources_of(knowledge, msa)
    with progress("searching", "bytes") as report:
        search_together(knowledge, assays.found, msa, report)
    with progress("scoring", "assays") as report:
        results = list(benchmark(assays, sources, scorer, scores, about, figures, msa, report, invalid))
    if output:
        write_table(output, *to_rows(results))
    if str(output) != STDOUT:
        with text_output() as file:
            print(format_correlations(results), file=file)
    say(*(line for result in results for line in result.invalid))
    if assays.missing:
        say(f"{counted(assays.missing, 'assay')} of the reference table without a file in {folder}")
    if foreign := [name for name in assays.foreign if not (output and (folder / name).resolve() == output.resolve())]:
        shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        say(f"skipped {counted(len(foreign), 'file')} without a known wild type: {shown}")


def _model(context: Context, model: Path | None, needed: bool) -> Path | None:
    """The model to use: where none is needed, only one of the command line, so that the variable changes no score."""
    return required(model) if needed else named(context, model)


def _check_invalid(invalid: str) -> None:
    from protlm.variants.variant_table import INVALID_ROWS

    if invalid not in INVALID_ROWS:
        raise UserError(f"--invalid {invalid!r}: expected one of {', '.join(INVALID_ROWS)}")
