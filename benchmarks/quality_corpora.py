"""The two corpora of benchmarks/quality.py, made from a FASTA file and a table of its clusters.

families: the largest clusters; members are split by sequence, and a share of the clusters is held out whole (ood).
swissprot: all proteins; each cluster goes to one side as a whole, and a share of the clusters is ood.

Which clusters are held out goes by the hash of the representative's id, so it is the same wherever it is drawn.
"""

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protlm.errors import UserError
from protlm.output import unfinished
from protlm.sequence.fasta import FastaFile
from protlm.sequence.prepare import prepare_corpus
from protlm.sequence.splits import SplitRule, digests, read_clusters, read_ids
from protlm.sequence.stream import Source, checksum

CORPORA = ("families", "swissprot")


@dataclass(frozen=True)
class Sources:
    """What the corpora are made from.

    Args:
        fasta: proteins.
        clusters: table of their clusters: representative, tab, member.
        families: how many of the largest clusters are taken.
        families_ood: share of them that is held out.
        ood: file of ids of proteins or clusters that are the ood split of all proteins; None draws a share.
        ood_share: of the clusters, if there is no such file.
    """

    fasta: Path
    clusters: Path
    families: int = 24
    families_ood: float = 0.125
    ood: Path | None = None
    ood_share: float = 0.05

    def key(self, name: str) -> dict[str, Any]:
        """All that a corpus depends on, ready for JSON."""
        key: dict[str, Any] = {"fasta": checksum(self.fasta), "clusters": checksum(self.clusters)}
        if name == "families":
            return {**key, "families": self.families, "held_out": self.families_ood}
        return {**key, "held_out": checksum(self.ood) if self.ood else self.ood_share}


def make_corpus(name: str, sources: Sources, folder: Path) -> Path:
    """The corpus of that name, made in a folder unless it is there already, made from the same.

    Raises:
        UserError: for a name that is not in `CORPORA`, and for files that cannot be used.
    """
    if name not in CORPORA:
        raise UserError(f"corpus {name!r}: expected one of {', '.join(CORPORA)}")
    folder.mkdir(parents=True, exist_ok=True)
    path, about, key = folder / f"{name}.h5", folder / f"{name}.json", sources.key(name)
    if path.exists() and about.exists() and json.loads(about.read_text()) == key:
        return path
    print(f"preparing {path}", flush=True)
    about.unlink(missing_ok=True)
    members = table_of(sources.clusters)
    fasta, whole = sources.fasta, True
    if name == "families":
        chosen, fasta, whole = _draw_families(sources, members, folder), folder / "families.fasta", False
        held_out = by_hash(chosen)[: max(1, round(sources.families_ood * len(chosen)))]
    elif sources.ood:
        held_out = sorted(read_ids(sources.ood))
    else:
        clusters = by_hash(set(members.values()))
        held_out = clusters[: round(sources.ood_share * len(clusters))]
    (folder / f"{name}.ood.txt").write_text("".join(f"{cluster}\n" for cluster in held_out))
    rule = SplitRule(clusters=sources.clusters, whole_clusters=whole, held_out=frozenset(held_out))
    summary = prepare_corpus([fasta], path, rule)
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
    """Names in an order that depends on nothing else; another one than that of the splits.

    >>> by_hash(["P1", "P2", "P3"]) == by_hash(["P3", "P1", "P2"])
    True
    """
    names = sorted(names)
    if not names:
        return []
    hashes = digests([name.encode() for name in names])[:, 1].tolist()  # splits go by the first half
    return [name for _, name in sorted(zip(hashes, names, strict=True))]


def _draw_families(sources: Sources, members: dict[str, str], folder: Path) -> list[str]:
    """Writes the members of the largest clusters as families.fasta; ties go by hash."""
    sizes = Counter(members[record.id] for record in FastaFile(sources.fasta) if record.id in members)
    if len(sizes) < 2:
        raise UserError(f"{sources.clusters}: names {len(sizes)} clusters of {sources.fasta}; expected 2 at least")
    chosen = sorted(by_hash(sizes), key=lambda name: -sizes[name])[: sources.families]
    kept, target = set(chosen), folder / "families.fasta"
    with unfinished(target) as partial:
        with (partial / target.name).open("w") as file:
            for record in FastaFile(sources.fasta):
                if members.get(record.id) in kept:
                    file.write(f">{record.id} {record.description}".rstrip() + f"\n{record.sequence}\n")
        os.replace(partial / target.name, target)
    return chosen
