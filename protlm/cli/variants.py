"""Commands about variants: score, proteingym."""

from pathlib import Path
from typing import Annotated, Any

import typer

from protlm.cli.console import (
    Budget,
    Device,
    Model,
    Nucleotides,
    Precision,
    load_network,
    model_files,
    named,
    progress,
    say,
    warn,
)
from protlm.errors import UserError

Method = Annotated[
    str | None,
    typer.Option(
        help="masked-marginals (default), wt-marginals or pseudo-log-likelihood; likelihood if unidirectional."
    ),
]


def score(
    protein: Annotated[str, typer.Argument(help="The wild type: a FASTA file, - for standard input, or a sequence.")],
    model: Model = None,
    variants: Annotated[
        Path | None, typer.Option(help="CSV with a column 'mutant' (A42G, A42G:L50P) or 'mutated_sequence'.")
    ] = None,
    variant: Annotated[list[str] | None, typer.Option(help="A variant; can be given more than once.")] = None,
    all_singles: Annotated[bool, typer.Option("--all", help="All 19 substitutions of each residue.")] = False,
    no_sequences: Annotated[
        bool, typer.Option("--no-sequences", help="With --all, leave out 'mutated_sequence': L x 19 L letters.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The table; default: print it.")] = None,
    heatmap: Annotated[Path | None, typer.Option(help="Draw the single substitutions (.png, .pdf, .svg).")] = None,
    method: Method = None,
    offset: Annotated[int, typer.Option(help="Residues before the first one, in the numbers of the variants.")] = 0,
    pseudo_perplexity: Annotated[
        bool, typer.Option("--pseudo-perplexity", help="Instead: the pseudo-perplexity of each protein (TSV).")
    ] = False,
    one_pass: Annotated[bool, typer.Option("--one-pass", help="Estimate it from one pass for each protein.")] = False,
    masking: Annotated[
        str, typer.Option(help="For --one-pass: shares masked, exchanged and kept that the model was trained with.")
    ] = "0.8,0.1,0.1",
    token_budget: Budget = 16_384,
    precision: Precision = "float32",
    device: Device = "auto",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Score variants of a protein, or with --pseudo-perplexity whole proteins."""
    asked = [bool(way) for way in (variants, variant, all_singles, pseudo_perplexity)]
    if sum(asked) != 1:
        raise UserError("expected one of --variants FILE, --variant A42G, --all and --pseudo-perplexity")
    if pseudo_perplexity and (heatmap or method or offset):
        raise UserError("--pseudo-perplexity: is of whole proteins; leave out --heatmap, --method and --offset")
    if one_pass and not pseudo_perplexity:
        raise UserError("--one-pass: belongs to --pseudo-perplexity; for variants take --method wt-marginals")

    if no_sequences and not all_singles:
        raise UserError("--no-sequences: belongs to --all")

    from protlm.inference.engine import Computer
    from protlm.variants.notation import open_proteins

    opened = open_proteins(protein, allow_nucleotides)
    inputs = [
        *model_files(model),
        *([variants] if variants else []),
        *([] if isinstance(opened, list) else [Path(protein)]),
    ]
    for path in (output, heatmap):
        _check_output(path, inputs)
    if output and heatmap and output.resolve() == heatmap.resolve():
        raise UserError(f"{output}: table and picture have to be different files")
    if pseudo_perplexity:
        from protlm.inference.perplexity import write_perplexities

        shares = _masking(masking)
        computer = Computer(load_network(model, device), token_budget, precision)
        with progress("computing", "residues") as report:
            say(*write_perplexities(computer, opened, output, not one_pass, shares, report))
        return

    from protlm.plots.positions import check_picture
    from protlm.variants.scan import Scan

    scan = Scan(opened, "sequence" if isinstance(opened, list) else protein, variants, variant or (), offset)
    if heatmap:
        check_picture(heatmap, len(scan.only("for a heat map")))
    network = load_network(model, device)
    with progress("scoring", "passes") as report:
        scores = scan.score(Computer(network, token_budget, precision), method, report)
    if heatmap:
        scan.draw(heatmap, scores)
    scan.write(output, scores, not no_sequences)
    say(*scan.describe(scores))
    if network.config.learned_positions and scan.longest + 2 > network.config.max_length:
        warn(
            f"the protein is longer than the {network.config.max_length:,} positions this model has learned; take its "
            "scores with care"
        )


def proteingym(
    folder: Annotated[Path, typer.Argument(help="A CSV file for each assay, and DMS_substitutions.csv or wt.fasta.")],
    model: Model = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the table here (CSV).")] = None,
    reference: Annotated[Path | None, typer.Option(help="ProteinGym's table of assays, if not in the folder.")] = None,
    published: Annotated[
        Path | None, typer.Option(help="ProteinGym's published figures, DMS_substitutions_Spearman_DMS_level.csv.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Published models to show, as 'ESM2 (650M),GEMME'; default: three of them.")
    ] = None,
    msa: Annotated[Path | None, typer.Option(help="Folder of alignments, for the site-independent baseline.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Folder to keep the scores of each assay in; what is there is not done again.")
    ] = None,
    method: Method = None,
    token_budget: Budget = 16_384,
    precision: Precision = "float32",
    device: Device = "auto",
) -> None:
    """Print the rank correlation with each assay of ProteinGym, and the averages, beside baselines."""
    from protlm.inference.engine import Computer
    from protlm.proteingym.assays import Published, find_assays, split_columns
    from protlm.proteingym.benchmark import benchmark
    from protlm.proteingym.correlation import format_results, to_rows
    from protlm.tables import write_table

    inputs = [path for path in (named(model), reference, published, msa) if path]
    inputs += [folder / "wt.fasta", folder / "DMS_substitutions.csv", *(msa.glob("*") if msa else ())]
    _check_output(output, inputs)
    if columns is not None and published is None:
        raise UserError("--columns: are of the table of published figures; give it with --published")
    if msa and not msa.is_dir():
        raise UserError(f"--msa {msa}: no such folder; expected the alignments that the reference table names")
    assays = find_assays(folder, reference, [published] if published else [])
    if output and output.resolve() in {assay.path.resolve() for assay in assays.found}:
        raise UserError(f"{output}: is an assay; name another file to write")
    figures = Published(published, None if columns is None else split_columns(columns)) if published else None
    computer = Computer(load_network(model, device), token_budget, precision)
    with progress("scoring", "assays") as report:
        results = list(benchmark(computer, assays, method, scores, figures, msa, report))
    if output:
        write_table(output, *to_rows(results))
    print(format_results(results))
    if assays.missing:
        say(f"{assays.missing:,} assays of the reference table are not in {folder}")
    if foreign := [name for name in assays.foreign if not (output and (folder / name).resolve() == output.resolve())]:
        shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        say(f"{len(foreign):,} files left out, their wild types are unknown: {shown}")


def _check_output(path: Path | None, inputs: list[Path]) -> None:
    """Refuses a file to write that is a folder, an input, or in no folder, before the work."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected the name of a file to write")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and any(other.exists() and path.samefile(other) for other in inputs):
        raise UserError(f"{path}: input and outputs have to be different files")


def _masking(text: str) -> Any:
    from protlm.batching.masking import Masking

    try:
        mask, exchanged, kept = map(float, text.split(","))
    except ValueError as error:
        raise UserError(f"--masking {text!r}: expected three shares, such as 0.8,0.1,0.1") from error
    return Masking(mask=mask, random=exchanged, keep=kept)
