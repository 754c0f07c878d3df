"""Steps of a causal model: the next token of several sequences that continue from one prefix.

Legend: B sequences, V vocabulary.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from protlm.errors import ProtlmWarning, UserError
from protlm.performer import FavorAttention, Performer
from protlm.performer.backends import TOLERANCE
from protlm.performer.recurrent import InPlaceState, PerformerState


class Steps:
    """Steps whose state is new after each of them.

    Args:
        model: causal, in evaluation mode.
        prefix: the state after the prefix, of a batch of one sequence.
    """

    def __init__(self, model: Performer, prefix: PerformerState) -> None:
        self.model, self.prefix = model, prefix
        self.state = prefix

    def start(self, count: int) -> None:
        """Begins with `count` sequences after the prefix."""
        device = self.model.embedding.weight.device
        self.state = self.prefix.select(torch.zeros(count, dtype=torch.long, device=device))

    def keep(self, rows: Tensor) -> None:
        """Continues with some of the sequences only, by their numbers (k,) int64."""
        self.state = self.state.select(rows)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits (B, V) after the next token (B,) of each sequence."""
        logits, self.state = self.model.step(tokens[:, None], self.state)
        return logits[:, -1]


class StaticSteps(Steps):
    """Steps that overwrite one state by the step kernel; on a CUDA device they are one graph, captured once.

    A sequence that has ended stays in the batch, so that the graph always fits.

    Args:
        model, prefix: as for `Steps`; `Performer.has_step_kernel` is true.
        most: the most sequences.
    """

    def __init__(self, model: Performer, prefix: PerformerState, most: int) -> None:
        super().__init__(model, prefix)
        device = model.embedding.weight.device
        self._tokens = torch.zeros(most, 1, dtype=torch.long, device=device)
        self._position = torch.zeros((), dtype=torch.long, device=device)
        self._own = [InPlaceState.like(layer, most) for layer in prefix.layers]
        self._logits = model.embedding.weight.new_empty(most, model.config.vocab_size)
        self.start(most)
        self._run = captured(self._compute) if device.type == "cuda" else self._compute

    def start(self, count: int) -> None:
        self._rows = torch.arange(count, device=self._tokens.device)
        self._position.fill_(self.prefix.position)
        for own, layer in zip(self._own, self.prefix.layers, strict=True):
            own.load(layer)

    def keep(self, rows: Tensor) -> None:
        self._rows = self._rows[rows]

    def __call__(self, tokens: Tensor) -> Tensor:
        self._tokens[self._rows, 0] = tokens
        self._run()
        return self._logits[self._rows]

    def _compute(self) -> None:
        logits, _ = self.model.step(self._tokens, PerformerState(self._position, tuple(self._own)))
        self._logits.copy_(logits[:, -1])
        self._position.add_(1)


def captured(function: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of a function of tensors that stay where they are; it is run a few times first.

    Source: PyTorch's notes on CUDA semantics, "CUDA Graphs".
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles kernels and fills caches
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def steps_from(model: Performer, prefix: PerformerState, most: int) -> Steps:
    """Steps of at most `most` sequences by the kernel where there is one, otherwise by PyTorch operations.

    The first step of the kernel is compared with that of PyTorch operations, which compute all with a warning if the
    two differ or the kernel fails.

    Raises:
        UserError: instead of the warning, if the backend "triton" was requested.
    """
    steps = Steps(model, prefix)
    if not model.has_step_kernel:
        return steps
    tokens = torch.arange(4, 4 + most, device=model.embedding.weight.device) % model.config.vocab_size
    cause: Exception | None = None
    try:
        fast = StaticSteps(model, prefix, most)
        found, expected = (_first(each, tokens) for each in (fast, steps))
        error = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
        if error < TOLERANCE:
            return fast
        reason = f"differs from PyTorch by {error:.2g}"
    except RuntimeError as failure:
        reason, cause = f"failed ({(str(failure).splitlines() or ['no message'])[0]})", failure
    if any(isinstance(module, FavorAttention) and module.backend == "triton" for module in model.modules()):
        message = f"attention_backend 'triton': the kernel for single steps {reason}; use 'auto' or 'eager'"
        raise UserError(message, "attention_backend") from cause
    warnings.warn(f"generation: the kernel for single steps {reason}; PyTorch computes them", ProtlmWarning, 3)
    return steps


def _first(steps: Steps, tokens: Tensor) -> Tensor:
    """Logits (B, V) after one token (B,) of each sequence."""
    steps.start(len(tokens))
    return steps(tokens).float()
