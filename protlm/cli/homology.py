"""The command about homologs: homologs."""

import dataclasses
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from protlm.cli.console import Invalid, Nucleotides, progress, say, warn
from protlm.cli.outputs import FOLDER, PICTURE, OutputKind, check_outputs
from protlm.errors import UserError, counted
from protlm.files import STDOUT, atomic_output

Databases = Annotated[
    list[Path],
    Argument(metavar="DATABASE...", help="FASTA files of proteins, plain or compressed, such as Swiss-Prot."),
]
Iterations = Annotated[
    int, Option(help="Maximum number of passes over the databases: 1 searches as phmmer, more as jackhmmer.")
]
EValue = Annotated[float | None, Option(help="Maximum E-value of homologs, in all databases together. Default: 0.001.")]
BitsPerResidue = Annotated[
    float | None, Option(help="Minimum score of homologs, in bits per residue of the query, instead of --evalue.")
]
Cache = Annotated[
    Path | None, Option(help="Folder of earlier results. Default: protlm/homologs in $XDG_CACHE_HOME or ~/.cache.")
]


def homologs(
    query: Annotated[str, Argument(help="One or more proteins: a FASTA file, - for standard input, or a sequence.")],
    database: Databases,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            help="Alignment to write (.a3m, .a2m, .fasta, .sto, .aln); for several proteins a folder. Default: A3M on "
            "standard output.",
        ),
    ] = None,
    coverage: Annotated[
        Path | None, Option(help="Draw the coverage of one protein by position here (.png, .pdf or .svg).")
    ] = None,
    iterations: Iterations = 3,
    evalue: EValue = None,
    bits_per_residue: BitsPerResidue = None,
    most: Annotated[int, Option("--max-sequences", help="Maximum number of homologs; the best are kept.")] = 20_000,
    threads: Annotated[int | None, Option(min=1, help="Threads. Default: one for each core.")] = None,
    cache: Cache = None,
    no_cache: Annotated[bool, Option("--no-cache", help="Neither use nor keep earlier results.")] = False,
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Search databases for homologs of a protein, and align them."""
    from protlm.homology.alignment_output import FORMATS, file_names
    from protlm.homology.cache import default_folder
    from protlm.homology.options import SearchOptions
    from protlm.inference.proteins import open_proteins
    from protlm.sequence.fasta import none_left

    if no_cache and cache is not None:
        raise UserError("--cache and --no-cache exclude each other")
    if evalue is not None and bits_per_residue is not None:
        raise UserError("--evalue and --bits-per-residue exclude each other")
    options = SearchOptions(iterations, SearchOptions.evalue if evalue is None else evalue, bits_per_residue, most)
    opened = open_proteins(query, allow_nucleotides, gaps=False, invalid=invalid)
    if not (records := list(opened)):
        raise none_left(query, None if isinstance(opened, list) else opened.tally)
    several = len(records) > 1 or (output is not None and output.is_dir())
    if several and output is None:
        raise UserError(f"{counted(len(records), 'protein')}: expected --output with a folder for their alignments")
    if several and coverage is not None:
        raise UserError(f"--coverage draws one protein, found {len(records):,}; search for one of them")
    kind = FOLDER if several else OutputKind("an alignment", tuple(FORMATS), text=True)
    inputs = [*database, *([] if isinstance(opened, list) else [Path(query)])]
    check_outputs({"--output": (output, kind), "--coverage": (coverage, PICTURE)}, inputs)

    from protlm.homology.alignment import write_alignment
    from protlm.homology.search import search
    from protlm.homology.summary import Summary
    from protlm.homology.targets import Targets
    from protlm.plots.coverage import coverage_plot

    targets = Targets(database, allow_nucleotides, invalid)
    kept = None if no_cache else cache or default_folder()
    sequences = [record.sequence for record in records]
    names = file_names(record.id for record in records)
    lines, alone = [], []
    with progress("searching", "bytes") as report:
        found = search(sequences, targets, options, threads, report, kept)
        for record, name, alignment in zip(records, names, found, strict=True):
            path = output or Path(STDOUT)
            if several:
                path.mkdir(exist_ok=True)
                path /= f"{name}.a3m"
            alignment = dataclasses.replace(alignment, ids=[record.id, *alignment.ids[1:]])
            write_alignment(path, alignment, "a3m" if output is None else None)
            if len(alignment) == 1:
                alone.append(record.id)
                continue
            summary = Summary.of(alignment)
            if coverage:
                with atomic_output(coverage) as partial:
                    coverage_plot(partial, summary.coverage, summary.effective_coverage, record.id)
            first, *more = summary.describe()
            lines += [f"{record.id if output is None else path}: {first}", *(more if not several else ())]
    for name in alone:
        warn(f"{name}: no homologs found; the alignment is the protein alone")
    say(*lines, *targets.tally.lines())
