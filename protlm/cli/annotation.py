"""Commands about annotation: annotate, map."""

import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from protlm.cli.console import (
    Backend,
    Budget,
    Device,
    Invalid,
    LateNetwork,
    Model,
    Nucleotides,
    Packed,
    model_files,
    progress,
    required,
    say,
    stages,
)
from protlm.cli.embedding import Overwrite
from protlm.cli.outputs import FOLDER, HDF5, TABLE, check_outputs
from protlm.errors import UserError, counted


def annotate(
    queries: Annotated[Path, Argument(help="FASTA file of the proteins to annotate; - for standard input.")],
    reference: Annotated[Path, Option(help="FASTA file of labelled proteins.")],
    labels: Annotated[
        Path, Option(help="Table (.csv, .tsv, .parquet) with a column id, and others of labels separated by ';'.")
    ],
    output: Annotated[
        Path | None, Option("--output", "-o", help="Table to write (.csv, .tsv). Default: CSV on standard output.")
    ] = None,
    column: Annotated[
        list[str] | None, Option(help="Column of labels; repeatable. Default: the only one that is left.")
    ] = None,
    model: Model = None,
    by: Annotated[
        str, Option(help="Evidence: embedding (nearest neighbours), homology (phmmer hits) or both.")
    ] = "both",
    precision: Annotated[
        float, Option(help="Minimum precision of labels, 0 to 1; a query without such a label gets a row without one.")
    ] = 0.5,
    neighbours: Annotated[int, Option(help="Neighbours, and homologs, that vote for labels.")] = 10,
    index: Annotated[
        Path | None,
        Option(help="Embeddings of the reference, as of protlm embed (.h5); written if missing, for later runs."),
    ] = None,
    clusters: Annotated[
        Path | None,
        Option(help="Clusters of the reference as of MMseqs2 (representative, tab, member). Default: by phmmer."),
    ] = None,
    identity: Annotated[float, Option(help="Identity from which relatives in the reference share a cluster.")] = 0.5,
    sample: Annotated[int, Option(help="Proteins of the reference on which precision is learned.")] = 1_000,
    layer: Annotated[int, Option(help="Layer to embed; -1 is the last.")] = -1,
    seed: Annotated[int, Option(help="Of the sample.")] = 0,
    threads: Annotated[int | None, Option(min=1, help="Threads of phmmer. Default: one for each core.")] = None,
    token_budget: Budget = 16_384,
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Transfer labels from a labelled reference to proteins that resemble it, with a precision for each label."""
    from protlm.annotation.annotate import COLUMNS, annotators_of, rows
    from protlm.annotation.options import AnnotateOptions
    from protlm.annotation.reference import Reference, read_records
    from protlm.embedding.resumable import ResumableInterrupt
    from protlm.tables import write_table

    chosen = AnnotateOptions(by, precision, neighbours, clusters, identity, sample, layer, seed, threads, token_budget)
    inputs = [queries, reference, labels, *filter(None, [clusters]), *(model_files(model) if model else ())]
    check_outputs({"--output": (output, TABLE), "--index": (index, HDF5)}, inputs)
    loaded = None
    if chosen.embeds:
        options: dict[str, Any] = {"attention_backend": attention_backend, "packed_batches": packed_batches}
        path = required(model, "; --by homology needs none")
        loaded = LateNetwork(path, device, only="labels are transferred between proteins", **options)
    reading: dict[str, Any] = {"invalid": invalid, "allow_nucleotides": allow_nucleotides}
    _, records, notes = read_records(queries, "queries", **reading)
    known = Reference.read(reference, labels, column or (), **reading)
    say(known.described)
    network = loaded.network if loaded else None
    with stages() as stage:
        try:
            annotators = annotators_of(known, chosen, network, index, reference, stage, **reading)
        except ResumableInterrupt as stop:
            say(str(stop))
            sys.exit(130)
        found = list(rows(annotators, records, network, stage))
    say(*(annotator.described for annotator in annotators))
    write_table(output, COLUMNS, ([_text(cell) for cell in row] for row in found))
    for name in known.labels:
        called = [row.query for row in found if row.column == name and row.label is not None]
        proteins = f"{len(set(called)):,} of {counted(len(records), 'protein')}"
        number = f"{name}: {counted(len(called), 'label')} of {proteins}"
        say(f"{output or 'standard output'}: {number}, at a precision of at least {precision:g}")
    say(*(f"{path}: {line}" for path, lines in ((reference, known.notes), (queries, notes)) for line in lines))


def map_proteins(
    proteins: Annotated[Path, Argument(help="FASTA file, or embeddings of protlm embed (.h5, .npz).")],
    output: Annotated[Path, Option("--output", "-o", help="Folder to write: table, page, bundle for ProtSpace.")],
    model: Model = None,
    method: Annotated[str, Option(help="pca, or umap, which requires umap-learn.")] = "pca",
    labels: Annotated[
        Path | None, Option(help="Table (.csv, .tsv, .parquet) with a column id; its columns are shown.")
    ] = None,
    overwrite: Overwrite = False,
    color: Annotated[str | None, Option(help="Column of --labels for colours. Default: the first one.")] = None,
    layer: Annotated[int, Option(help="Layer to embed; -1 is the last.")] = -1,
    neighbours: Annotated[int, Option(min=2, help="Of UMAP: more keep more of the global structure.")] = 15,
    min_dist: Annotated[float, Option(help="Of UMAP: lowest distance of points.")] = 0.1,
    seed: Annotated[int, Option(help="Of UMAP.")] = 0,
    token_budget: Budget = 16_384,
    device: Device = "auto",
    attention_backend: Backend = "auto",
    packed_batches: Packed = None,
    invalid: Invalid = "error",
    allow_nucleotides: Nucleotides = False,
) -> None:
    """Draw proteins or other sequences as points in a plane: similar embeddings are close to each other."""
    from protlm.annotation.annotate import embedded
    from protlm.annotation.coordinates import coordinates_of
    from protlm.annotation.map import label_columns, write_map_folder
    from protlm.annotation.reference import read_records
    from protlm.embedding.stored_vectors import read_stored_vectors

    check_outputs({"--output": (output, FOLDER)}, [proteins, *filter(None, [labels])])
    if output.exists() and not overwrite:
        raise UserError(f"{output}: already exists; to replace its files, use --overwrite")
    if color is not None and labels is None:
        raise UserError("--color requires --labels")
    records, notes, vectors, loaded, kind = [], [], None, None, "protein"
    if proteins.suffix.lower() in (*HDF5.suffixes, ".npz"):
        stored = read_stored_vectors(proteins)
        ids, vectors, kind = stored.ids, stored.vectors, "sequence"  # of any alphabet, which the file does not tell
    else:
        options: dict[str, Any] = {"attention_backend": attention_backend, "packed_batches": packed_batches}
        only = "embed the sequences with it (protlm embed, .h5 or .npz), and map the embeddings"
        path = required(model, "; embeddings (.h5, .npz) in place of a FASTA file need none")
        loaded = LateNetwork(path, device, only=only, **options)
        _, records, notes = read_records(proteins, "proteins", invalid, allow_nucleotides)
        ids = [record.id for record in records]
    columns = {} if labels is None else label_columns(labels, ids, str(proteins))
    if color is not None and color not in columns:
        raise UserError(f"--color {color!r}: no such column in {labels}; found: {', '.join(columns) or 'none'}")
    if vectors is None:
        assert loaded is not None
        with progress("embedding", "residues") as report:
            vectors = embedded(loaded.network, [record.sequence for record in records], layer, token_budget, report)
    coordinates = coordinates_of(vectors, method, neighbours, min_dist, seed)
    chosen = color or next(iter(columns), None)
    written = write_map_folder(output, f"Map of {proteins.name}", ids, coordinates, columns, chosen, kind)
    say(f"{counted(len(ids), kind)}, {' and '.join(coordinates.axes)}: {', '.join(map(str, written))}", *notes)


def _text(cell: str | float | None) -> str:
    if cell is None:
        return ""
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
