"""LightningDataModules over a corpus: single proteins (TrEMBL), and proteins joined into blocks (concatenated)."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from protlm.errors import UserError
from protlm.sequence.batching import Batch, Batches, BlockBatches, EndlessBatches, ProteinBatches, Question
from protlm.sequence.corpus import VERSION, Corpus, Unigram, prepare_corpus
from protlm.sequence.masking import Masking
from protlm.sequence.splits import SplitRule, digest, read_clusters, read_ids

EVALUATION_SPLITS = ("test", "ood")
"""Splits of `trainer.test`, in the order of its dataloaders; empty ones are left out."""


class TremblDataModule(pl.LightningDataModule):
    """Single proteins, cropped to `max_length` at random in training, in length-bucketed batches.

    The training batches have no end: `trainer.max_steps` says when to stop. A checkpoint holds the place in the data,
    and a run that goes on gets exactly the batches it had not seen.

    Args:
        corpus: path of the corpus; made from `fasta` if it is missing. By default, with `fasta`, a file in the folder
            `corpora` whose name depends on the FASTA files and on how they are split.
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
        corpus: str | None = None,
        fasta: str | list[str] | None = None,
        clusters: str | None = None,
        split_by: str = "sequence",
        held_out: str | None = None,
        valid: float = 0.05,
        test: float = 0.1,
        allow_nucleotides: bool = False,
        max_length: int = 1024,
        token_budget: int = 16_384,
        causal: bool = False,
        masking: Masking | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if split_by not in ("cluster", "sequence"):
            raise UserError(f"data.split_by {split_by!r}: expected 'cluster' or 'sequence'")
        if split_by == "cluster" and not clusters:
            raise UserError("data.split_by is 'cluster': give the table as data.clusters")
        self.fasta = [path for path in ([fasta] if isinstance(fasta, str) else fasta or []) if path]
        if corpus is None and not self.fasta:
            raise UserError("no data: give data.fasta=FILE.fasta, or data.corpus=CORPUS.h5 made by 'protlm prepare'")
        self.clusters, self.split_by, self.held_out, self.valid, self.test = clusters, split_by, held_out, valid, test
        self.corpus_path = Path(corpus) if corpus else self._cached()
        self.allow_nucleotides = allow_nucleotides
        self.max_length, self.token_budget, self.workers, self.seed = max_length, token_budget, workers, seed
        self.question = Question(causal, masking or Masking())
        self._corpus: Corpus | None = None
        self._sampler: EndlessBatches | None = None
        self._start = (0, 0)
        self._before = 0  # batches trained on before this process began

    @property
    def corpus(self) -> Corpus:
        """The corpus, opened at the first use."""
        if self._corpus is None:
            self._corpus = Corpus(self.corpus_path)
        return self._corpus

    @property
    def unigram(self) -> Unigram:
        """The baseline of the training split."""
        return self.corpus.unigram()

    def prepare_data(self) -> None:
        """Makes the corpus from the FASTA files if it is missing.

        Raises:
            UserError: if there is neither a corpus nor a FASTA, or if one is unusable.
        """
        if self.corpus_path.exists():
            self.corpus.check_sources(self.fasta)
            return
        if not self.fasta:
            Corpus(self.corpus_path)  # says what is missing and how to make it
        rule = SplitRule(
            valid=self.valid,
            test=self.test,
            clusters=read_clusters(self.clusters) if self.clusters else {},
            whole_clusters=self.split_by == "cluster",
            held_out=read_ids(self.held_out) if self.held_out else frozenset(),
        )
        self.corpus_path.parent.mkdir(parents=True, exist_ok=True)
        summary = prepare_corpus(self.fasta, self.corpus_path, rule, self.allow_nucleotides)
        print(*summary.describe(self.corpus_path), sep="\n")

    def train_dataloader(self) -> DataLoader[Batch]:
        samples = self._batches("train", self.question)
        if not len(samples.members):
            raise UserError(
                f"{self.corpus_path}: no protein in the train split; prepare it again with more proteins or smaller "
                "--valid and --test"
            )
        self._sampler = EndlessBatches(samples, *self._rank(), self._start)
        self._before = self._trained_batches()
        return self._loader(samples, self._sampler)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return self._evaluation(("valid",))

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        return self._evaluation(self.evaluated_splits())

    def evaluated_splits(self) -> tuple[str, ...]:
        """The splits of `test_dataloader`."""
        return tuple(split for split in EVALUATION_SPLITS if len(self.corpus.members(split)))

    def state_dict(self) -> dict[str, Any]:
        """The place in the data behind the last batch that was trained on."""
        if self._sampler is None or self.trainer is None:
            return {"start": list(self._start)}
        return {"start": list(self._sampler.place(self._trained_batches() - self._before))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        epoch, batch = state_dict["start"]
        self._start = (epoch, batch)

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
        return Path("corpora") / f"{stem}-{digest(key):016x}.h5"

    def _trained_batches(self) -> int:
        if self.trainer is None:
            return 0
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return progress.processed

    def _batches(self, split: str, question: Question) -> Batches:
        return self.batches(self.corpus, split, question, self.max_length, self.token_budget, self.seed)

    def _evaluation(self, splits: tuple[str, ...]) -> list[DataLoader[Batch]]:
        rank, ranks = self._rank()
        loaders = []
        for split in splits:
            samples = self._batches(split, self.question.for_evaluation())
            loaders.append(self._loader(samples, [(0, indices) for indices in samples.plan(0)[rank::ranks]]))
        return loaders

    def _loader(self, samples: Batches, keys: Any) -> DataLoader[Batch]:
        return DataLoader(
            samples,
            batch_size=None,  # a key stands for a whole batch
            sampler=keys,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )


class ConcatenatedTremblDataModule(TremblDataModule):
    """Proteins joined by `<eos>` and cut into blocks of `max_length`; everything else as `TremblDataModule`."""

    batches = BlockBatches
