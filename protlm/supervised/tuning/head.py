"""A head that is trained by gradients: a linear part that starts as a probe, and a small network that starts at zero.

So before its first step it predicts what the probe does (linear probing, then fine-tuning: Kumar et al. 2022).

Legend: B proteins, L residues, D width, d features, k outputs (classes, or 1 for values), H hidden width.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from protlm.performer.label_head import LAYER, LabelHead, layer_of
from protlm.sequence.alphabet import STANDARD, TOKENS
from protlm.supervised.features import check_residues
from protlm.supervised.linear_head import answers
from protlm.supervised.probe import Learned
from protlm.supervised.target import Target

POOLINGS = ("attention", "mean")
CODES = [STANDARD.find(token) if len(token) == 1 and token in STANDARD else 20 for token in TOKENS]
"""For each token the number of its amino acid in `STANDARD`, 20 for others."""


class TunedHead(LabelHead):
    """Logits of the classes of a target, or its value.

    Args:
        target, kind, per_residue, classes, blocks: as for `LinearHead`.
        features, width, last, hidden, pooling, dropout: see `LabelHead`.
    """

    reads_residues = True
    """Blocks of layers have to be per residue."""

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
        outputs = max(1, len(classes))
        super().__init__(per_residue, blocks, features, outputs, width, last, hidden, pooling, dropout, CODES)
        self.target, self.kind, self.classes, self.temperature = target, kind, classes, 1.0
        self.threshold: tuple[str, float] | None = None  # see `LinearHead`
        self.sizes = {"features": features, "width": width, "last": last, "hidden": hidden, "pooling": pooling}

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

    def numbers(self, target: Target) -> np.ndarray:
        """For each class of a target its number here; -100 for one that this head does not have."""
        index = {name: number for number, name in enumerate(self.classes)}
        return np.array([index.get(name, -100) for name in target.classes])

    def known(self, target: Target) -> Target:
        """The target with the numbers of this head's classes, -100 for others."""
        if self.kind != "classification":
            return target
        return replace(target, y=self.numbers(target)[target.y], classes=self.classes)

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
    def inputs(self) -> list[str]:
        """Names of the blocks that are read, those of the layers per residue."""
        own = [name for name in self.blocks if not name.startswith(LAYER)]
        return [*(f"{LAYER}{layer}" for layer in self.layers), *own]

    @torch.no_grad()
    def answers(self, blocks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Probabilities (k,) or (L, k), or values, of one protein from its blocks; of layers (L, D)."""
        device = self.weight.device
        for name in self.blocks:
            if name.startswith(LAYER) and (residues := layer_of(name)[1]):
                check_residues(" " * len(blocks[f"{LAYER}{layer_of(name)[0]}"]), residues)
        tensors = {name: torch.from_numpy(np.asarray(values))[None].to(device) for name, values in blocks.items()}
        layers = {int(name.removeprefix(LAYER)): x for name, x in tensors.items() if name.startswith(LAYER)}
        mask = torch.ones(layers[self.last].shape[:2], dtype=torch.bool, device=device)
        logits = self(layers, mask, tensors)[0].double().cpu().numpy()
        return answers(self.kind, np.atleast_2d(logits), self.temperature).reshape(logits.shape)
