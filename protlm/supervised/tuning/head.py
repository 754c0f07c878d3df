"""A head that is trained by gradients: a linear part that starts as a probe, and a small network that starts at zero.

So before its first step it predicts what the probe does (linear probing, then fine-tuning: Kumar et al. 2022).

Legend: B proteins, L residues, D width, d features, k outputs (classes, or 1 for values), H hidden width.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from protlm.supervised.features import LAYER
from protlm.supervised.linear_head import answers
from protlm.supervised.probe import Learned

POOLINGS = ("attention", "mean")
_KERNEL = 9  # residues that one convolution sees


class Branch(nn.Module):
    """Outputs of a small network that reads the last layer; 0 until it is trained.

    Of residues: two convolutions. Of proteins: a convolution, pooled by attention and maximum (Stärk et al. 2021) or
    by the mean, and a multilayer perceptron.

    Args:
        width, hidden, outputs: D, H, k.
        per_residue: outputs of each residue.
        pooling: one of `POOLINGS`, of proteins.
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
            return self.leave(self.perceptron(torch.nn.functional.gelu(values).transpose(1, 2)))
        if self.weights is None:
            pooled = (values * inside).sum(2) / inside.sum(2)
        else:
            share = self.weights(x).masked_fill(~inside, -torch.inf).softmax(2)
            most = values.masked_fill(~inside, -torch.inf).amax(2)
            pooled = torch.cat(((values * inside * share).sum(2), most), 1)
        return self.leave(self.perceptron(pooled))


class TunedHead(nn.Module):
    """Logits of the classes of a target, or its value.

    Args:
        target, kind, per_residue, classes, blocks: as for `LinearHead`.
        features: d.
        width: D.
        last: number of the last layer, which the branch reads.
        hidden, pooling, dropout: of the `Branch`.
    """

    center: Tensor
    scale: Tensor
    shift: Tensor
    spread: Tensor

    def __init__(
        self,
        target: str,
        kind: str,
        per_residue: bool,
        classes: tuple[str, ...],
        blocks: tuple[str, ...],
        features: int,
        width: int,
        last: int,
        hidden: int = 64,
        pooling: str = "attention",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.target, self.kind, self.per_residue, self.classes, self.blocks = target, kind, per_residue, classes, blocks
        self.sizes = {"features": features, "width": width, "last": last, "hidden": hidden, "pooling": pooling}
        self.last, self.temperature = last, 1.0
        self.threshold: tuple[str, float] | None = None  # see `LinearHead`
        outputs = max(1, len(classes))
        for name, size, value in (
            ("center", features, 0.0),
            ("scale", features, 1.0),
            ("shift", outputs, 0.0),
            ("spread", outputs, 1.0),
        ):
            self.register_buffer(name, torch.full((size,), value))
        self.weight, self.bias = nn.Parameter(torch.zeros(features, outputs)), nn.Parameter(torch.zeros(outputs))
        self.branch = Branch(width, hidden, outputs, per_residue, pooling, dropout)

    @classmethod
    def of(cls, learned: Learned, y: np.ndarray, width: int, last: int, **options: Any) -> "TunedHead":
        """A head that predicts as a probe does.

        Args:
            learned: the probe.
            y: labels of its training rows; values are trained in units of their standard deviation.
            width, last, options: see `TunedHead`.
        """
        head = learned.head
        new = cls(
            head.target,
            head.kind,
            head.per_residue,
            head.classes,
            head.blocks,
            len(head.weight),
            width,
            last,
            **options,
        )
        weight, bias = torch.from_numpy(head.weight).double(), torch.from_numpy(head.bias).double()
        center, scale = torch.from_numpy(learned.center), torch.from_numpy(learned.scale)
        weight, bias = weight * scale[:, None], bias + center @ weight
        if not head.classes:
            new.shift.fill_(float(y.mean()))
            new.spread.fill_(float(y.std()))
            weight, bias = weight / new.spread, (bias - new.shift) / new.spread
        with torch.no_grad():
            for own, value in ((new.center, center), (new.scale, scale), (new.weight, weight), (new.bias, bias)):
                own.copy_(value)
        new.temperature = head.temperature
        return new

    @property
    def described(self) -> dict[str, Any]:
        """The arguments that make an equal head, ready for JSON."""
        found = {"target": self.target, "kind": self.kind, "per_residue": self.per_residue}
        return found | {"classes": list(self.classes), "blocks": list(self.blocks)} | self.sizes

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> "TunedHead":
        """The inverse of `described`; its weights are new."""
        options = {**described, "classes": tuple(described["classes"]), "blocks": tuple(described["blocks"])}
        return cls(**options)

    @property
    def layers(self) -> list[int]:
        """The layers that are read."""
        own = [int(name.removeprefix(LAYER)) for name in self.blocks if name.startswith(LAYER)]
        return sorted({*own, self.last})

    reads_residues = True
    """Blocks of layers have to be per residue."""

    @property
    def inputs(self) -> list[str]:
        """Names of the blocks that are read, those of the layers per residue."""
        own = [name for name in self.blocks if not name.startswith(LAYER)]
        return [*(f"{LAYER}{layer}" for layer in self.layers), *own]

    def forward(self, layers: Mapping[int, Tensor], mask: Tensor, blocks: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, k), or (B, L, k) per residue.

        Args:
            layers: number -> (B, L, D), of each in `layers`.
            mask: (B, L) bool, true at residues.
            blocks: name -> (B, d) or per residue (B, L, d), of those without a model.
        """
        parts = []
        for name in self.blocks:
            x = layers[int(name.removeprefix(LAYER))].float() if name.startswith(LAYER) else blocks[name]
            if name.startswith(LAYER) and not self.per_residue:
                x = x.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)
            parts.append(x)
        standard = (torch.cat(parts, -1) - self.center) / self.scale
        found = standard @ self.weight + self.bias + self.branch(layers[self.last].float(), mask)
        return self.shift + self.spread * found

    @torch.no_grad()
    def answers(self, blocks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Probabilities (k,) or (L, k), or values, of one protein from its blocks; of layers (L, D)."""
        device = self.weight.device
        tensors = {name: torch.from_numpy(np.asarray(values))[None].to(device) for name, values in blocks.items()}
        layers = {int(name.removeprefix(LAYER)): x for name, x in tensors.items() if name.startswith(LAYER)}
        mask = torch.ones(layers[self.last].shape[:2], dtype=torch.bool, device=device)
        logits = self(layers, mask, tensors)[0].double().cpu().numpy()
        return answers(self.kind, np.atleast_2d(logits), self.temperature).reshape(logits.shape)
