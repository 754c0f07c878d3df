"""The Python API of variant effects: what `protlm.score` does, and the command `protlm score` with it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protlm.errors import UserError
from protlm.homology.alignment import Alignment
from protlm.sequence.containers import protein_of
from protlm.sequence.fasta import Record
from protlm.variants.knowledge import Knowledge
from protlm.variants.scan import Scan

if TYPE_CHECKING:
    from pandas import DataFrame

    from protlm.inference.engine import Computer


def score(
    wild_type: Any,
    variants: Iterable[str] | None = None,
    alignment: str | Path | Alignment | None = None,
    database: str | Path | Sequence[str | Path] = (),
    model: Any = None,
    structure: str | Path | None = None,
    scorer: str = "auto",
    method: str | None = None,
    offset: int = 0,
    invalid: str = "error",
    cache: bool = True,
) -> "DataFrame":
    """Scores variants of a protein by its homologs, a model, or both; a higher score is more likely to be tolerated.

    Args:
        wild_type: L residues; one protein, see `ProteinModel`, without gaps.
        variants: n variants, such as "A42G", "A42G:L50P", "p.Lys23del" or mutated sequences; see docs/formats.md. None
            for all single substitutions.
        alignment: of the protein's homologs, a file or an `Alignment`.
        database: one or more FASTA files to search for homologs.
        model: a model of `protlm.load`, or the path of one.
        structure: PDB or mmCIF file of the protein; solvent accessibility then weighs the profile. Requires the extra
            `structure`.
        scorer: "blosum62", "profile", "model", "blend", or "auto" for the one that uses all of what is given: without
            homologs and a model, BLOSUM62.
        method: of the model, see `ProteinModel.score`.
        offset: number of residues of the numbering before the sequence.
        invalid: for malformed variants: "error", or "nan" to keep them without a score.
        cache: keep the alignments of searches, and reuse them; see `homology.cache.default_folder`.

    Returns:
        A DataFrame with the columns of `protlm score`: mutant, mutated_sequence, protlm_score, percentile,
        effective_sequences, blosum62_only, reason (of variants that cannot be scored), and the scores of each scorer.
        `table.attrs["summary"]` says what the scores rest on.

    Raises:
        UserError: for arguments that cannot be used.

    >>> table = score("MKTAYIAKQR", ["K2R", "A4*"])
    >>> table[["mutant", "protlm_score", "reason"]].values.tolist()
    [['K2R', 2.0, ''], ['A4*', nan, 'stop gained at residue 4']]
    """
    from pandas import DataFrame

    if invalid not in ("error", "nan"):
        raise UserError(
            f"invalid {invalid!r}: expected 'error' or 'nan', so that there is a row per variant", "invalid"
        )
    protein = Record("wild type", "", protein_of(wild_type, gaps=False, name="the wild type"))
    names = None
    if variants is not None:
        from protlm.variants.names import variant_names

        names = variant_names(variants, missing=invalid == "nan")
        if not names:
            raise UserError("variants: empty; expected at least one, or None for all single substitutions")
    databases = [database] if isinstance(database, str | Path) else list(database)
    if alignment is not None and databases:
        raise UserError("alignment and database: expected one of them")
    computer = None
    if model is not None:
        computer = computer_of(model)
    knowledge = Knowledge(alignment, databases, cache=cache, structure=structure, model=computer, method=method)
    chosen = knowledge.chosen(scorer)
    if method is not None and computer is None:
        raise UserError("method: requires a model", "method")
    scan = Scan([protein], "the wild type", None, names or (), offset, invalid)
    result = scan.assess(knowledge.of, scorer if scorer == "auto" else chosen)
    table = DataFrame(result.columns(), index=getattr(variants, "index", None) if hasattr(variants, "iloc") else None)
    table.attrs["summary"] = result.only.summary()
    return table


def computer_of(
    model: Any, load: Callable[[Any], Any] | None = None, token_budget: int | None = None, precision: str = "float32"
) -> "Computer":
    """Runs a model, which is one of `protlm.load`, or the path of one."""
    from protlm import model_api
    from protlm.inference.engine import TOKEN_BUDGET, Computer
    from protlm.performer import Performer

    if isinstance(model, str | Path):
        model = (load or model_api.load)(model)
    if not isinstance(model, Performer):
        raise UserError(f"model: expected a model or the path of one, got {type(model).__name__}", "model")
    return Computer(model, token_budget or TOKEN_BUDGET, precision)
