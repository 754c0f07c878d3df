"""Embedding and predicting with several processes of torchrun: each computes a shard, and rank 0 joins them."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from protlm.embedding.layouts import LAYOUTS, Layout
from protlm.embedding.merge import merge_shards
from protlm.embedding.outputs import Output, checked_outputs, is_complete
from protlm.embedding.proteome import EmbedOptions, embed_fasta
from protlm.embedding.survey import EmbedSummary
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.progress import Progress
from protlm.sequence.fasta_files import checked_inputs, described_inputs
from protlm.sequence.stream import STDIN

_PATIENCE = timedelta(minutes=10)
_SUMMED = ("proteins", "residues", "computed", "resumed", "copied", "renamed", "beyond_positions")
_POLL = 0.2  # seconds between two checks for other ranks


def several_times_readable(fasta: str | Path | Sequence[str | Path]) -> list[Path]:
    """The input files; a UserError for standard input, which only one process can read."""
    inputs = checked_inputs(fasta)
    if inputs == [Path(STDIN)]:
        raise UserError("standard input cannot be read by several processes; name a file")
    return inputs


class OtherRankError(Exception):
    """Another rank failed and reports why."""


class Ranks:
    """The processes started by torchrun: global rank, their number, and rank on this machine."""

    def __init__(self, rank: int, count: int, local: int) -> None:
        self.rank, self.count, self.local = rank, count, local

    @classmethod
    def of_environment(cls) -> "Ranks | None":
        """Read from the environment variables that torchrun sets; None for a single process."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count < 2 or "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
            return None
        return cls(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", "0")))

    def device(self, device: str) -> str:
        """The device of this rank: an accelerator of its own, unless another device is chosen."""
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None or device not in ("auto", accelerator.type):
            return device
        return f"{accelerator.type}:{self.local % torch.accelerator.device_count()}"

    def embed_fasta(
        self,
        model: Performer,
        fasta: str | Path | Sequence[str | Path],
        per_protein: Path | None,
        per_residue: Path | None,
        options: EmbedOptions,
        overwrite: bool = False,
        progress: Progress | None = None,
        **more: Any,
    ) -> EmbedSummary | None:
        """As `proteome.embed_fasta`, with one shard per rank; they are joined from a folder `.NAME.ranks`.

        Returns the summary on rank 0, None on the others. The first rank that fails raises a UserError, the others
        an OtherRankError shortly after.
        """
        with self.together(options.shard):
            inputs = several_times_readable(fasta)
            options = options.resolved(model)
            outputs = checked_outputs(options.layout, options.dtype, options.pools, inputs, per_protein, per_residue)

            def compute(parts: Mapping[Path, Path], shard: tuple[int, int], report: Progress) -> EmbedSummary:
                one, other = (parts.get(path) if path else None for path in (per_protein, per_residue))
                own = replace(options, shard=shard)
                return embed_fasta(model, inputs, one, other, own, overwrite=True, progress=report, **more)

            return self.run(outputs, options.description(model), inputs, compute, overwrite, progress)

    @contextmanager
    def together(self, shard: tuple[int, int] = (1, 1)) -> Iterator[None]:
        """Lets the ranks know of each other: a UserError of one ends all; of several the first is raised.

        Args:
            shard: of the options, which must be the whole.
        """
        store, *_ = next(rendezvous("env://", timeout=_PATIENCE))
        self._store = PrefixStore(f"protlm-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        try:
            if shard != (1, 1):
                raise UserError(
                    "shard requires a single process; under torchrun each process computes its own shard", "shard"
                )
            yield
        except UserError:
            if self._store.add("errors", 1) == 1:
                raise
            raise OtherRankError from None

    def run(
        self,
        outputs: Sequence[Output],
        description: Mapping[str, Any],
        inputs: Sequence[Path],
        compute: Callable[[Mapping[Path, Path], tuple[int, int], Progress], EmbedSummary],
        overwrite: bool = False,
        progress: Progress | None = None,
        layouts: Mapping[str, Layout] = LAYOUTS,
    ) -> EmbedSummary | None:
        """Computes outputs, unless they are complete; called within `together`.

        Args:
            outputs: to write.
            description: of them, without their source.
            inputs: FASTA files.
            compute: gets file to write -> file of this rank, its shard and where to report progress.
            overwrite, progress: see `embed_fasta`.
            layouts: that the outputs may have.

        Returns:
            The summary on rank 0, None on the others.
        """
        source = described_inputs(list(inputs)) if any(output.path.exists() for output in outputs) else None
        about = {**description, "source": source}
        targets = [one.path for one in outputs if not is_complete(one, one.described(about), overwrite)]
        self._wait_for_all("checked")
        if not targets:
            return EmbedSummary(complete=True) if self.rank == 0 else None
        began = time.monotonic()
        parts = {target: self._part(target, self.rank) for target in targets}
        for part in parts.values():
            if not part.parent.parent.is_dir():
                raise UserError(f"{part.parent.parent}: no such folder; create it first")
            part.parent.mkdir(exist_ok=True)

        def report(done: int, total: int) -> None:
            self._check_others()
            if progress:
                progress(done, total)

        summary = compute(parts, (self.rank + 1, self.count), report)
        for name in _SUMMED:
            self._store.add(name, getattr(summary, name))
        self._store.add("computing", int(1e6 * summary.computing))
        self._wait_for_all("computed")
        if self.rank == 0:
            for target in targets:
                shards = [self._part(target, rank) for rank in range(self.count)]
                merge_shards(shards, target, overwrite, layouts=layouts)
            for part in parts.values():
                shutil.rmtree(part.parent, ignore_errors=True)
        for name in _SUMMED:
            setattr(summary, name, self._store.add(name, 0))
        summary.computing = self._store.add("computing", 0) / 1e6 / self.count  # side by side
        summary.seconds = time.monotonic() - began  # of all ranks, including reading and merging
        self._wait_for_all("merged")
        return summary if self.rank == 0 else None

    def _part(self, target: Path, rank: int) -> Path:
        return target.with_name(f".{target.name}.ranks") / f"{rank + 1}-of-{self.count}{target.suffix}"

    def _check_others(self) -> None:
        try:
            failed = self._store.add("errors", 0) > 0
        except RuntimeError:  # the process that holds the store has ended
            failed = True
        if failed:
            raise OtherRankError

    def _wait_for_all(self, step: str) -> None:
        """Waits until all ranks have reached a step; raises OtherRankError if one fails."""
        self._store.add(f"at {step}", 1)
        while self._store.add(f"at {step}", 0) < self.count:
            self._check_others()
            time.sleep(_POLL)
