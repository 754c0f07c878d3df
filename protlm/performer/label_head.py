"""A head that predicts labels of proteins or residues from layers of a model and, if it has such, from the sequence.

Legend: B proteins, L tokens, D width, d features, k outputs (classes, or 1 for values), H hidden width.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER = "layer "
"""Before the number of a layer in the name of a block of features: its mean over residues, or its rows."""
AT = " at "
"""After that number, before the residues, from 1, whose rows are the block; of variants of one protein."""
COMPOSITION, WINDOW, SITES = "composition", "window", "sites"
"""Blocks that need no model: amino-acid fractions and log length; the residues around one; the residues at each site of
proteins of equal length."""
REACH = 7
"""Residues on each side in a window."""
_KERNEL = 9  # residues that one convolution sees


def layer_of(block: str) -> tuple[int, list[int]]:
    """The number of the layer in the name of a block, and the residues that it names, from 0.

    >>> layer_of("layer 3"), layer_of("layer 6 at 39,54")
    ((3, []), (6, [38, 53]))
    """
    number, _, residues = block.removeprefix(LAYER).partition(AT)
    return int(number), [int(residue) - 1 for residue in residues.split(",") if residue]


class Branch(nn.Module):
    """Outputs of a small network that reads one layer; 0 until it is trained.

    Of residues: two convolutions. Of proteins: a convolution, pooled by attention and maximum (Stärk et al. 2021) or
    by the mean, and a multilayer perceptron.

    Args:
        width, hidden, outputs: D, H, k.
        per_residue: outputs of each residue.
        pooling: "attention" or "mean", of proteins.
        dropout: of hidden features.
    """

    def __init__(
        self, width: int, hidden: int, outputs: int, per_residue: bool, pooling: str = "attention", dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.per_residue, self.pooling = per_residue, pooling
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU())
        attends = pooling == "attention" and not per_residue
        self.values = nn.Conv1d(hidden, hidden, _KERNEL, padding="same") if per_residue or attends else nn.Identity()
        self.weights = nn.Conv1d(hidden, hidden, _KERNEL, padding="same") if attends else None
        self.perceptron = nn.Sequential(
            nn.Linear(2 * hidden if attends else hidden, hidden), nn.GELU(), nn.Dropout(dropout)
        )
        self.leave = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, k), or (B, L, k) per residue, from (B, L, D) and (B, L) bool, true at residues."""
        inside = mask[:, None]
        x = self.enter(x).transpose(1, 2).masked_fill(~inside, 0)  # so that padding does not matter
        values = self.values(x)
        if self.per_residue:
            return self.leave(self.perceptron(F.gelu(values).transpose(1, 2)))
        if self.weights is None:
            pooled = (values * inside).sum(2) / inside.sum(2)
        else:
            share = self.weights(x).masked_fill(~inside, -torch.inf).softmax(2)
            most = values.masked_fill(~inside, -torch.inf).amax(2)
            pooled = torch.cat(((values * inside * share).sum(2), most), 1)
        return self.leave(self.perceptron(pooled))


class LabelHead(nn.Module):
    """Logits of classes, or a value: a linear function of standardised features and, with `hidden`, a `Branch`.

    Args:
        per_residue: whether it labels residues.
        blocks: names of features, in order.
        features, outputs, width: d, k, D.
        last: number of the layer that the branch reads.
        hidden, pooling, dropout: of the branch; no hidden width for none.
        codes: (V,) for each token the number of its amino acid, 20 for others; for blocks that need no model.
    """

    center: Tensor
    scale: Tensor
    shift: Tensor
    spread: Tensor
    codes: Tensor

    def __init__(
        self,
        per_residue: bool,
        blocks: Sequence[str],
        features: int,
        outputs: int,
        width: int,
        last: int,
        hidden: int | None = 64,
        pooling: str = "attention",
        dropout: float = 0.1,
        codes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.per_residue, self.blocks, self.last = per_residue, tuple(blocks), last
        for name, size, value in (
            ("center", features, 0.0),
            ("scale", features, 1.0),
            ("shift", outputs, 0.0),
            ("spread", outputs, 1.0),
        ):
            self.register_buffer(name, torch.full((size,), value))
        self.register_buffer("codes", torch.tensor(list(codes), dtype=torch.int64))
        self.weight, self.bias = nn.Parameter(torch.zeros(features, outputs)), nn.Parameter(torch.zeros(outputs))
        self.branch = Branch(width, hidden, outputs, per_residue, pooling, dropout) if hidden else None

    def reset_parameters(self) -> None:
        """Initialises the linear part at random, for features as they are; the branch stays as it is."""
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)
        for buffer, value in ((self.center, 0.0), (self.scale, 1.0), (self.shift, 0.0), (self.spread, 1.0)):
            buffer.fill_(value)

    @property
    def layers(self) -> list[int]:
        """The layers that are read."""
        own = {layer_of(name)[0] for name in self.blocks if name.startswith(LAYER)}
        return sorted(own | ({self.last} if self.branch is not None else set()))

    def forward(self, layers: Mapping[int, Tensor], mask: Tensor, blocks: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, k), or (B, L, k) per residue.

        Args:
            layers: number -> (B, L, D), of each in `layers`.
            mask: (B, L) bool, true at residues.
            blocks: name -> (B, d) or per residue (B, L, d), of those that need no model; see `blocks_of_tokens`.
        """
        parts = []
        for name in self.blocks:
            if not name.startswith(LAYER):
                parts.append(blocks[name])
                continue
            number, residues = layer_of(name)
            x = layers[number].float()
            if residues:
                place = mask.long().argmax(1, keepdim=True) + torch.tensor(residues, device=mask.device)
                x = x[torch.arange(len(x), device=x.device)[:, None], place].flatten(1)
            elif not self.per_residue:
                x = x.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)
            parts.append(x)
        found = (torch.cat(parts, -1) - self.center) / self.scale @ self.weight + self.bias
        if self.branch is not None:
            found = found + self.branch(layers[self.last].float(), mask)
        return self.shift + self.spread * found

    def blocks_of_tokens(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The blocks that need no model, of (B, L) tokens and (B, L) bool, true at residues, which are contiguous."""
        names = [name for name in self.blocks if not name.startswith(LAYER)]
        if not names:
            return {}
        own = F.one_hot(self.codes[tokens].masked_fill(~mask, 20), 21).float()
        found = {}
        length = mask.sum(1, keepdim=True).float()
        if COMPOSITION in names:
            found[COMPOSITION] = torch.cat((own[..., :20].sum(1) / length, length.log()), 1)
        if SITES in names:
            found[SITES] = torch.stack([row[here][:, :20].flatten() for row, here in zip(own, mask, strict=True)])
        if WINDOW in names:
            outside = F.pad(own[..., :20], (0, 0, REACH, REACH))
            letters = torch.cat((outside, 1 - outside.sum(-1, keepdim=True)), -1)
            around = letters.unfold(1, 2 * REACH + 1, 1)  # (B, L, 21, 15)
            found[WINDOW] = around.transpose(2, 3).flatten(2)
        return found
