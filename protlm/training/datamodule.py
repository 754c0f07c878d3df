"""LightningDataModules over a corpus: single proteins (TrEMBL), or proteins concatenated into blocks."""

import time
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch.utils.data import DataLoader
from xxhash import xxh3_128_hexdigest

from protlm.batching.batches import Batch, Batches, BlockBatches, Objective, ProteinBatches, check_sizes
from protlm.batching.masking import Masking
from protlm.batching.samplers import Plan
from protlm.corpus.ingest import Selection
from protlm.corpus.layout import VERSION
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpora, Corpus
from protlm.corpus.splits import TRAIN, SplitRule, digests, nothing_to_learn, read_ids
from protlm.corpus.unigram import Unigram
from protlm.errors import UserError
from protlm.files import BusyError
from protlm.inference.packing import pack
from protlm.sequence.alphabets import PROTEIN, alphabet_of, describe, name_of
from protlm.sequence.letters import Alphabet
from protlm.sequence.stream import read_through
from protlm.training.data import TrainingData
from protlm.training.packing import AUTO

VALID, TEST = 0.05, 0.1
"""Default fractions of the validation and test splits."""
EVALUATION_SPLITS = ("test", "ood")
"""Splits for `trainer.test`, in the order of its dataloaders; empty ones are omitted."""


class TremblDataModule(TrainingData):
    """Single proteins, randomly cropped to `max_length` for training, in length-bucketed batches.

    Args:
        corpus: path of a corpus, or of several that are used as one; a single one is made from `fasta` if it does not
            exist. None, with `fasta`, uses a file in the folder `corpora` whose name depends on the FASTA files and on
            the split options.
        weights: fraction of training proteins from each corpus; None takes each protein once per epoch.
        sample_by: for training, "protein" takes each protein once per epoch, "cluster" one protein of each cluster.
        min_cluster_size: for training, omits clusters with fewer proteins in the train split; a list has a number for
            each corpus, or divides a single corpus into as many parts, to which `weights` then refer.
        fasta: a FASTA file or a list of them.
        clusters: two-column table (representative, member) for `split_by`.
        split_by: "cluster" keeps each cluster in one split; "sequence" splits by a hash of the sequence.
        held_out: file with ids of proteins or clusters for the ood split.
        valid, test: fraction of proteins or clusters in these splits.
        allow_nucleotides: accept a FASTA file that looks like DNA or RNA.
        alphabet: of a corpus made from `fasta`, see `protlm.sequence.alphabets.alphabet_of`; None for that of an
            existing corpus, or proteins.
        reverse_complement: for training, read every other sequence of DNA or RNA, at random, on the opposite strand.
        max_length: longest sequence in tokens.
        token_budget: maximum number of tokens in a batch on one device, including padding.
        causal: next-residue prediction instead of masked language modelling.
        masking: how residues are masked.
        workers: see `TrainingData`.
        packed: join the sequences of a batch to one row without padding, each attending to itself; for attention on
            GPUs (docs/gpu.md), which elsewhere has to take them apart again. "auto" pads until `pack` is called.
        seed: seed of the order, crops and masks.

    Raises:
        UserError: for an invalid option, or without any data.
    """

    batches: type[Batches] = ProteinBatches
    earlier = MappingProxyType({"min_cluster_size": 1})

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
        alphabet: Any = None,
        reverse_complement: bool = False,
        max_length: int = 1024,
        token_budget: int = 16_384,
        causal: bool = False,
        masking: Masking | None = None,
        workers: int | str = 0,
        packed: bool | str = False,
        seed: int = 0,
    ) -> None:
        super().__init__(workers)
        flags = {"packed": packed == AUTO or packed, "causal": causal, "allow_nucleotides": allow_nucleotides}
        flags["reverse_complement"] = reverse_complement
        for name, value in flags.items():
            if not isinstance(value, bool):
                auto = ", or auto" * (name == "packed")
                raise UserError(f"data.{name} {value!r}: expected true or false{auto}")
        counts = {"seed": seed, "max_length": max_length, "token_budget": token_budget}
        for name, value in counts.items():
            if not isinstance(value, int) or value < 0:
                raise UserError(f"data.{name} {value!r}: expected a non-negative integer")
        check_sizes(max_length, token_budget)
        if split_by not in ("cluster", "sequence"):
            raise UserError(f"data.split_by {split_by!r}: expected 'cluster' or 'sequence'")
        if split_by == "cluster" and not clusters:
            raise UserError("data.split_by=cluster requires data.clusters")
        self.fasta = [path for path in ([fasta] if isinstance(fasta, str) else fasta or []) if path]
        if not corpus and not self.fasta:
            raise UserError("no data: set data.fasta=FILE.fasta, or data.corpus=CORPUS.h5 made with 'protlm prepare'")
        self._given_alphabet = None if alphabet is None else alphabet_of(alphabet)
        self.reverse_complement = reverse_complement
        self.clusters, self.split_by, self.held_out, self.valid, self.test = clusters, split_by, held_out, valid, test
        paths = [corpus] if isinstance(corpus, str) else corpus or [self._cached()]
        self.corpus_paths = [Path(path) for path in paths]
        if self.fasta and len(self.corpus_paths) > 1:
            raise UserError("data.fasta with several data.corpus: make each corpus with 'protlm prepare' first")
        self.weights, self.sample_by, self.min_cluster_size = weights, sample_by, min_cluster_size
        self.allow_nucleotides = allow_nucleotides
        self.max_length, self.token_budget, self.seed = max_length, token_budget, seed
        self.pack(packed is True)
        self.objective = Objective(causal, masking or Masking())
        self._corpora: Corpora | None = None

    def pack(self, packed: bool) -> None:
        """Makes batches without padding, or with."""
        self.packed, self.collate = packed, pack if packed else None

    def state_dict(self) -> dict[str, Any]:
        """See `TrainingData.state_dict`; also whether batches are packed."""
        return {**super().state_dict(), "packed": self.packed}

    @property
    def corpora(self) -> Corpora:
        """The corpora, opened on first use."""
        if self._corpora is None:
            self._corpora = Corpora([Corpus(path) for path in self.corpus_paths])
        return self._corpora

    @property
    def alphabet(self) -> Alphabet:
        """Of the corpora."""
        return self.corpora.alphabet

    @property
    def fingerprints(self) -> list[str]:
        """Of the corpora."""
        return [corpus.fingerprint for corpus in self.corpora.corpora]

    @property
    def training_proteins(self) -> int:
        """Number of proteins in the training split."""
        return self.corpora.count("train")[0]

    @property
    def validates(self) -> bool:
        """Whether there are proteins for validation."""
        return bool(self.corpora.count("valid")[0])

    def check_unchanged(self) -> None:
        """Raises a UserError if a corpus changed while it was read."""
        self.corpora.check_unchanged()

    @property
    def unigram(self) -> Unigram:
        """The unigram baseline of the training split."""
        return self.corpora.unigram()

    def prepare_data(self) -> None:
        """Makes the corpus from the FASTA files if it does not exist.

        Raises:
            UserError: without a usable corpus or FASTA file, or for a corpus split with other options.
        """
        path = self.corpus_paths[0]
        if path.exists() or not self.fasta:
            for corpus in self.corpora.corpora:  # raises for a missing one
                corpus.check_sources(self.fasta)
                self._check_options(corpus)
            return
        held_out = read_ids(self.held_out) if self.held_out else frozenset()
        rule = SplitRule(self.valid, self.test, self.clusters, self.split_by == "cluster", held_out)
        path.parent.mkdir(parents=True, exist_ok=True)
        alphabet = self._given_alphabet or PROTEIN
        selection = Selection(allow_nucleotides=self.allow_nucleotides, alphabet=alphabet)
        print(f"preparing {path}", flush=True)
        while not path.exists():
            try:
                summary = prepare_corpus(self.fasta, path, rule, selection)
                print(*summary.describe(path), sep="\n", flush=True)
            except BusyError:  # another run, or this one on another machine, is making it
                time.sleep(1)
        self.prepare_data()

    def _check_options(self, corpus: Corpus) -> None:
        """Refuses a corpus that was split with other options; options at their default are not compared."""
        if self._given_alphabet not in (None, corpus.alphabet):
            raise UserError(f"{corpus.path}: is of {name_of(corpus.alphabet)}; omit data.alphabet, or prepare it again")
        made = corpus.attributes["options"]
        held_out = sorted(read_ids(self.held_out)) if self.held_out else []
        expected = {
            "valid": (self.valid, VALID),
            "test": (self.test, TEST),
            "whole_clusters": (self.split_by == "cluster", False),
            "clusters": (read_through(self.clusters)["xxh3_128"] if self.clusters else None, None),
            "held_out": (xxh3_128_hexdigest("\n".join(held_out).encode()) if held_out else None, None),
        }
        clusters = made["clusters"] and made["clusters"]["xxh3_128"]
        stored = {**made, "clusters": clusters, "held_out": made["held_out"]["xxh3_128"]}
        odd = [name for name, (value, default) in expected.items() if value != default and value != stored[name]]
        if odd:
            names = ", ".join("data.split_by" if name == "whole_clusters" else f"data.{name}" for name in odd)
            raise UserError(f"{corpus.path}: was prepared with other {names}; prepare it again, or omit these options")

    def _training_batches(self) -> Batches:
        sampling = {name: getattr(self, name) for name in ("sample_by", "weights", "min_cluster_size")}
        sampling |= {"reverse_complement": True} if self.reverse_complement else {}
        samples = self._batches("train", self.objective, **sampling)
        if not samples.draws.size:
            what = "no protein in the train split; prepare it again with more proteins or smaller valid and test"
            if self.min_cluster_size != 1:
                what = f"no cluster in the train split has data.min_cluster_size={self.min_cluster_size} proteins"
            raise UserError(f"{self.corpora}: {what}")
        alphabet = self.corpora.alphabet
        if not any(corpus.residue_counts[TRAIN, alphabet.scored].any() for corpus in self.corpora.corpora):
            raise UserError(f"{self.corpora}: {nothing_to_learn(alphabet)}")
        return samples

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return self._evaluation(("valid",))

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        return self._evaluation(self.evaluated_splits())

    def evaluated_splits(self) -> tuple[str, ...]:
        """The splits that `test_dataloader` returns."""
        return tuple(split for split in EVALUATION_SPLITS if self.corpora.count(split)[0])

    def _order(self) -> dict[str, Any]:
        """Everything that determines the order of the training batches."""
        names = ("seed", "max_length", "token_budget", "sample_by", "weights", "min_cluster_size")
        strands = {"reverse_complement": True} if self.reverse_complement else {}
        return {**{name: getattr(self, name) for name in names}, **strands, "corpus": self.fingerprints}

    def _cached(self) -> Path:
        """Path of a corpus without a name, which depends on the FASTA files and the split options."""
        files = [path for path in (*self.fasta, self.clusters, self.held_out) if path]
        for path in files:
            if not Path(path).is_file():
                raise UserError(f"{path}: no such file")
        stats = [(Path(path), Path(path).stat()) for path in files]
        versions = [(str(path.resolve()), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        options = (VERSION, versions, self.split_by, self.valid, self.test)
        if self._given_alphabet not in (None, PROTEIN):
            options = (*options, describe(self._given_alphabet))
        key = repr(options).encode()
        stem = Path(self.fasta[0]).name.split(".")[0]
        return Path("corpora") / f"{stem}-{int(digests([key])[0, 0]):016x}.h5"

    def _batches(self, split: str, objective: Objective, **sampling: Any) -> Batches:
        return self.batches(self.corpora, split, objective, self.max_length, self.token_budget, self.seed, **sampling)

    def _evaluation(self, splits: tuple[str, ...]) -> list[DataLoader[Batch]]:
        each = [self._batches(split, self.objective.for_evaluation()) for split in splits]
        return [self._loader(samples, Plan(samples, *self._rank())) for samples in each]


def corpus_alphabet(corpus: Any, alphabet: Any) -> Alphabet:
    """The alphabet of the first corpus that exists, else the given one, by default that of proteins.

    A corpus that cannot be read is reported when it is used.
    """
    for path in [corpus] if isinstance(corpus, str) else corpus or []:
        if Path(path).is_file():
            with suppress(UserError):
                return Corpus(path).alphabet
    return PROTEIN if alphabet is None else alphabet_of(alphabet)


class ConcatenatedTremblDataModule(TremblDataModule):
    """Proteins concatenated with `<eos>` and cut into blocks of `max_length`.

    Args:
        separate: restrict attention to each protein of a block, and restart positions with it.
        **options: as for `TremblDataModule`.
    """

    batches = BlockBatches

    def __init__(self, separate: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.separate = separate

    def _batches(self, split: str, objective: Objective, **sampling: Any) -> Batches:
        return super()._batches(split, objective, separate=self.separate, **sampling)

    def _order(self) -> dict[str, Any]:
        return {**super()._order(), "blocks": True}
