r"""Selects members of large clusters to hold out as the `ood` split of a corpus of Swiss-Prot.

    python data/draw_members.py CLUSTERS.tsv.zst > members.txt
    protlm prepare SWISSPROT.fasta.zst --clusters CLUSTERS.tsv.zst --valid 0.01 --test 0.02 --ood members.txt \
        -o CORPUS.h5

Rule: in each cluster of at least 100 proteins that these shares assign to training, the proteins whose id hashes, as a
fraction, to less than 0.02. So `test` has held-out clusters, and `ood` has new members of training clusters.
"""

import argparse
from collections import defaultdict
from pathlib import Path

from protlm.corpus.splits import TRAIN, SplitRule, digests, read_clusters
from protlm.sequence.stream import Source

LEAST, SHARE = 100, 0.02
RULE = SplitRule(valid=0.01, test=0.02)


def draw(clusters: Path) -> list[str]:
    """The sorted ids."""
    members: dict[bytes, list[bytes]] = defaultdict(list)
    for block, representatives in read_clusters(Source(clusters)):
        for member, representative in zip(block, representatives, strict=True):
            members[representative].append(member)
    large = [representative for representative, own in members.items() if len(own) >= LEAST]
    trained_on = RULE.by_hash(digests(large)[:, 0]) == TRAIN
    names = [name for head, kept in zip(large, trained_on, strict=True) if kept for name in members[head]]
    chosen = digests(names)[:, 0] < SHARE * 2.0**64
    return sorted(name.decode() for name, drawn in zip(names, chosen, strict=True) if drawn)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clusters", type=Path)
    print(*draw(parser.parse_args().clusters), sep="\n")
