"""Synthetic families of proteins: a query and its homologs, by mutation."""

import random

from protlm.sequence.alphabet import STANDARD

QUERY = "MSIQHFRVALIPFFAAFCLPVFAHPETLVKVKDAEDQLGARVGYIELDLNSGKILESFRPEERFPMMSTFKVLLCGAVLSRVDAGQEQLG"


def mutated(sequence: str, rate: float, generator: random.Random, gaps: float = 0.0) -> str:
    """A sequence in which residues are substituted, and deleted or inserted, at random."""
    letters = []
    for letter in sequence:
        if generator.random() < gaps / 2:
            continue
        letters.append(generator.choice(STANDARD) if generator.random() < rate else letter)
        if generator.random() < gaps / 2:
            letters.append(generator.choice(STANDARD))
    return "".join(letters)


def unrelated(generator: random.Random, length: int = 120) -> str:
    return "".join(generator.choices(STANDARD, k=length))


def database(homologs: int = 30, others: int = 300, seed: int = 0) -> list[tuple[str, str]]:
    """Names and sequences: homologs of `QUERY` of falling identity, each between random residues, among others."""
    generator = random.Random(seed)
    records = [(f"u{n}", unrelated(generator, generator.randint(50, 300))) for n in range(others)]
    for n in range(homologs):
        core = mutated(QUERY, 0.1 + 0.7 * n / homologs, generator, 0.02)
        sequence = unrelated(generator, 20) + core + unrelated(generator, 30)
        records.insert(generator.randrange(len(records)), (f"h{n}", sequence))
    return records
