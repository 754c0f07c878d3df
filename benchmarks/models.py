"""Models with random weights, random batches for them, and a bare training step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from protlm.batching.batches import Batch
from protlm.batching.masking import IGNORE
from protlm.errors import UserError
from protlm.performer import Performer, PerformerConfig
from protlm.performer.kind import Kind
from protlm.sequence.alphabet import EOS, PAD, TOKENS

DIRECTIONS = {"bidirectional": False, "causal": True}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model; defaults: conf/model/trembl.yaml."""

    layers: int = 36
    width: int = 512
    heads: int = 8
    feed_forward: int = 1024
    features: int = 256

    def build(self, attention: str | Kind, causal: bool, max_length: int) -> Performer:
        """A model with random weights and the paper's dropout.

        Raises:
            UserError: for sizes or attention that no model can have.
        """
        torch.manual_seed(0)
        try:
            config = PerformerConfig(
                len(TOKENS),
                PAD,
                self.layers,
                self.heads,
                self.width,
                self.feed_forward,
                attention=attention,
                causal=causal,
                max_length=max_length,
                num_features=self.features,
                dropout=0.1,
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        return Performer(config).train()


def random_batch(count: int, length: int) -> Batch:
    """Random residues without padding, 15 % of which are scored."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(EOS + 1, len(TOKENS), (count, length), generator=generator)
    scored = torch.rand(count, length, generator=generator) < 0.15
    return Batch(inputs, inputs.masked_fill(~scored, IGNORE), scored, torch.ones_like(scored))


def redraw(model: Performer) -> None:
    """Draws new directions if the attention needs them before every step, as training does; only Reformer does."""
    if model.config.redraw_every == 1:
        model.redraw(model.draw_number + 1)


def bare_step(
    model: Performer, optimizer: Optimizer, clip: float | None = 0.5, draws: bool = True
) -> Callable[[Batch], None]:
    """A bare training step; with `draws`, directions needed before every step are drawn."""

    def step(batch: Batch) -> None:
        if draws:
            redraw(model)
        model.loss(model(batch.inputs, batch.key_mask, batch.segments), batch.targets).backward()
        if clip:
            clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()

    return step
