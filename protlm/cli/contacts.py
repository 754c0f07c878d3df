"""The command about contact maps: contacts."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Option

from protlm.cli.console import (
    Backend,
    Budget,
    Device,
    Invalid,
    LateNetwork,
    Model,
    Nucleotides,
    Packed,
    Precision,
    named,
    progress,
    required,
    say,
)
from protlm.cli.outputs import FOLDER, check_outputs
from protlm.errors import UserError, counted


def contacts(
    context: Context,
    fasta: Annotated[str, Argument(help="One or more proteins: a FASTA file, - for standard input, or a sequence.")],
    output: Annotated[Path, Option("--output", "-o", help="Folder for a table and a picture of each protein.")],
    model: Model = None,
    method: Annotated[
        str,
        Option(
            help="head (of an imported ESM-2, with exact attention), jacobian (of any bidirectional model; 20 passes "
            "per residue; beyond 800 residues approximate, to save memory), couplings (of homologs), or auto: "
            "couplings with --alignment or --database, otherwise head if the model has one, otherwise jacobian."
        ),
    ] = "auto",
    alignment: Annotated[
        Path | None, Option(help="Alignment of one protein: A3M, A2M, Stockholm, FASTA or Clustal.")
    ] = None,
    database: Annotated[
        list[Path] | None, Option(help="FASTA file to search for homologs, plain or compressed; repeatable.")
    ] = None,
    structure: Annotated[
        list[Path] | None,
        Option(
            help="Structure (.cif, .bcif, .pdb) to compare with; repeatable. With several proteins, named after the "
            "identifier of its protein."
        ),
    ] = None,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Compute all proteins. Default: tables that exist are kept.")
    ] = False,
    threads: Annotated[int | None, Option(min=1, help="Threads of the search. Default: one for each core.")] = None,
    no_cache: Annotated[bool, Option("--no-cache", help="Neither use nor keep earlier results of the search.")] = False,
    token_budget: Budget = 16_384,
    precision: Precision = "float32",
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Predict which residues touch. A command that was interrupted continues where it stopped."""
    from protlm.contacts.contact_map import chosen_method
    from protlm.contacts.folder import PRECISION, Protein, matched, precision_table, write_folder
    from protlm.homology.alignment_output import file_names
    from protlm.inference.proteins import open_proteins
    from protlm.sequence.fasta import none_left
    from protlm.tables import aligned

    if alignment and database:
        raise UserError("expected one of --alignment and --database")
    homologs = bool(alignment or database)
    chosen_method(method, None, homologs)
    if homologs and named(context, model):
        raise UserError("--model is not used by couplings; leave it out, or --alignment and --database")
    check_outputs({"--output": (output, FOLDER)})
    loaded = None
    if not homologs:
        options: dict[str, Any] = {"attention_backend": attention_backend, "packed_batches": packed_batches}
        path = required(model, "; --alignment and --database need none")
        loaded = LateNetwork(path, device, only="contacts are of residues of proteins", **options)
    opened = open_proteins(fasta, allow_nucleotides, gaps=False, invalid=invalid)
    if not (records := list(opened)):
        raise none_left(fasta, None if isinstance(opened, list) else opened.tally)
    if alignment and len(records) > 1:
        raise UserError(f"--alignment is of one protein, found {len(records):,}; use --database")
    names = file_names([PRECISION, *(record.id for record in records)])[1:]  # a name of no protein
    structures = matched(structure or (), [record.id for record in records], names)
    proteins = [
        Protein(record.id, name, record.sequence, path)
        for record, name, path in zip(records, names, structures, strict=True)
    ]
    about: dict[str, object]
    if loaded is None:
        source: Any = partial(_of_homologs, alignment, database or (), threads, no_cache)
        about = {"method": "couplings", "homologs": [str(path) for path in database or [alignment]]}
        label, unit = "searching", "bytes"
    else:
        from protlm.checkpoint import fingerprint
        from protlm.inference.engine import Computer

        network = loaded.network
        method = chosen_method(method, network, homologs)
        source = partial(_of_model, Computer(network, token_budget, precision), method)
        about = {"method": method, "model": fingerprint(network), "precision": precision}
        label, unit = "computing", "passes"
    with progress(label, unit) as report:
        done = write_folder(output, proteins, about, partial(source, report=report), overwrite)
    if done.precisions:
        header, rows = precision_table(done.precisions)
        print(aligned(header, ([str(cell) for cell in row] for row in rows), left=(0, 1, 3)))
    kept = f", {done.kept:,} of them by an earlier run" if done.kept else ""
    say(f"{output}: contacts of {counted(len(proteins), 'protein')} by {about['method']}{kept}")
    if not isinstance(opened, list):
        say(*opened.tally.lines())


def _of_model(computer: Any, method: str, sequences: Sequence[str], report: Any) -> Iterator[Any]:
    """The contact map of each protein, by a model."""
    from protlm.contacts.contact_map import contact_map, passes
    from protlm.progress import summed

    advance = summed(report, sum(passes(method, sequence) for sequence in sequences))
    for sequence in sequences:
        yield contact_map(sequence, method, computer, advance)


def _of_homologs(
    alignment: Path | None,
    databases: Sequence[Path],
    threads: int | None,
    no_cache: bool,
    sequences: Sequence[str],
    report: Any,
) -> Iterator[Any]:
    """The contact map of each protein, by the couplings of its homologs."""
    from protlm.contacts.contact_map import contact_map
    from protlm.homology.alignment import read_alignment
    from protlm.homology.cache import default_folder
    from protlm.homology.options import SearchOptions
    from protlm.homology.search import search
    from protlm.homology.targets import Targets

    if alignment:
        alignments = (read_alignment(alignment, sequence) for sequence in sequences)
    else:
        kept = None if no_cache else default_folder()
        alignments = search(sequences, Targets(databases), SearchOptions(), threads, report, kept)
    for sequence, found in zip(sequences, alignments, strict=True):
        yield contact_map(sequence, "couplings", found)
