"""One embedding by several processes that torchrun has started: each computes a shard, the first one joins them."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from protlm.embedding.merge import merge_parts
from protlm.embedding.proteome import embed_fasta, missing
from protlm.embedding.provenance import EmbedOptions
from protlm.embedding.summary import EmbedSummary
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.sequence.stream import STDIN

Progress = Callable[[int, int], None]
_PATIENCE = timedelta(minutes=10)
_SUMMED = ("proteins", "residues", "computed", "resumed", "copied", "renamed", "beyond_positions")
_POLL = 0.2  # seconds between two looks at what the others say


class OtherRankError(Exception):
    """Another rank failed, and has said why."""


class Ranks:
    """The processes that torchrun has started, and what they tell each other.

    Args:
        rank, count, local: this one among all, their number, and this one among those of its machine.
    """

    def __init__(self, rank: int, count: int, local: int) -> None:
        self.rank, self.count, self.local = rank, count, local

    @classmethod
    def of_environment(cls) -> "Ranks | None":
        """What torchrun says in the environment; None for a single process."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count < 2 or "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
            return None
        return cls(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", "0")))

    def device(self, device: str) -> str:
        """The device of this rank: its own accelerator, where nothing else is said."""
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None or device not in ("auto", accelerator.type):
            return device
        return f"{accelerator.type}:{self.local % torch.accelerator.device_count()}"

    def embed_fasta(
        self,
        model: Performer,
        fasta: str | Path,
        per_protein: Path | None,
        per_residue: Path | None,
        options: EmbedOptions,
        token_budget: int = 16_384,
        overwrite: bool = False,
        allow_nucleotides: bool = False,
        progress: Progress | None = None,
        reading: Progress | None = None,
    ) -> EmbedSummary | None:
        """As `proteome.embed_fasta`, with one shard a rank; parts lie in `.NAME.ranks` beside the output until then.

        Returns:
            On rank 0 the summary, None on the others.

        Raises:
            UserError: on the first rank that fails.
            OtherRankError: on the others, soon after.
        """
        store, *_ = next(rendezvous("env://", timeout=_PATIENCE))
        self._store = PrefixStore(f"protlm-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        arguments = (model, fasta, per_protein, per_residue, options)
        try:
            if options.shard != (1, 1):
                raise UserError("--shard is for runs without torchrun; here each process has a shard of its own")
            if str(fasta) == STDIN:
                raise UserError("standard input cannot be read by several processes; give a file")
            targets = missing(*arguments, overwrite)
            self._together("looked")
            if not targets:
                return EmbedSummary(complete=True) if self.rank == 0 else None
            arguments = (model, fasta, *(p if p in targets else None for p in (per_protein, per_residue)), options)
            return self._computed(arguments, targets, token_budget, overwrite, allow_nucleotides, progress, reading)
        except UserError:
            if self._store.add("errors", 1) == 1:
                raise
            raise OtherRankError from None

    def _computed(
        self,
        arguments: tuple[Any, ...],
        targets: list[Path],
        token_budget: int,
        overwrite: bool,
        allow_nucleotides: bool,
        progress: Progress | None,
        reading: Progress | None,
    ) -> EmbedSummary | None:
        model, fasta, per_protein, per_residue, options = arguments
        began = time.monotonic()
        parts = {target: self._part(target, self.rank) for target in targets}
        for part in parts.values():
            if not part.parent.parent.is_dir():
                raise UserError(f"{part.parent.parent}: no such folder; make it first")
            part.parent.mkdir(exist_ok=True)

        def report(done: int, total: int) -> None:
            self._listen()
            if progress:
                progress(done, total)

        summary = embed_fasta(
            model,
            fasta,
            parts.get(per_protein),
            parts.get(per_residue),
            replace(options, shard=(self.rank + 1, self.count)),
            token_budget,
            True,
            allow_nucleotides,
            report,
            reading,
        )
        for name in _SUMMED:
            self._store.add(name, getattr(summary, name))
        self._together("computed")
        if self.rank == 0:
            for target in targets:
                merge_parts([self._part(target, rank) for rank in range(self.count)], target, overwrite)
            for part in parts.values():
                shutil.rmtree(part.parent, ignore_errors=True)
        for name in _SUMMED:
            setattr(summary, name, self._store.add(name, 0))
        summary.seconds = time.monotonic() - began  # of all ranks, reading and merging too
        self._together("merged")
        return summary if self.rank == 0 else None

    def _part(self, target: Path, rank: int) -> Path:
        return target.with_name(f".{target.name}.ranks") / f"{rank + 1}-of-{self.count}"

    def _listen(self) -> None:
        try:
            failed = self._store.add("errors", 0) > 0
        except RuntimeError:  # the process that keeps what is said is gone
            failed = True
        if failed:
            raise OtherRankError

    def _together(self, step: str) -> None:
        """Waits until all ranks have come so far; ends with the first that fails."""
        self._store.add(f"at {step}", 1)
        while self._store.add(f"at {step}", 0) < self.count:
            self._listen()
            time.sleep(_POLL)
