"""New proteins of a unidirectional model, drawn residue by residue.

Legend: B sequences of a batch, A the 21 tokens that can be drawn.

Of the logits l over all tokens, those of the twenty amino acids and of `<eos>` are kept; every other token has
probability 0. With temperature T > 0, p_a = exp(l_a / T) / sum_b exp(l_b / T); T = 0 takes the likeliest. With top_p
below 1, only the nucleus is kept and brought to the sum of 1 again: the likeliest tokens, as few as together have at
least top_p (Holtzman et al. 2020, "The curious case of neural text degeneration").
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from protlm.batching.randomness import KeyedGenerator
from protlm.errors import UserError
from protlm.inference.probabilities import STANDARD_TOKENS, log_softmax
from protlm.performer import Performer
from protlm.sequence.alphabet import EOS, ResidueError, decode, encode

DRAWN = np.append(STANDARD_TOKENS, EOS)
"""(21,) the tokens that can be drawn; the end is the last."""
_END = len(DRAWN) - 1
_LINE = 60  # residues in a line of FASTA, as UniProt has them
_STREAMS = 7  # tells these random numbers from those of training with the same seed


@dataclass(frozen=True)
class Generated:
    """A protein that was drawn."""

    number: int
    """From 1."""
    sequence: str
    """With the prefix."""
    log_likelihood: float
    """Sum of log p, in nats, of the drawn tokens, `<eos>` too, given those before; over all 33 tokens, T = 1."""
    drawn: int
    """How many tokens were drawn, `<eos>` too."""
    ended: bool
    """False if the protein was cut at the largest length."""

    @property
    def perplexity(self) -> float:
        """Of the drawn tokens: exp(-log-likelihood / drawn)."""
        with np.errstate(over="ignore"):
            return float(np.exp(-self.log_likelihood / self.drawn))

    def fasta(self, **more: object) -> str:
        """A FASTA record, with `more` as further entries of its header."""
        entries = {
            "length": len(self.sequence),
            "log_likelihood": f"{self.log_likelihood:.4f}",
            "perplexity": f"{self.perplexity:.4f}",
            "ended": "yes" if self.ended else "no",
            **more,
        }
        header = " ".join((f">generated_{self.number}", *(f"{name}={value}" for name, value in entries.items())))
        lines = (self.sequence[i : i + _LINE] for i in range(0, len(self.sequence), _LINE))
        return "\n".join((header, *lines, ""))


def generate(
    model: Performer,
    n: int = 1,
    prefix: str = "",
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_length: int = 1_000,
    seed: int = 0,
    batch_size: int = 16,
    min_length: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Generated]:
    """Draws proteins, in the order of their numbers.

    The prefix is computed once, in parallel; then each token takes one step of the same time and memory, but for a
    model with exact attention. The random numbers of a protein depend on the seed, its number and the position alone;
    so a protein does not depend on `n` or `batch_size`, but for rounding of the model.

    Args:
        model: unidirectional, in evaluation mode.
        n: how many.
        prefix: residues that each of them begins with, in one-letter code.
        temperature: T above, from 0.
        top_p: above 0, at most 1.
        max_length: of a protein with its prefix, in residues; one that has not ended by then is cut.
        seed: from 0.
        batch_size: how many are drawn together; memory is in proportion to it.
        min_length: `<eos>` is not drawn before, in residues.
        progress: called with how many of all possible residues are done, and these.

    Raises:
        UserError: for values outside these bounds; a bidirectional model; a model whose logits are not finite.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, 1, 2, 8, 8, causal=True)).eval()
    >>> [len(protein.sequence) for protein in generate(model, 2, "MKT", min_length=9, max_length=9)]
    [9, 9]
    """
    # checked at the call, not when the first protein is asked for
    tokens = _checked(model, n, prefix, temperature, top_p, max_length, seed, batch_size, min_length)
    return _batches(model, n, tokens, temperature, top_p, max_length, seed, batch_size, min_length, progress)


def _batches(
    model: Performer,
    n: int,
    prefix: np.ndarray,
    temperature: float,
    top_p: float,
    max_length: int,
    seed: int,
    batch_size: int,
    min_length: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Generated]:
    device = next(model.parameters()).device
    chance = KeyedGenerator(seed, _STREAMS)
    each = max_length - len(prefix)
    with torch.inference_mode():
        start = torch.from_numpy(np.append(np.uint8(model.config.start_id), prefix)).to(device).long()[None]
        logits, first = model.step(start)
        first_logits = logits[:, -1]
    for begin in range(0, n, batch_size):
        numbers = np.arange(begin, min(n, begin + batch_size))
        drawn = np.zeros((len(numbers), each), dtype=np.int64)  # indices into DRAWN
        likelihood, count = np.zeros(len(numbers)), np.zeros(len(numbers), dtype=np.int64)
        ended = np.zeros(len(numbers), dtype=bool)
        rows = np.arange(len(numbers))  # of those that have not ended
        with torch.inference_mode():
            copies = torch.zeros(len(rows), dtype=torch.long, device=device)
            state, logits = first.select(copies), first_logits[copies]
            for place in range(each):
                log_p = log_softmax(logits)[:, DRAWN]
                if not np.isfinite(log_p).all():
                    raise UserError("the model's logits are not finite; take another checkpoint")
                allowed = log_p.copy()
                if len(prefix) + place < min_length:
                    allowed[:, _END] = -np.inf
                uniform = np.array([chance(int(number), place).random() for number in numbers[rows]])
                chosen = draw(allowed, uniform, temperature, top_p)
                drawn[rows, place] = chosen
                likelihood[rows] += log_p[np.arange(len(rows)), chosen]
                count[rows] += 1
                over = chosen == _END
                ended[rows[over]] = True
                if progress:
                    open_rows = len(rows) - int(over.sum())
                    closed = begin + len(numbers) - open_rows
                    progress(closed * each + open_rows * (place + 1), n * each)
                if over.all() or place == each - 1:
                    break
                if over.any():
                    stay = np.flatnonzero(~over)
                    rows, chosen = rows[stay], chosen[stay]
                    state = state.select(torch.from_numpy(stay).to(device))
                logits, state = model.step(torch.from_numpy(DRAWN[chosen]).to(device)[:, None], state)
                logits = logits[:, -1]
        for row, number in enumerate(numbers):
            residues = DRAWN[drawn[row, : count[row] - ended[row]]]
            sequence = decode(np.concatenate((prefix, residues)))
            yield Generated(int(number) + 1, sequence, float(likelihood[row]), int(count[row]), bool(ended[row]))


def draw(log_p: np.ndarray, uniform: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """Draws one token a row: indices (B,) int64.

    Args:
        log_p: (B, A) float64, up to a constant a row; -inf for what cannot be drawn.
        uniform: (B,) random numbers from [0, 1).
        temperature, top_p: see the top of this file.
    """
    if temperature == 0:
        return log_p.argmax(1)
    with np.errstate(over="ignore"):  # a quotient that is -inf is what it has to be
        p = np.exp((log_p - log_p.max(1, keepdims=True)) / temperature)
    p /= p.sum(1, keepdims=True)
    if top_p < 1:
        order = np.argsort(-p, axis=1, kind="stable")
        ranked = np.take_along_axis(p, order, 1)
        ranked[ranked.cumsum(1) - ranked >= top_p] = 0
        np.put_along_axis(p, order, ranked, 1)
    # in the order of the alphabet, so that rounding of the logits hardly ever changes what is drawn
    heights = p.cumsum(1)
    return (heights <= (uniform * heights[:, -1])[:, None]).sum(1)


def _checked(
    model: Performer,
    n: int,
    prefix: str,
    temperature: float,
    top_p: float,
    max_length: int,
    seed: int,
    batch_size: int,
    min_length: int,
) -> np.ndarray:
    """The tokens (length,) uint8 of the prefix, if all arguments can be used."""
    if not model.config.causal:
        raise UserError(
            "this model is bidirectional; generate needs a unidirectional one (trained with model.causal=true)"
        )
    if model.config.zeroed_id is not None:
        raise UserError("this model scales its embeddings by the share of masks (zeroed_id); it cannot generate")
    if not model.config.stepwise:
        raise UserError(f"{model.config.attention_name} attention cannot be computed token by token, so not generate")
    for name, value in (("n", n), ("batch_size", batch_size), ("min_length", min_length)):
        if value < 1:
            raise UserError(f"{name} {value}: expected a whole number from 1")
    if seed < 0:
        raise UserError(f"seed {seed}: expected a whole number from 0")
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature {temperature}: expected a number from 0, which takes the likeliest residue")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p {top_p}: expected a number above 0, at most 1")
    try:
        # some letters outside ASCII become I, K or S in upper case
        tokens = encode(prefix.upper() if prefix.isascii() else prefix)
    except ResidueError as error:
        raise UserError(
            f"prefix: {error.character!r} at position {error.position + 1}; expected amino acids in one-letter code"
        ) from error
    if not len(tokens) < max_length:
        raise UserError(f"max_length {max_length}: expected more than the {len(tokens)} residues of the prefix")
    if min_length > max_length:
        raise UserError(f"min_length {min_length}: expected at most max_length, {max_length}")
    return tokens
