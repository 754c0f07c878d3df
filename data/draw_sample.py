"""Selects the sample of this folder from Swiss-Prot and a table of its clusters at 50 % identity.

    python data/draw_sample.py SWISSPROT.fasta.zst CLUSTERS.tsv.zst

The selection follows a fixed rule. Candidates are complete clusters of 100 to 150 proteins with a mean length of 80 to
400 residues and no member below 40, in the order of the BLAKE2b hash of their representative. Two clusters are related
if they share at least 10 % of their frequent 4-mers (of the cluster that has fewer), and unrelated below 5 %. The
sample has the first two related pairs and the first 16 candidates that are unrelated to all others. The second of each
pair, whose relative is in training, and the third unrelated cluster are held out ("ood").
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
PAIRS, UNRELATED, HELD_OUT_UNRELATED = 2, 16, 2


def open_zst(path: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(open(path, "rb")))


def frequent_words(sequences: list[str], length: int = 4, share: float = 0.15) -> set[str]:
    """The words of `length` residues that occur in at least `share` of the sequences."""
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
    needed = {member for ids in large.values() for member in ids}
    entries = {
        title.split()[0]: (title, sequence)
        for title, sequence in SimpleFastaParser(open_zst(fasta))
        if title.split()[0] in needed
    }
    sequences = {name: [entries[member][1] for member in ids] for name, ids in large.items()}
    words = {name: frequent_words(seqs) for name, seqs in sequences.items()}

    def is_candidate(name: str) -> bool:
        lengths = [len(sequence) for sequence in sequences[name]]
        return min(lengths) >= 40 and 80 <= sum(lengths) / len(lengths) <= 400

    def shared(one: str, other: str) -> float:
        return len(words[one] & words[other]) / max(1, min(len(words[one]), len(words[other])))

    order = sorted(large, key=lambda name: hashlib.blake2b(name.encode()).digest())
    candidates = [name for name in order if is_candidate(name)]
    related = [(a, b) for i, a in enumerate(candidates) for b in candidates[i + 1 :] if shared(a, b) >= 0.1][:PAIRS]
    unrelated = [a for a in candidates if all(shared(a, b) < 0.05 for b in large if b != a)][:UNRELATED]
    held_out = [b for _, b in related] + [unrelated[HELD_OUT_UNRELATED]]
    chosen = [name for pair in related for name in pair] + unrelated
    # no time stamp or name in the gzip header, so that the same input gives the same bytes
    with open(HERE / "families.fasta.gz", "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
        for name in chosen:
            for member in large[name]:
                title, sequence = entries[member]
                lines = [sequence[i : i + 60] for i in range(0, len(sequence), 60)]
                out.write("\n".join([f">{title}", *lines, ""]).encode())
    table = [f"{name}\t{member}" for name in chosen for member in large[name]]
    (HERE / "families.clusters.tsv").write_text("\n".join(table) + "\n")
    (HERE / "families.ood.txt").write_text("".join(f"{name}\n" for name in held_out))
    for name in chosen:
        lengths = [len(sequence) for sequence in sequences[name]]
        terms = next((word[2:] for word in entries[name][0].split() if word.startswith("M=")), "")
        role = "" if name not in held_out else "held out, no relative" if name in unrelated else "held out"
        print(f"| {name} | {len(lengths)} | {sum(lengths) / len(lengths):.0f} | {terms} | {role} |")


if __name__ == "__main__":
    draw(*sys.argv[1:])
