"""LightningDataModules over a corpus: single proteins (TrEMBL), and proteins joined into blocks (concatenated)."""

import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader
from xxhash import xxh3_128_hexdigest

from protlm.batching.batches import Batch, Batches, BlockBatches, ProteinBatches, Question
from protlm.batching.masking import Masking
from protlm.batching.samplers import EndlessBatches, Plan, Position
from protlm.corpus.ingest import Selection
from protlm.corpus.layout import VERSION
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpora, Corpus, Unigram
from protlm.corpus.splits import SplitRule, digests, read_ids
from protlm.errors import UserError
from protlm.files import BusyError
from protlm.sequence.stream import checksum

VALID, TEST = 0.05, 0.1  # shares, unless others are asked for

EVALUATION_SPLITS = ("test", "ood")
"""Splits of `trainer.test`, in the order of its dataloaders; empty ones are left out."""


class TremblDataModule(pl.LightningDataModule):
    """Single proteins, cropped to `max_length` at random in training, in length-bucketed batches.

    The training batches have no end: `trainer.max_steps` says when to stop. A checkpoint holds the place in the data,
    and a run that goes on gets exactly the batches it had not seen.

    Args:
        corpus: path of the corpus, or of several that are taken as one; a single one is made from `fasta` if it is
            missing. By default, with `fasta`, a file in the folder `corpora` whose name depends on the FASTA files and
            on how they are split.
        weights: share of each corpus in training; None takes each of its proteins once an epoch.
        sample_by: in training, "protein" takes each protein once an epoch, "cluster" one protein of each cluster.
        min_cluster_size: in training, leaves out clusters with fewer proteins in the train split; a list has a number
            for each corpus, or makes as many parts of a single one, which `weights` are the shares of.
        fasta: a FASTA file or a list of them.
        clusters: two-column table (representative, member) for `split_by`; None for none.
        split_by: "cluster" keeps whole clusters on one side, "sequence" splits by hash of the sequence.
        held_out: file of ids of proteins or clusters for the ood split; None for none.
        valid, test: shares of the proteins or clusters.
        allow_nucleotides: take a FASTA file that looks like DNA or RNA all the same.
        max_length: longest sequence in tokens.
        token_budget: most tokens in a batch on one device, padding included.
        causal: next-token prediction instead of masked residues.
        masking: how residues are masked.
        workers: processes that make batches; 0 makes them in the main process.
        seed: of order, crops and masks.
    """

    batches: type[Batches] = ProteinBatches
    allow_zero_length_dataloader_with_multiple_devices = True  # a rank may have no batch of a small split

    def __init__(
        self,
        corpus: str | list[str] | None = None,
        weights: list[float] | None = None,
        sample_by: str = "protein",
        min_cluster_size: int | list[int] = 1,
        fasta: str | list[str] | None = None,
        clusters: str | None = None,
        split_by: str = "sequence",
        held_out: str | None = None,
        valid: float = VALID,
        test: float = TEST,
        allow_nucleotides: bool = False,
        max_length: int = 1024,
        token_budget: int = 16_384,
        causal: bool = False,
        masking: Masking | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("workers", workers), ("seed", seed)):
            if not isinstance(value, int) or value < 0:
                raise UserError(f"data.{name} {value!r}: expected a whole number from 0")
        if split_by not in ("cluster", "sequence"):
            raise UserError(f"data.split_by {split_by!r}: expected 'cluster' or 'sequence'")
        if split_by == "cluster" and not clusters:
            raise UserError("data.split_by is 'cluster': give the table as data.clusters")
        self.fasta = [path for path in ([fasta] if isinstance(fasta, str) else fasta or []) if path]
        if not corpus and not self.fasta:
            raise UserError("no data: give data.fasta=FILE.fasta, or data.corpus=CORPUS.h5 made by 'protlm prepare'")
        self.clusters, self.split_by, self.held_out, self.valid, self.test = clusters, split_by, held_out, valid, test
        paths = [corpus] if isinstance(corpus, str) else corpus or [self._cached()]
        self.corpus_paths = [Path(path) for path in paths]
        if self.fasta and len(self.corpus_paths) > 1:
            raise UserError("data.fasta with several data.corpus: make each of them with 'protlm prepare' first")
        self.weights, self.sample_by, self.min_cluster_size = weights, sample_by, min_cluster_size
        self.allow_nucleotides = allow_nucleotides
        self.max_length, self.token_budget, self.workers, self.seed = max_length, token_budget, workers, seed
        self.question = Question(causal, masking or Masking())
        self._corpora: Corpora | None = None
        self._sampler: EndlessBatches | None = None
        self._start: Position | None = None

    @property
    def corpora(self) -> Corpora:
        """The corpora, opened at the first use."""
        if self._corpora is None:
            self._corpora = Corpora([Corpus(path) for path in self.corpus_paths])
        return self._corpora

    @property
    def unigram(self) -> Unigram:
        """The baseline of the training split."""
        return self.corpora.unigram()

    def prepare_data(self) -> None:
        """Makes the corpus from the FASTA files if it is missing.

        Raises:
            UserError: if there is neither a corpus nor a FASTA, or if one is unusable.
        """
        path = self.corpus_paths[0]
        if path.exists() or not self.fasta:
            for corpus in self.corpora.corpora:  # says what is missing and how to make it
                corpus.check_sources(self.fasta)
                self._check_options(corpus)
            return
        rule = SplitRule(
            valid=self.valid,
            test=self.test,
            clusters=self.clusters,
            whole_clusters=self.split_by == "cluster",
            held_out=read_ids(self.held_out) if self.held_out else frozenset(),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        selection = Selection(allow_nucleotides=self.allow_nucleotides)
        print(f"preparing {path}", flush=True)
        while not path.exists():
            try:
                summary = prepare_corpus(self.fasta, path, rule, selection)
                print(*summary.describe(path), sep="\n", flush=True)
            except BusyError:  # another run, or this one on another machine, is making the same
                time.sleep(1)
        self.prepare_data()

    def _check_options(self, corpus: Corpus) -> None:
        """Refuses a corpus that was not split as it is asked for; what is not asked for may be anything."""
        made = corpus.attributes["options"]
        held_out = sorted(read_ids(self.held_out)) if self.held_out else []
        asked = {
            "valid": (self.valid, VALID),
            "test": (self.test, TEST),
            "whole_clusters": (self.split_by == "cluster", False),
            "clusters": (checksum(self.clusters) if self.clusters else None, None),
            "held_out": (xxh3_128_hexdigest("\n".join(held_out).encode()) if held_out else None, None),
        }
        stored = {
            **made,
            "clusters": made["clusters"] and made["clusters"]["xxh3_128"],
            "held_out": made["held_out"]["xxh3_128"],
        }
        odd = [name for name, (value, default) in asked.items() if value != default and value != stored[name]]
        if odd:
            names = ", ".join("data.split_by" if name == "whole_clusters" else f"data.{name}" for name in odd)
            raise UserError(f"{corpus.path}: was prepared with other {names}; prepare it again, or leave these out")

    def train_dataloader(self) -> DataLoader[Batch]:
        samples = self._batches(
            "train",
            self.question,
            sample_by=self.sample_by,
            weights=self.weights,
            min_cluster_size=self.min_cluster_size,
        )
        if not samples.draws.size and self.min_cluster_size != 1:
            raise UserError(
                f"{self.corpora}: no cluster in the train split has data.min_cluster_size={self.min_cluster_size} "
                "proteins"
            )
        if not samples.draws.size:
            raise UserError(
                f"{self.corpora}: no protein in the train split; prepare it again with more proteins or smaller "
                "--valid and --test"
            )
        before = self._trained_batches()
        self._sampler = EndlessBatches(samples, *self._rank(), self._start, lambda: self._trained_batches() - before)
        return self._loader(samples, self._sampler)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return self._evaluation(("valid",))

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        return self._evaluation(self.evaluated_splits())

    def names(self, batch: Batch) -> list[str]:
        """What the sequences of a training batch are called."""
        assert self._sampler is not None
        assert batch.key is not None
        return self._sampler.samples.names(batch.key)

    def evaluated_splits(self) -> tuple[str, ...]:
        """The splits of `test_dataloader`."""
        return tuple(split for split in EVALUATION_SPLITS if self.corpora.count(split)[0])

    def state_dict(self) -> dict[str, Any]:
        """The place in the data behind the last batch that was trained on, the same for all ranks."""
        place = self._start
        if self._sampler is not None and self.trainer is not None:
            place = self._sampler.position()
        return {"place": place, "order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at a place, on any number of ranks.

        Raises:
            UserError: if the place belongs to another order of batches.
        """
        stored, now = {"min_cluster_size": 1, **state_dict.get("order", {})}, self._order()  # older ones lack it
        if stored != now:
            odd = [name for name in now if now[name] != stored.get(name)]
            changes = ", ".join(f"data.{name} {stored.get(name)} is now {now[name]}" for name in odd)
            raise UserError(f"the checkpoint's place in the data is lost: {changes}; resume with the same options")
        if place := state_dict["place"]:
            epoch, cursor, batch = place
            self._start = (epoch, tuple(cursor), batch)

    def _order(self) -> dict[str, Any]:
        """All that the order of the training batches depends on."""
        return {
            "seed": self.seed,
            "max_length": self.max_length,
            "token_budget": self.token_budget,
            "sample_by": self.sample_by,
            "weights": self.weights,
            "corpus": [corpus.fingerprint for corpus in self.corpora.corpora],
            "min_cluster_size": self.min_cluster_size,
        }

    def _rank(self) -> tuple[int, int]:
        """This process and their number."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _cached(self) -> Path:
        """Where a corpus without a name is kept: another file for other FASTA files or other splits."""
        files = [path for path in (*self.fasta, self.clusters, self.held_out) if path]
        for path in files:
            if not Path(path).is_file():
                raise UserError(f"{path}: no such file")
        stats = [
            (str(Path(path).resolve()), Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in files
        ]
        key = repr((VERSION, stats, self.split_by, self.valid, self.test)).encode()
        stem = Path(self.fasta[0]).name.split(".")[0]
        return Path("corpora") / f"{stem}-{int(digests([key])[0, 0]):016x}.h5"

    def _trained_batches(self) -> int:
        if self.trainer is None:
            return 0
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return progress.processed

    def _batches(self, split: str, question: Question, **sampling: Any) -> Batches:
        return self.batches(self.corpora, split, question, self.max_length, self.token_budget, self.seed, **sampling)

    def _evaluation(self, splits: tuple[str, ...]) -> list[DataLoader[Batch]]:
        loaders = []
        for split in splits:
            samples = self._batches(split, self.question.for_evaluation())
            loaders.append(self._loader(samples, Plan(samples, *self._rank())))
        return loaders

    def _loader(self, samples: Batches, keys: Any) -> DataLoader[Batch]:
        return DataLoader(
            samples,
            batch_size=None,  # a key stands for a whole batch
            sampler=keys,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=_leave_signals_to_the_main_process,
        )


def _leave_signals_to_the_main_process(worker: int) -> None:
    """A terminal and SLURM send them to all processes, and a run that stops still needs its workers' next batch."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


class ConcatenatedTremblDataModule(TremblDataModule):
    """Proteins joined by `<eos>` and cut into blocks of `max_length`; everything else as `TremblDataModule`.

    Args:
        separate: keep attention within each protein of a block, and begin positions anew.
    """

    batches = BlockBatches

    def __init__(self, separate: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.separate = separate

    def _batches(self, split: str, question: Question, **sampling: Any) -> Batches:
        return super()._batches(split, question, separate=self.separate, **sampling)

    def _order(self) -> dict[str, Any]:
        return {**super()._order(), "blocks": True}
