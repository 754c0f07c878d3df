"""What became of the records of an `embed_fasta`, in numbers and in words."""

from dataclasses import dataclass, field

from protlm.errors import counted
from protlm.sequence.tally import Tally


@dataclass
class EmbedSummary:
    """What became of the records of an `embed_fasta`."""

    proteins: int = 0
    """In the output."""
    residues: int = 0
    computed: int = 0
    """Residues of distinct sequences that this run has computed; 0 if the output was complete already."""
    seconds: float = 0.0
    """That computing them took."""
    resumed: int = 0
    """Residues of distinct sequences that an earlier run had computed."""
    copied: int = 0
    """Proteins with the sequence of an earlier one, computed once."""
    renamed: int = 0
    """Identifiers stored under another name, since '/' became '_' or they occur twice."""
    left_out: int = 0
    """Records with the identifier of an earlier one."""
    beyond_positions: int = 0
    """Proteins longer than the positions that the model has learned."""
    tally: Tally = field(default_factory=Tally)
    complete: bool = False
    """The outputs were there already, made from the same; nothing was touched."""

    def describe(self, outputs: str, width: int) -> list[str]:
        """Lines for the end of a run."""
        if self.complete:
            return [f"{outputs}: complete already, made from the same; nothing was done"]
        speed = f"{self.computed / self.seconds:,.0f} residues/s" if self.computed else "nothing left to compute"
        lines = [
            f"{outputs}: {counted(self.proteins, 'protein')}, {counted(self.residues, 'residue')}, width {width:,}; "
            f"{self.seconds:.1f} s, {speed}"
        ]
        for count, noun, what in (
            (self.resumed, "residue", "computed by an earlier run"),
            (self.copied, "protein", "copy of an identical sequence, computed once"),
            (self.renamed, "identifier", "stored under another name ('/' is '_'; suffixes), original kept"),
            (self.left_out, "record", "left out, identifier stands earlier"),
        ):
            if count:
                lines.append(f"{counted(count, noun)}: {what}")
        return [*lines, *self.tally.describe()]
