"""Statistics of a corpus: lengths by split, residue frequencies, clusters, unigram baseline."""

from pathlib import Path
from typing import Any

import numpy as np

from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SPLITS
from protlm.files import write_picture
from protlm.sequence.alphabets import PROTEIN, alphabet_of
from protlm.sequence.alphabets import describe as described
from protlm.sequence.tally import Tally
from protlm.tables import aligned

_ROWS = 1 << 20  # proteins read at a time


def length_counts(corpus: Corpus) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split -> distinct lengths in residues, ascending, and the number of proteins of each; without empty splits."""
    totals: list[dict[int, int]] = [{} for _ in SPLITS]
    for start in range(0, len(corpus), _ROWS):
        lengths = np.diff(corpus.offsets[start : start + _ROWS + 1])
        split = corpus.split[start : start + _ROWS]
        for code, total in enumerate(totals):
            values, counts = np.unique(lengths[split == code], return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                total[value] = total.get(value, 0) + count
    return {
        name: (np.array(sorted(total)), np.array([total[length] for length in sorted(total)]))
        for name, total in zip(SPLITS, totals, strict=True)
        if total
    }


def describe_lengths(lengths: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Count, min, max, mean, standard deviation (of the population), median of lengths (k,) that occur `counts` times.

    >>> describe_lengths(np.array([2, 4]), np.array([3, 1]))
    {'count': 4, 'min': 2, 'max': 4, 'mean': 2.5, 'std': 0.8660254037844386, 'median': 2.0}
    """
    count = int(counts.sum())
    mean = float((lengths * counts).sum() / count)
    ends = np.cumsum(counts)
    middle = [int(lengths[np.searchsorted(ends, rank, side="right")]) for rank in ((count - 1) // 2, count // 2)]
    return {
        "count": count,
        "min": int(lengths[0]),
        "max": int(lengths[-1]),
        "mean": mean,
        "std": float(np.sqrt((counts * (lengths - mean) ** 2).sum() / count)),
        "median": sum(middle) / 2,
    }


def describe(corpus: Corpus) -> dict[str, Any]:
    """Computes all statistics of a corpus, ready for JSON.

    Returns:
        "alphabet": unless it is that of proteins. "splits": split -> `describe_lengths`, "residues", "clusters" (None
        without), and accuracy and perplexity of the unigram baseline (Laplace-smoothed training frequencies) over its
        scored residues; "all" is the whole corpus.
        "frequencies": split -> letter -> fraction of its residues. "clusters": count, largest, singletons, median size;
        None without. "sources", "changes", "options": as recorded by `prepare`.
    """
    by_split, sizes = length_counts(corpus), _cluster_sizes(corpus)
    unigram = corpus.unigram()
    splits, frequencies = {}, {}
    together: dict[int, int] = {}
    for lengths, counts in by_split.values():
        for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
            together[length] = together.get(length, 0) + count
    whole = np.array(sorted(together)), np.array([together[length] for length in sorted(together)])
    for name, (lengths, counts) in {**by_split, "all": whole}.items():
        tokens = corpus.residue_counts.sum(0) if name == "all" else corpus.residue_counts[SPLITS.index(name)]
        scored = np.where(corpus.alphabet.scored, tokens, 0)
        clusters = None
        if corpus.clusters is not None:
            clusters = len(sizes) if name == "all" else len(corpus.groups(name)) - 1
        splits[name] = {
            **describe_lengths(lengths, counts),
            "residues": int(tokens.sum()),
            "clusters": clusters,
            "unigram_accuracy": unigram.accuracy(scored),
            "unigram_perplexity": unigram.perplexity(scored),
        }
        shares = (tokens / tokens.sum()).tolist()
        frequencies[name] = {token: share for token, share in zip(corpus.alphabet.tokens, shares, strict=True) if share}
    name = {} if corpus.alphabet == PROTEIN else {"alphabet": described(corpus.alphabet)}
    return {**name, "splits": splits, "frequencies": frequencies, "clusters": _clusters(sizes), **corpus.attributes}


def _cluster_sizes(corpus: Corpus) -> np.ndarray:
    """(clusters,) int64, number of proteins in each; empty without clusters."""
    sizes = np.zeros(0, dtype=np.int64)
    for start in range(0, len(corpus) if corpus.clusters is not None else 0, _ROWS):
        assert corpus.clusters is not None
        counts = np.bincount(corpus.clusters[start : start + _ROWS], minlength=len(sizes))
        counts[: len(sizes)] += sizes
        sizes = counts
    return sizes[sizes > 0]


def _clusters(sizes: np.ndarray) -> dict[str, float] | None:
    if not len(sizes):
        return None
    return {
        "count": len(sizes),
        "largest": int(sizes.max()),
        "singletons": int((sizes == 1).sum()),
        "median": float(np.median(sizes)),
    }


def format_description(figures: dict[str, Any]) -> str:
    """Formats the statistics of `describe`, with a table of lengths as in the Performer paper."""
    lines = [
        f"made from {source['name']} ({source['bytes']:,} bytes, XXH3-128 {source['xxh3_128']})"
        for source in figures["sources"]
    ]
    alphabet = alphabet_of(figures.get("alphabet", "protein"))
    unit, records = alphabet.unit, f"{alphabet.record}s"
    lines += Tally(figures["changes"]).describe(unit)
    columns = (records, f"{unit}s", "min", "max", "mean", "std", "median", "clusters", "accuracy", "perplexity")
    rows = []
    for name, row in figures["splits"].items():
        whole = [row[key] for key in ("count", "residues", "min", "max")]
        parts = [row[key] for key in ("mean", "std", "median")]
        clusters = "-" if row["clusters"] is None else f"{row['clusters']:,}"
        baseline = [f"{100 * row['unigram_accuracy']:.2f} %", f"{row['unigram_perplexity']:.2f}"]
        rows.append([name, *(f"{n:,}" for n in whole), *(f"{n:,.1f}" for n in parts), clusters, *baseline])
    lines += ["", aligned(["split", *columns], rows)]
    baseline = "accuracy and perplexity of the unigram baseline (training frequencies, Laplace-smoothed)"
    lines += ["", f"lengths in {unit}s; {baseline}"]
    if clusters := figures["clusters"]:
        lines.append(
            f"clusters: {clusters['count']:,}, largest {clusters['largest']:,}, median {clusters['median']:g}, "
            f"singletons {clusters['singletons']:,}"
        )
    frequencies = sorted(figures["frequencies"]["all"].items(), key=lambda item: -item[1])
    cells = [f"{token} {100 * share:5.2f}" for token, share in frequencies]
    lines += ["", f"{unit} frequencies in percent:"]
    lines += ["   ".join(cells[start : start + 10]) for start in range(0, len(cells), 10)]
    return "\n".join(lines)


def draw_lengths(corpus: Corpus, path: str | Path) -> None:
    """Draws a histogram of the lengths in each split; the suffix sets the format (.png, .pdf, .svg)."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    by_split = length_counts(corpus)
    longest = max(int(lengths[-1]) for lengths, _ in by_split.values())
    shortest = min(int(lengths[0]) for lengths, _ in by_split.values())
    # integer edges on a logarithmic axis, so that no bin is empty for short proteins
    edges = np.unique(np.round(np.geomspace(shortest, longest + 1, 80))) - 0.5
    figure = Figure(figsize=(7, 0.7 + 1.3 * len(by_split)), layout="constrained")
    panels = figure.subplots(len(by_split), sharex=True, squeeze=False)[:, 0]
    for axes, (name, (lengths, counts)) in zip(panels, by_split.items(), strict=True):
        heights, _ = np.histogram(lengths, edges, weights=counts)
        axes.stairs(heights, edges, fill=True, color="C0")
        median = describe_lengths(lengths, counts)["median"]
        axes.axvline(median, color="C1", lw=1.2)
        axes.set(xscale="log", ylabel=name)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_title(
            f"{counts.sum():,} {corpus.alphabet.record}s, median {median:,g}", loc="right", fontsize="medium"
        )
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel(f"length ({corpus.alphabet.unit}s)")
    panels[-1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if longest < 50 * shortest else (1,)))
    panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    panels[-1].xaxis.set_minor_formatter(NullFormatter())
    write_picture(Path(path), figure)
