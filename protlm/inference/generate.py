"""New proteins from a causal model, sampled residue by residue.

Legend: B sequences of a batch, A tokens that can be drawn, 21 for proteins; `<eos>` is the last.

Of the logits l over all tokens, only those of the twenty amino acids and of `<eos>` are used. With temperature T > 0,
p_a = exp(l_a / T) / sum_b exp(l_b / T); T = 0 takes the most probable token. With top_p below 1, only the nucleus is
kept and renormalised: the smallest set of most probable tokens with a total probability of at least top_p (Holtzman
et al. 2020, "The curious case of neural text degeneration").
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch

from protlm.batching.randomness import KeyedGenerator
from protlm.errors import UserError, check_integer
from protlm.inference.engine import check_finite, evaluating, warn_beyond_positions
from protlm.inference.probabilities import log_softmax
from protlm.inference.steps import Steps, steps_from
from protlm.performer import Performer
from protlm.sequence.alphabets import PROTEIN, alphabet_of
from protlm.sequence.containers import protein_of
from protlm.sequence.letters import Alphabet

_LINE = 60  # characters per line of FASTA, as in UniProt
_BYTES = alphabet_of("bytes").tokens
_STREAMS = 7  # keeps these random numbers apart from those of training with the same seed


@dataclass(frozen=True)
class Generated:
    """A generated protein, or sequence of another alphabet."""

    number: int
    """From 1."""
    sequence: str
    """Including the prefix."""
    log_likelihood: float
    """Sum of log p of the drawn tokens, including `<eos>`, given those before; in nats, over all tokens, T = 1."""
    drawn: int
    """Number of drawn tokens, including `<eos>`."""
    ended: bool
    """Whether the model drew `<eos>`; False if the protein was cut at the maximum length."""

    letters: bytes = field(default=b"", compare=False)
    """As `sequence`, without the notation <0x0A> that shows bytes that cannot be printed."""

    @property
    def perplexity(self) -> float:
        """Of the drawn tokens: exp(-log-likelihood / drawn)."""
        with np.errstate(over="ignore"):
            return float(np.exp(-self.log_likelihood / self.drawn))

    def fasta(self, **more: object) -> str:
        """A FASTA record; `more` are additional entries of its header."""
        entries = {
            "length": len(self.letters or self.sequence),
            "log_likelihood": f"{self.log_likelihood:.4f}",
            "perplexity": f"{self.perplexity:.4f}",
            "ended": "yes" if self.ended else "no",
            **more,
        }
        header = " ".join((f">generated_{self.number}", *(f"{name}={value}" for name, value in entries.items())))
        return "\n".join((header, *_lines(self.letters or self.sequence.encode()), ""))


def generate(
    model: Performer,
    n: int = 1,
    prefix: Any = "",
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_length: int = 1_000,
    seed: int = 0,
    batch_size: int = 16,
    min_length: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Generated]:
    """Samples proteins, in the order of their numbers.

    The prefix is computed once, in parallel; then each token takes a step of constant time and memory, except with
    exact attention. The random numbers of a protein depend only on the seed, its number and the position, so that a
    protein does not depend on `n` or `batch_size`, apart from rounding in the model.

    Args:
        model: causal; evaluates, whatever its mode.
        n: number of proteins.
        prefix: amino acids with which each protein starts, in one-letter code; for another alphabet, its letters as a
            string or bytes.
        temperature: at least 0; see the top of this file.
        top_p: above 0, at most 1; see the top of this file.
        max_length: in residues, including the prefix; longer proteins are cut.
        seed: at least 0.
        batch_size: proteins generated together; memory is proportional to it.
        min_length: in residues; `<eos>` is not drawn before.
        progress: called with the number of positions done and the maximum number of positions.

    Raises:
        UserError: for values outside these bounds, a bidirectional model, or logits that are not finite.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, 1, 2, 8, 8, causal=True)).eval()
    >>> [len(protein.sequence) for protein in generate(model, 2, "MKT", min_length=9, max_length=9)]
    [9, 9]
    """
    counts = {"n": n, "batch_size": batch_size, "min_length": min_length, "max_length": max_length}
    _check(model, counts, temperature, top_p, seed)
    alphabet = alphabet_of(model.config.alphabet)
    tokens = _prefix_tokens(alphabet, prefix, min_length, max_length)
    choices, end = choices_of(alphabet), len(alphabet.drawn)
    device, chance, count = next(model.parameters()).device, KeyedGenerator(seed, _STREAMS), max_length - len(tokens)

    def sampled(numbers: np.ndarray, logits: torch.Tensor, steps: Steps) -> Iterator[Generated]:
        drawn = np.full((len(numbers), count), -1)  # indices into choices
        likelihood = np.zeros(len(numbers))
        rows = np.arange(len(numbers))  # of the proteins that have not ended
        with evaluating(model):
            steps.start(len(rows))
            logits = logits.expand(len(rows), -1)
            for step in range(count):
                log_p = log_softmax(logits)[:, choices]
                check_finite(log_p)
                allowed = log_p.copy()
                if len(tokens) + step < min_length:
                    allowed[:, end] = -np.inf
                uniform = np.array([chance(int(number), step).random() for number in numbers[rows]])
                chosen = draw(allowed, uniform, temperature, top_p)
                drawn[rows, step] = chosen
                likelihood[rows] += log_p[np.arange(len(rows)), chosen]
                stay = np.flatnonzero(chosen != end)
                if progress:
                    progress((int(numbers[-1]) + 1 - len(stay)) * count + len(stay) * (step + 1), n * count)
                if not len(stay) or step == count - 1:
                    break
                if len(stay) < len(rows):
                    rows, chosen = rows[stay], chosen[stay]
                    steps.keep(torch.from_numpy(stay).to(device))
                warn_beyond_positions(model, len(tokens) + step + 2)
                logits = steps(torch.from_numpy(choices[chosen]).to(device))
        for number, row, log_likelihood in zip(numbers.tolist(), drawn, likelihood.tolist(), strict=True):
            row = row[row >= 0]
            ended = bool(row[-1] == end)
            whole = np.concatenate((tokens, choices[row[: len(row) - ended]]))
            texts = alphabet.decode(whole), alphabet.letters_of(whole)
            yield Generated(number + 1, texts[0], log_likelihood, len(row), ended, texts[1])

    def batches() -> Iterator[Generated]:
        start = torch.from_numpy(np.append(np.int64(model.config.start_id), tokens)).to(device)[None]
        with evaluating(model):
            logits, state = model.step(start)
            steps = steps_from(model, state, min(n, batch_size))
        for first in range(0, n, batch_size):
            yield from sampled(np.arange(first, min(n, first + batch_size)), logits[:, -1], steps)

    return batches()  # not a generator function itself: the checks above run when it is called


def choices_of(alphabet: Alphabet = PROTEIN) -> np.ndarray:
    """(A,) the tokens that can be drawn; `<eos>` is the last."""
    return np.append(alphabet.drawn, alphabet.eos)


def draw(log_p: np.ndarray, uniform: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """Draws one token per row: indices (B,) int64.

    Args:
        log_p: (B, A) float64, up to a constant per row; -inf for tokens that cannot be drawn.
        uniform: (B,) random numbers from [0, 1).
        temperature, top_p: see the top of this file.
    """
    if temperature == 0:
        return log_p.argmax(1)
    with np.errstate(over="ignore"):  # an overflow to -inf is correct
        p = np.exp((log_p - log_p.max(1, keepdims=True)) / temperature)
    p /= p.sum(1, keepdims=True)
    if top_p < 1:
        order = np.argsort(-p, axis=1, kind="stable")
        ranked = np.take_along_axis(p, order, 1)
        ranked[ranked.cumsum(1) - ranked >= top_p] = 0
        np.put_along_axis(p, order, ranked, 1)
    # in the order of the alphabet, so that rounding of the logits rarely changes the draw
    heights = p.cumsum(1)
    return (heights <= (uniform * heights[:, -1])[:, None]).sum(1)


def _lines(letters: bytes) -> Iterator[str]:
    """Lines of FASTA, in which <0x0A> is one byte: of those that cannot be printed, or would be read as something else.

    >>> list(_lines(b"> <0x0A>\\n"))
    ['<0x3E> <0x3C>0x0A><0x0A>']
    """
    line = ""
    for i, byte in enumerate(letters):
        literal = letters[i : i + 3] == b"<0x"
        token = f"<0x{byte:02X}>" if literal or (not line and byte in b" >") else _BYTES[byte]
        if len(line) + len(token) > _LINE:
            yield line.removesuffix(" ") + "<0x20>" * line.endswith(" ")
            line, token = "", f"<0x{byte:02X}>" if byte in b" >" else token
        line += token
    if line:
        yield line.removesuffix(" ") + "<0x20>" * line.endswith(" ")


def _check(model: Performer, counts: dict[str, int], temperature: float, top_p: float, seed: int) -> None:
    if not model.config.causal:
        raise UserError("generate requires a causal model (trained with model.causal=true); this one is bidirectional")
    if model.config.zeroed_id is not None:
        raise UserError("this model rescales its embeddings by the fraction of masks (zeroed_id); it cannot generate")
    if not model.config.stepwise:
        raise UserError(f"{model.config.attention_label} attention cannot run token by token; it cannot generate")
    for name, value in counts.items():
        check_integer(name, value, 1)
    check_integer("seed", seed, 0)
    if not isinstance(temperature, Real) or not 0 <= temperature < math.inf:
        raise UserError(f"temperature {temperature!r}: expected a number of at least 0", "temperature")
    if not isinstance(top_p, Real) or not 0 < top_p <= 1:
        raise UserError(f"top_p {top_p!r}: expected a number above 0, at most 1", "top_p")


def _prefix_tokens(alphabet: Alphabet, prefix: Any, min_length: int, max_length: int) -> np.ndarray:
    """Tokens (length,) uint8 of the prefix."""
    if alphabet == PROTEIN and not (isinstance(prefix, str) and not prefix):
        prefix = protein_of(prefix, name="prefix")
    tokens = alphabet.encode(alphabet.typed(prefix))
    if not len(tokens) < max_length:
        expected = f"expected more than the {len(tokens)} {alphabet.unit}s of the prefix"
        raise UserError(f"max_length {max_length}: {expected}", "max_length")
    if min_length > max_length:
        raise UserError(
            f"min_length {min_length}: expected at most max_length, {max_length}", "min_length", "max_length"
        )
    return tokens
