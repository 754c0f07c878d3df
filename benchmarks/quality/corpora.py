"""The two corpora of the comparison.

families: the sample in data/, 20 families. Members are split by sequence; its 3 held-out families are the split ood,
and two of them have a relative in training.
swissprot: all proteins of a FASTA file. Each cluster is assigned to one split as a whole; a fraction of them is ood.

Held-out clusters are chosen by the hash of the representative's id, so the choice is the same everywhere.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import read_json
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.splits import SplitRule, digests, read_clusters, read_ids
from protlm.errors import UserError
from protlm.sequence.stream import Source, read_through

CORPORA = ("families", "swissprot")
DATA = Path(__file__).parents[2] / "data"


@dataclass(frozen=True)
class Sources:
    """The inputs of a corpus.

    Args:
        fasta: proteins.
        clusters: table of their clusters: representative, tab, member.
        ood: file with ids of proteins or clusters to hold out; None draws a fraction.
        ood_share: fraction of the clusters to hold out if there is no such file.
        valid: fraction of the proteins (families) or clusters for validation.
        test: fraction for the test split.
        whole_clusters: whether a cluster is assigned to one split as a whole.
    """

    fasta: Path
    clusters: Path
    ood: Path | None = None
    ood_share: float = 0.05
    valid: float = 0.05
    test: float = 0.1
    whole_clusters: bool = True

    def key(self) -> dict[str, Any]:
        """Everything the corpus depends on, ready for JSON."""
        return {
            "fasta": read_through(self.fasta)["xxh3_128"],
            "clusters": read_through(self.clusters)["xxh3_128"],
            "held_out": read_through(self.ood)["xxh3_128"] if self.ood else self.ood_share,
            "splits": [self.valid, self.test, self.whole_clusters],
        }


SAMPLE = Sources(
    DATA / "families.fasta.gz",
    DATA / "families.clusters.tsv",
    DATA / "families.ood.txt",
    valid=0.1,
    test=0.2,  # of 2,000 proteins; with a tenth, chance exceeds the half point the comparison is meant to detect
    whole_clusters=False,
)
"""The inputs of the corpus families."""


def make_corpus(name: str, sources: Sources, folder: Path) -> Path:
    """The corpus FOLDER/NAME.h5, prepared unless it already exists with the same inputs.

    Raises:
        UserError: for unusable files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, about, key = folder / f"{name}.h5", folder / f"{name}.json", sources.key()
    if path.exists() and about.exists() and read_json(about) == key:
        return path
    print(f"preparing {path}", flush=True)
    about.unlink(missing_ok=True)
    if sources.ood:
        held_out = sorted(read_ids(sources.ood))
    else:
        clusters = by_hash(set(table_of(sources.clusters).values()))
        if len(clusters) < 2:
            raise UserError(f"{sources.clusters}: has {len(clusters)} clusters; expected at least 2")
        held_out = clusters[: round(sources.ood_share * len(clusters))]
    (folder / f"{name}.ood.txt").write_text("".join(f"{cluster}\n" for cluster in held_out))
    rule = SplitRule(sources.valid, sources.test, sources.clusters, sources.whole_clusters, frozenset(held_out))
    summary = prepare_corpus([sources.fasta], path, rule)
    print(*summary.describe(path), sep="\n", flush=True)
    about.write_text(json.dumps(key) + "\n")
    return path


def table_of(path: Path) -> dict[str, str]:
    """Member -> representative."""
    table: dict[str, str] = {}
    for members, representatives in read_clusters(Source(path)):
        table.update((m.decode(), r.decode()) for m, r in zip(members, representatives, strict=True))
    return table


def by_hash(names: Any) -> list[str]:
    """Names sorted by hash: independent of their input order and of the order that the splits use.

    >>> by_hash(["P1", "P2", "P3"]) == by_hash(["P3", "P1", "P2"])
    True
    """
    names = sorted(names)
    if not names:
        return []
    hashes = digests([name.encode() for name in names])[:, 1].tolist()  # splits use the first half
    return [name for _, name in sorted(zip(hashes, names, strict=True))]
