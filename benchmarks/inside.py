"""What a trained model has learned about amino acids: attention maps, similarities against BLOSUM62, embeddings.

    python -m benchmarks.inside MODEL FASTA              # seven minutes on one core for 0.93 million parameters
    python -m benchmarks.inside MODEL CORPUS.h5          # the test split of a corpus

Similarities of the twenty amino acids by attention, embedding matrix, mean contextual embeddings and predictions are
correlated with BLOSUM62 over the 190 pairs (Choromanski et al. 2021, appendix; Vig et al. 2021, 4.1). The table has two
controls, since both give correlations that could be mistaken for knowledge: models of the same configuration with
random weights, and uniform attention, which reflects only the co-occurrence of residues in the proteins.
"""

import argparse
import math
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.interpret.residue_attention import attention_sums, log_odds
from benchmarks.interpret.similarity import (
    agreement,
    contextual_embedding,
    cosine_similarity,
    predicted,
    prediction_similarity,
    residue_embedding,
)
from benchmarks.measure import natural, positive, program
from benchmarks.plots.interpret import attention_maps, residue_map, similarity_matrices
from benchmarks.tables import check_outputs, write_csv
from protlm import checkpoint
from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.homology.blosum62 import blosum62_matrix
from protlm.interpret.attention_maps import attention_matrices, chosen_blocks
from protlm.performer import Performer
from protlm.sequence.alphabet import decode
from protlm.sequence.fasta import FastaFile, Record

ATTENTION, HEADS, EVEN = "attention, enrichment", "attention, correlation of heads", "even attention"
EMBEDDING, CONTEXT, PREDICTION = "embedding", "contextual embedding", "predictions"
MOST_MAPS = 32
PICTURES = ("attention_maps.png", "similarity.png", "residues.png")


def drawn(records: Iterable[Record], number: int, longest: int, seed: int = 0) -> list[Record]:
    """A random sample of `number` records of at most `longest` residues, or all if there are fewer, in file order."""
    rng = random.Random(seed)
    kept: list[tuple[int, Record]] = []
    for place, record in enumerate(record for record in records if 0 < len(record.sequence) <= longest):
        if len(kept) < number:
            kept.append((place, record))
        elif (at := rng.randrange(place + 1)) < number:
            kept[at] = (place, record)
    return [record for _, record in sorted(kept, key=lambda pair: pair[0])]


def records_of(path: str) -> Iterable[Record]:
    """The records of a FASTA file, or of the test split of a corpus, in file order."""
    if Path(path).suffix != ".h5":
        return FastaFile(path)
    corpus = Corpus(path)
    names = corpus.ids()
    return (Record(names[index], "", decode(corpus[index])) for index in sorted(corpus.members("test").tolist()))


def similarities(model: Performer, sequences: list[str]) -> dict[str, np.ndarray]:
    """Name -> similarity (20, 20) of the amino acids."""
    sums = attention_sums(model, sequences)
    return {
        ATTENTION: sums.enrichment(),
        HEADS: sums.head_correlation(),
        EVEN: log_odds(sums.even),
        EMBEDDING: cosine_similarity(residue_embedding(model)),
        CONTEXT: cosine_similarity(contextual_embedding(model, sequences)),
        PREDICTION: prediction_similarity(predicted(model, sequences)),
    }


def untrained(model: Performer, seed: int) -> Performer:
    """A model of the same configuration with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Performer(model.config).eval().to(next(model.parameters()).device)


def rows(found: dict[str, np.ndarray], weights: str) -> Iterator[dict[str, Any]]:
    """The agreement of each similarity with BLOSUM62."""
    for name, matrix in found.items():
        figures = {
            key: "" if math.isnan(value) else f"{value:.4f}" for key, value in agreement(matrix)._asdict().items()
        }
        yield {"similarity": name, "weights": "none" if name == EVEN else weights, **figures}


def table(found: list[dict[str, Any]]) -> str:
    """Correlations of the model, and the range of those with random weights, as aligned text."""
    lines = [f"{'against BLOSUM62, 190 pairs':<34}{'Pearson':>8}{'p':>8}{'Spearman':>10}{'p':>8}   random: Pearson"]
    for row in found:
        if row["weights"].startswith("random"):
            continue
        others = [r for r in found if r["similarity"] == row["similarity"] and r["weights"].startswith("random")]
        control = [float(r["pearson"]) for r in others if r["pearson"]]
        span = f"{min(control):.3f} to {max(control):.3f}" if control else "-"
        cells = (row[key] or "-" for key in ("pearson", "p_pearson", "spearman", "p_spearman"))
        lines.append("{:<34}{:>8}{:>8}{:>10}{:>8}   {}".format(row["similarity"], *cells, span))
    return "\n".join(lines)


def draw(model: Performer, sequences: list[str], found: dict[str, np.ndarray], mapped: Record, folder: Path) -> None:
    """Draws attention_maps.png for one protein, similarity.png and residues.png."""
    most = max(1, MOST_MAPS // model.config.heads)
    blocks = chosen_blocks(model, None)
    layers = [blocks[i] for i in np.linspace(0, len(blocks) - 1, min(most, len(blocks))).round().astype(int)]
    title = f"{mapped.id}, {len(mapped.sequence)} residues"
    attention = attention_matrices(model, mapped.sequence, layers)
    attention_maps(folder / PICTURES[0], attention, layers, title)
    r = {name: f"r = {agreement(matrix, permutations=1).pearson:.2f}" for name, matrix in found.items()}
    panels = {
        "BLOSUM62": (blosum62_matrix(), "log-odds, half bits"),
        f"attention, {r[ATTENTION]}": (found[ATTENTION], "attention / uniform attention, centred"),
        f"predictions, {r[PREDICTION]}": (found[PREDICTION], "log-odds, bits"),
    }
    similarity_matrices(folder / PICTURES[1], panels)
    places = {
        "embedding matrix": residue_embedding(model),
        "mean contextual embeddings": contextual_embedding(model, sequences),
    }
    residue_map(folder / PICTURES[2], places)


def run(options: argparse.Namespace) -> None:
    """Computes, prints and writes everything."""
    check_outputs(options.csv, *(options.figures / name for name in PICTURES))
    model = checkpoint.load(options.model)
    records = drawn(records_of(options.proteins_of), options.proteins, options.longest)
    if not records:
        raise UserError(f"{options.proteins_of}: no protein of 1 to {options.longest:,} residues; see --longest")
    short = [record for record in records if len(record.sequence) <= options.map_longest]
    mapped = max(short, key=lambda r: len(r.sequence)) if short else min(records, key=lambda r: len(r.sequence))
    sequences = [record.sequence for record in records]
    residues = sum(map(len, sequences))
    trained = similarities(model, sequences)
    found = list(rows(trained, "trained"))
    for number in range(1, options.controls + 1):
        control = similarities(untrained(model, number), sequences)
        del control[EVEN]  # does not depend on the weights
        found += rows(control, f"random {number}")
    about = {"attention": str(model.config.attention_name), "proteins": len(records), "residues": residues}
    print(f"{len(records):,} proteins, {residues:,} residues\n{table(found)}")
    with atomic_output(options.csv) as partial, atomic_output(options.figures / PICTURES[0]) as drawing:
        draw(model, sequences, trained, mapped, drawing.parent)
        write_csv([{**row, **about} for row in found], partial)
        for name in PICTURES[1:]:
            os.replace(drawing.with_name(name), options.figures / name)
    print(f"files: {options.csv}, {options.figures}/{{attention_maps,similarity,residues}}.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inside", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder or checkpoint")
    parser.add_argument(
        "proteins_of",
        metavar="FASTA",
        help="proteins, preferably not trained on, or a corpus (.h5), whose test split is used",
    )
    parser.add_argument("--proteins", type=positive, default=200, help="number of proteins drawn at random")
    parser.add_argument("--longest", type=positive, default=2_000, help="maximum number of residues of the proteins")
    parser.add_argument(
        "--map-longest",
        type=positive,
        default=130,
        help="maximum residues of the mapped protein",
    )
    parser.add_argument("--controls", type=natural, default=5, help="number of models with random weights")
    parser.add_argument("--csv", type=Path, default=Path("docs/results/inside.csv"))
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"), help="folder for the pictures")
    run(parser.parse_args())


if __name__ == "__main__":
    program(main)
