"""All figures of a model card: masked residues against the unigram baseline, mutational scans against BLOSUM62.

    python -m benchmarks.card MODEL CORPUS DMS_DIR

evaluates a bidirectional model on the test and ood splits of CORPUS and scores the assays of DMS_DIR, a folder for
`protlm proteingym`. It prints Markdown tables and writes a CSV file with all figures. Splits are labelled by the
relation of their proteins to those in training: held-out clusters, or new members of training clusters. Masking is that
of `protlm evaluate` and scoring that of `protlm proteingym`, with their defaults.

The unigram score of a variant is the sum over its substitutions of log f(mutant) - log f(wild type), with the
frequencies f of the residues in the training split of CORPUS.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import positive, program
from benchmarks.tables import check_outputs, markdown
from protlm.corpus.reader import Corpus
from protlm.corpus.unigram import Unigram
from protlm.correlation import spearman
from protlm.errors import UserError
from protlm.inference.engine import Computer
from protlm.inference.evaluate import SplitResults, evaluate
from protlm.model_api import load
from protlm.performer import Performer
from protlm.proteingym.assays import UNKNOWN, Assays, find_assays
from protlm.proteingym.benchmark import BLOSUM, MODEL, benchmark
from protlm.proteingym.correlation import Result, averages
from protlm.proteingym.sources import sources_of
from protlm.sequence.alphabet import INDEX, STANDARD
from protlm.tables import write_table
from protlm.variants.knowledge import Knowledge
from protlm.variants.notation import Variants
from protlm.variants.variant_table import VariantTable

COLUMNS = ("set", "part", "count", "figure", "model", "unigram", "blosum62")
"""Columns of the CSV: count is scored residues or variants; figure is accuracy, perplexity or Spearman."""
UNIGRAM = "unigram"
ALL = "all"
Row = dict[str, Any]


def masked(results: dict[str, SplitResults]) -> Iterator[Row]:
    """Two rows, accuracy and perplexity, for each split and each of its parts."""
    for split, result in results.items():
        parts = {ALL: {**result, "asked": result.scored}}
        for row in result.by_length:
            parts[f"{row['min']:,}-{row['max']:,}" if row["max"] else f"{row['min']:,} and more"] = row
        for part, row in (parts | result.by_residue).items():
            for figure in ("accuracy", "perplexity"):
                values = {"model": row[figure], "unigram": row[f"unigram_{figure}"]}
                yield {"set": split, "part": part, "count": row["asked"], "figure": figure, **values}


def described(corpus: Corpus, split: str) -> str:
    """The label of a split: how its proteins relate to those in training, if the corpus has clusters."""
    if corpus.clusters is None:
        return split
    known = np.isin(corpus.clusters[corpus.members(split)], corpus.clusters[corpus.members("train")])
    if known.all():
        return f"{split}: new members of training clusters"
    return f"{split}: {known.mean():.0%} from training clusters" if known.any() else f"{split}: held-out clusters"


def frequency_score(variants: Variants, unigram: Unigram) -> np.ndarray:
    """The unigram score of each variant, (n,) float64; 0 for the wild type."""
    log = np.log([unigram.probabilities[INDEX[letter]] for letter in STANDARD])
    gains = log[variants.mutant] - log[variants.wild_type]
    return np.bincount(variants.variant, gains, minlength=len(variants))


def scans(computer: Computer, assays: Assays, unigram: Unigram) -> Iterator[Row]:
    """A row for each assay, then ProteinGym's average, or the mean over assays if their selection type is unknown."""
    results: list[Result] = []
    sources = sources_of(Knowledge(model=computer))
    for result in benchmark(assays, sources):
        table = VariantTable(result.assay.path, result.assay.sequence)
        values = frequency_score(table.variants, unigram)
        result.correlations[UNIGRAM] = spearman(values, table.table.numbers("DMS_score"))
        results.append(result)
        yield _scan(result.assay.id, result.variants, result.correlations)
    proteins, kinds = [r.assay.uniprot for r in results], [r.assay.selection for r in results]
    means = {
        name: averages([result.correlations[name] for result in results], proteins, kinds)[1]
        for name in (MODEL, UNIGRAM, BLOSUM)
    }
    name = "mean" if set(kinds) == {UNKNOWN} else "average"
    yield _scan(name, sum(result.variants for result in results), means)


def _scan(assay: str, variants: int, correlations: dict[str, float]) -> Row:
    values = {"model": correlations[MODEL], "unigram": correlations[UNIGRAM], "blosum62": correlations[BLOSUM]}
    return {"set": assay, "part": ALL, "count": variants, "figure": "Spearman", **values}


def masked_table(rows: Sequence[Row], key: str, name: str) -> str:
    """A line for each value of the column `key`; by residue, the unigram accuracy is omitted as meaningless."""
    beside = ("accuracy", "perplexity")[key == "part" and all(len(row[key]) == 1 for row in rows) :]
    lines: dict[str, list[str]] = {}
    header = [name, "scored residues"]
    for row in rows:
        cells = lines.setdefault(row[key], [f"{row['count']:,}"])
        for column in COLUMNS[4:6] if row["figure"] in beside else COLUMNS[4:5]:
            cells.append(f"{100 * row[column]:.1f} %" if row["figure"] == "accuracy" else f"{row[column]:.2f}")
            if len(lines) == 1:
                header.append(row["figure"] if column == "model" else column)
    return markdown(header, [[name, *cells] for name, cells in lines.items()], numbers=True)


def report(rows: Sequence[Row]) -> str:
    """The Markdown tables of a model card; the README has the first two."""
    residues = [row for row in rows if row["figure"] != "Spearman"]
    tables = [masked_table([row for row in residues if row["part"] == ALL], "set", "split")]
    cells = [
        [row["set"], f"{row['count']:,}", *("-" if math.isnan(row[c]) else f"{row[c]:.3f}" for c in COLUMNS[4:])]
        for row in rows
        if row["figure"] == "Spearman"
    ]
    head = ("deep mutational scan", "variants", "Spearman", "unigram", "BLOSUM62")
    tables.append(markdown(head, cells, numbers=True))
    for split in dict.fromkeys(row["set"] for row in residues):
        parts = [row for row in residues if row["set"] == split and row["part"] != ALL]
        for name, letters in (("length", False), ("residue", True)):
            some = [row for row in parts if (len(row["part"]) == 1) == letters]
            tables.append(masked_table(some, "part", f"{split}, by {name}"))
    return "\n\n".join(tables)


def measure(model: Performer, corpus: Corpus, folder: Path, token_budget: int) -> list[Row]:
    """All rows of the CSV.

    Raises:
        UserError: for a causal model, a corpus without test and ood splits, or a folder without assays.
    """
    if model.config.causal:
        raise UserError("the model is causal; expected a bidirectional one")
    assays = find_assays(folder)
    results = evaluate(model, corpus, token_budget=token_budget)
    rows = list(masked({described(corpus, split): result for split, result in results.items()}))
    return [*rows, *scans(Computer(model, token_budget), assays, corpus.unigram())]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder or checkpoint")
    parser.add_argument("corpus", type=Path, help="made by protlm prepare, with a test or ood split")
    parser.add_argument("folder", type=Path, metavar="dms_dir", help="folder with a CSV file per assay, and wt.fasta")
    parser.add_argument("--csv", type=Path, default=Path("docs/results/card.csv"))
    parser.add_argument("--token-budget", type=positive, default=16_384)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    check_outputs(options.csv)
    model = load(options.model, options.device)
    rows = measure(model, Corpus(options.corpus), options.folder, options.token_budget)
    write_table(options.csv, COLUMNS, ([_cell(row.get(column, "")) for column in COLUMNS] for row in rows))
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{options.model}: {parameters:,} parameters; on {options.corpus} and {options.folder}\n\n{report(rows)}")


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    program(main)
