"""Draws the sample of this folder from Swiss-Prot and a table of its clusters at 50 % identity.

    python data/draw_sample.py SWISSPROT.fasta.zst CLUSTERS.tsv.zst

The rule, so that nobody's taste is in it: clusters of 100 to 150 proteins, whole; a mean length of 80 to 400
residues, no member under 40; fewer than 5 % of the frequent 4-mers of the cluster shared with any other candidate
(so that a held-out family has no near relative in training). The candidates are put in the order of the BLAKE2b hash of
their representative; the first 20 are the sample and the 3rd, 9th and 15th of these are held out whole ("ood").
"""

import collections
import gzip
import hashlib
import io
import sys
from pathlib import Path

import zstandard
from Bio.SeqIO.FastaIO import SimpleFastaParser

HERE = Path(__file__).parent
FAMILIES = 20
HELD_OUT = (2, 8, 14)


def open_zst(path: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(open(path, "rb")))


def frequent_words(sequences: list[str], length: int = 4, share: float = 0.15) -> set[str]:
    """The words of `length` residues found in at least `share` of the sequences."""
    counts: collections.Counter[str] = collections.Counter()
    for sequence in sequences:
        counts.update({sequence[i : i + length] for i in range(len(sequence) - length + 1)})
    return {word for word, count in counts.items() if count >= share * len(sequences)}


def draw(fasta: str, clusters: str) -> None:
    members = collections.defaultdict(list)
    for line in open_zst(clusters):
        representative, member = line.split()
        members[representative].append(member)
    large = {name: ids for name, ids in members.items() if 100 <= len(ids) <= 150}
    wanted = {member for ids in large.values() for member in ids}
    entries = {
        title.split()[0]: (title, sequence)
        for title, sequence in SimpleFastaParser(open_zst(fasta))
        if title.split()[0] in wanted
    }
    sequences = {name: [entries[member][1] for member in ids] for name, ids in large.items()}
    words = {name: frequent_words(seqs) for name, seqs in sequences.items()}

    def is_candidate(name: str) -> bool:
        lengths = [len(sequence) for sequence in sequences[name]]
        nearest = max(
            len(words[name] & words[other]) / max(1, min(len(words[name]), len(words[other])))
            for other in large
            if other != name
        )
        return min(lengths) >= 40 and 80 <= sum(lengths) / len(lengths) <= 400 and nearest < 0.05

    order = sorted(filter(is_candidate, large), key=lambda name: hashlib.blake2b(name.encode()).digest())
    chosen = order[:FAMILIES]
    # no time stamp and no name in the gzip header, so that the same input gives the same bytes
    with open(HERE / "families.fasta.gz", "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
        for name in chosen:
            for member in large[name]:
                title, sequence = entries[member]
                lines = [sequence[i : i + 60] for i in range(0, len(sequence), 60)]
                out.write("\n".join([f">{title}", *lines, ""]).encode())
    table = [f"{name}\t{member}" for name in chosen for member in large[name]]
    (HERE / "families.clusters.tsv").write_text("\n".join(table) + "\n")
    (HERE / "families.ood.txt").write_text("".join(f"{chosen[i]}\n" for i in HELD_OUT))
    for rank, name in enumerate(chosen):
        lengths = [len(sequence) for sequence in sequences[name]]
        role = "held out" if rank in HELD_OUT else ""
        print(f"| {name} | {len(lengths)} | {sum(lengths) / len(lengths):.0f} | {entries[name][0]} | {role} |")


if __name__ == "__main__":
    draw(*sys.argv[1:])
