"""Golden values computed again, by the engine that all commands use."""

from torch import Tensor

from protlm import golden
from protlm.inference.engine import Computer
from protlm.inference.token_batch import TokenBatch


def recomputed(computer: Computer) -> dict[str, Tensor]:
    """The values of `golden.Golden`, computed in one batch, on the device and in the precision of the engine."""
    model, values = computer.model, {}
    rows = golden.rows(model.config)
    names = list(rows)

    def compute(batch: TokenBatch, numbers: object) -> list[tuple[Tensor, Tensor | None]]:
        hidden = batch.hidden(model)
        logits = None if model.head is None else model.logits(hidden)
        ends = zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)
        parts = [slice(start, start + length) for start, length in ends]
        return [(hidden[part].cpu(), None if logits is None else logits[part].cpu()) for part in parts]

    for numbers, results in computer(list(rows.values()), compute):
        for number, (hidden, logits) in zip(numbers.tolist(), results, strict=True):
            values |= golden.named(names[number], hidden, logits)
    return values
