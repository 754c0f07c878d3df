"""Pseudo-perplexities of whole sequences, of the command score."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protlm.cli.console import LateNetwork, progress, say
from protlm.cli.outputs import TABLE, check_outputs
from protlm.errors import UserError


def report_perplexities(
    loaded: LateNetwork,
    source: str,
    inputs: Sequence[Path],
    output: Path | None,
    how: tuple[bool, str, int, str],
    reading: dict[str, Any],
) -> None:
    """Writes the table.

    Args:
        loaded: the model.
        source: of sequences, see `open_sequences`.
        inputs: files of the model.
        output: of the table.
        how: whether each letter is masked, the option --masking, the token budget and the precision.
        reading: options of `open_sequences`.
    """
    from protlm.inference.engine import Computer
    from protlm.inference.perplexity import write_perplexities
    from protlm.inference.sequences import open_sequences

    exact, masking, token_budget, precision = how
    records = open_sequences(source, loaded.alphabet, **reading)
    check_outputs({"--output": (output, TABLE)}, [*inputs, *([Path(source)] if records.source else [])])
    shares = _masking(masking)
    computer = Computer(loaded.network, token_budget, precision)
    with progress("computing", f"{loaded.alphabet.unit}s") as report:
        say(*write_perplexities(computer, records, output, exact, shares, report))


def _masking(text: str) -> Any:
    from protlm.batching.masking import Masking

    try:
        mask, exchanged, kept = map(float, text.split(","))
    except ValueError as error:
        raise UserError(f"--masking {text!r}: expected three fractions, such as 0.8,0.1,0.1") from error
    return Masking(mask=mask, random=exchanged, keep=kept)
