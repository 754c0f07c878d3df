"""The data modules: splits, corpora made from FASTA, weights and clusters, and exact continuation after a resume."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from protlm.batching import batches as batching
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpora, Corpus
from protlm.corpus.splits import SplitRule
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.sequence.alphabet import SCORED, STANDARD
from protlm.training.datamodule import ConcatenatedTremblDataModule, TremblDataModule
from protlm.training.task import LanguageModelTask

KINDS = pytest.mark.parametrize("kind", [TremblDataModule, ConcatenatedTremblDataModule])
# Lightning's advice about workers and loggers, and its use of deprecated parts of torch
LIGHTNING = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::torch.utils.data")

Inputs = list[list[int]]


def train_batches(data: TremblDataModule) -> int:
    """Number of training batches in an epoch."""
    return len(list(data._batches("train", data.objective).plan(0)))


@KINDS
def test_training_never_ends_and_evaluation_masks_only_with_mask(kind, corpus_path: Path) -> None:
    data = kind(corpus=str(corpus_path), max_length=128, token_budget=20_000)
    data.prepare_data()
    epoch = train_batches(data)
    batches = list(islice(data.train_dataloader(), epoch + 2))
    assert len(batches) == epoch + 2
    assert all(isinstance(batch.key, np.ndarray) for batch in batches)  # which stays on the CPU
    for loader in (*data.val_dataloader(), *data.test_dataloader()):
        assert len(loader) == len(list(loader)) > 0
        for batch in loader:
            assert (batch.inputs[batch.scored] == 32).all()
            assert ((batch.targets != -100) == batch.scored).all()
    assert data.evaluated_splits() == ("test", "ood")


def test_a_missing_corpus_is_made_from_fasta_and_remade_when_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fasta = tmp_path / "in.fasta"
    fasta.write_text("".join(f">p{i}\nMKT{'ACDEFGHIKL'[i] * 9}\n" for i in range(10)))
    first = TremblDataModule(fasta=str(fasta))
    first.prepare_data()
    assert len(first.corpora) == 10
    fasta.write_text(fasta.read_text() + ">more\nMKTAYIAK\n")
    second = TremblDataModule(fasta=str(fasta))
    second.prepare_data()
    assert len(second.corpora) == 11
    assert TremblDataModule(fasta=str(fasta), test=0.2).corpus_paths != second.corpus_paths
    with pytest.raises(UserError, match="was made from"):  # a corpus of another FASTA is not taken silently
        TremblDataModule(fasta=str(fasta), corpus=str(first.corpus_paths[0])).prepare_data()


def test_missing_data_is_reported_with_the_command_to_run(tmp_path: Path, corpus_path: Path) -> None:
    for nothing in (None, []):
        with pytest.raises(UserError, match=r"data\.corpus"):
            TremblDataModule(corpus=nothing)
    with pytest.raises(UserError, match="protlm prepare"):
        TremblDataModule(corpus=str(tmp_path / "none.h5")).prepare_data()
    with pytest.raises(UserError, match=r"none\.h5: no such corpus.*protlm prepare"):
        TremblDataModule(corpus=[str(corpus_path), str(tmp_path / "none.h5")]).prepare_data()
    with pytest.raises(UserError, match="clusters"):
        TremblDataModule(corpus="x.h5", split_by="cluster")


def test_several_corpora_are_not_made_from_fasta(sample: Path, tmp_path: Path) -> None:
    paths = [str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]
    with pytest.raises(UserError, match="several data.corpus: make each corpus with 'protlm prepare' first"):
        TremblDataModule(corpus=paths, fasta=str(sample))
    assert not list(tmp_path.iterdir())


def test_a_corpus_without_training_proteins_is_refused(tmp_path: Path) -> None:
    fasta = tmp_path / "one.fasta"
    fasta.write_text(">p\nMKTAYIAKQR\n")
    data = TremblDataModule(fasta=str(fasta), corpus=str(tmp_path / "one.h5"), test=0.999, valid=0)
    data.prepare_data()
    with pytest.raises(UserError, match="no protein in the train split"):
        data.train_dataloader()
    assert [len(list(loader)) for loader in data.val_dataloader()] == [0]


def test_a_corpus_of_an_earlier_version_with_nothing_to_learn_is_refused(two: list[str]) -> None:
    data = TremblDataModule(two)
    for corpus in data.corpora.corpora:
        corpus.residue_counts[:, SCORED] = 0  # `prepare` now refuses to write it
    with pytest.raises(UserError, match=r"large\.h5, .*small\.h5: the train split has only unknown"):
        data.train_dataloader()


@KINDS
def test_a_corpus_overwritten_during_training_is_reported(kind, tmp_path: Path) -> None:
    path = prepared(tmp_path / "c.h5", 200)
    batches = iter(kind(**options(str(path))).train_dataloader())
    next(batches)
    path.write_bytes(b"")  # reading the memory map would now end the process with SIGBUS
    with pytest.raises(UserError, match=r"c\.h5: has changed since it was opened"):
        next(batches)


def prepared(path: Path, size: int, rule: SplitRule | None = None, **options: Any) -> Path:
    """A corpus of random proteins."""
    chance = random.Random(size)
    fasta = path.with_suffix(".fasta")
    proteins = ("".join(chance.choices(STANDARD, k=chance.randint(5, 90))) for _ in range(size))
    fasta.write_text("".join(f">{path.stem}{i}\n{protein}\n" for i, protein in enumerate(proteins)))
    prepare_corpus([fasta], path, rule or SplitRule(0.1, 0.1), **options)
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two corpora without clusters."""
    folder = tmp_path_factory.mktemp("two")
    return [str(prepared(folder / "large.h5", 200)), str(prepared(folder / "small.h5", 30))]


def options(corpus: str | list[str], **changes: Any) -> dict[str, Any]:
    return {"corpus": corpus, "max_length": 50, "token_budget": 500, "seed": 3, **changes}


@KINDS
def test_weights_are_the_fraction_of_training_proteins_from_each_corpus(kind, two: list[str]) -> None:
    corpora = Corpora([Corpus(path) for path in two])
    for weights, expected in ((None, None), ([0.5, 0.5], 0.5), ([0, 1], 1.0)):
        data = kind(**options(two, weights=weights))
        data.prepare_data()
        draws = data.train_dataloader().dataset.draws
        counts = Counter(int(protein) >= corpora.starts[1] for protein in draws(0, 0, draws.size)[1])
        share = counts[True] / draws.size
        if expected is None:
            expected = len(corpora.corpora[1].members("train")) / corpora.count("train")[0]
        assert share == pytest.approx(expected, abs=0.01)
        loader = data.val_dataloader()[0]  # evaluation takes each protein once
        assert loader.dataset.draws.size == corpora.count("valid")[0]
    with pytest.raises(UserError, match=r"weights.*a non-negative number for each corpus \(2\)"):
        kind(**options(two, weights=[1])).train_dataloader()


@KINDS
def test_training_by_cluster_takes_one_protein_of_each(kind, corpus_path: Path, two: list[str]) -> None:
    data = kind(**options(str(corpus_path), sample_by="cluster"))
    corpus = data.corpora.corpora[0]
    draws = data.train_dataloader().dataset.draws
    clusters = corpus.clusters[draws(0, 0, draws.size)[1]]
    assert sorted(clusters.tolist()) == sorted(set(corpus.clusters[corpus.members("train")].tolist()))
    assert data.val_dataloader()[0].dataset.draws.size == len(corpus.members("valid"))
    with pytest.raises(UserError, match=r"large\.h5: has no clusters; prepare it again with a cluster table"):
        kind(**options(two, sample_by="cluster")).train_dataloader()
    with pytest.raises(UserError, match="sample_by 'family': expected one of protein, cluster"):
        kind(**options(two, sample_by="family")).train_dataloader()


@KINDS
def test_training_can_omit_small_clusters(kind, corpus_path: Path) -> None:
    corpus = Corpus(corpus_path)
    trained_on = corpus.clusters[corpus.members("train")].tolist()
    sizes = {cluster: trained_on.count(cluster) for cluster in set(trained_on)}
    least = max(sizes.values())
    expected = {cluster for cluster, size in sizes.items() if size == least}
    assert len(expected) < len(sizes)
    data = kind(**options(str(corpus_path), min_cluster_size=least))
    draws = data.train_dataloader().dataset.draws
    assert set(corpus.clusters[draws(0, 0, draws.size)[1]].tolist()) == expected
    assert data.val_dataloader()[0].dataset.draws.size == len(corpus.members("valid"))
    with pytest.raises(UserError, match="no cluster in the train split has data.min_cluster_size=9999 proteins"):
        kind(**options(str(corpus_path), min_cluster_size=9999)).train_dataloader()


class Recorder(LanguageModelTask):
    """Records the training batches."""

    def __init__(self, model: Performer) -> None:
        super().__init__(model, lambda model: torch.optim.SGD(model.parameters(), lr=0.01))
        self.seen: list[Inputs] = []

    def training_step(self, batch: batching.Batch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.inputs.tolist())
        return super().training_step(batch, batch_idx)


class SaveAt(Callback):
    """Writes a checkpoint right after a step."""

    def __init__(self, steps: dict[int, Path]) -> None:
        self.steps = dict(steps)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if path := self.steps.pop(trainer.global_step, None):
            trainer.save_checkpoint(path)


def fit(
    data: TremblDataModule,
    model: Performer,
    steps: int,
    save: dict[int, Path] | None = None,
    start: Path | None = None,
    **changes,
) -> list[Inputs]:
    """Trains; returns the batches of the run."""
    task = Recorder(model)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        callbacks=[SaveAt(save or {})],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **{"limit_val_batches": 0, **changes},
    )
    trainer.fit(task, data, ckpt_path=start, weights_only=True)
    return task.seen


def order(data: TremblDataModule, count: int, skip: int = 0) -> list[Inputs]:
    """The expected training batches."""
    return [batch.inputs.tolist() for batch in islice(data.train_dataloader(), skip, count)]


@LIGHTNING
@KINDS
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_gets_exactly_the_remaining_batches(
    kind, workers: int, two: list[str], tiny_model: Performer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped twice, with validations in between, prefetching workers and small pools."""
    monkeypatch.setattr(batching, "POOL", 4)
    changes = {"weights": [0.7, 0.3], "workers": workers}
    expected = order(kind(**options(two, weights=[0.7, 0.3])), 40)
    epoch = train_batches(kind(**options(two, weights=[0.7, 0.3])))
    assert 10 < epoch < 25
    one, other = tmp_path / "one.ckpt", tmp_path / "other.ckpt"
    validate = {"limit_val_batches": 1, "val_check_interval": 3, "check_val_every_n_epoch": None}
    first = fit(kind(**options(two, **changes)), tiny_model, 9, {7: one}, **validate)
    assert first == expected[:9]
    second = fit(kind(**options(two, **changes)), tiny_model, 32, {30: other}, one, **validate)
    assert second == expected[7:32]
    third = fit(kind(**options(two, **changes)), tiny_model, 36, None, other)
    assert third == expected[30:36]


@LIGHTNING
def test_a_run_can_resume_from_every_step(
    two: list[str], tiny_model: Performer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "POOL", 2)
    paths = {step: tmp_path / f"{step}.ckpt" for step in range(1, 31)}
    seen = fit(TremblDataModule(**options(two)), tiny_model, 30, paths)
    for step, path in paths.items():
        data = TremblDataModule(**options(two))
        data.load_state_dict(torch.load(path, weights_only=True)["TremblDataModule"])
        assert order(data, 30 - step) == seen[step:]


@LIGHTNING
def test_a_run_with_accumulated_gradients_resumes_at_the_right_batch(
    two: list[str], tiny_model, tmp_path: Path
) -> None:
    expected = order(TremblDataModule(**options(two)), 15)
    first = fit(TremblDataModule(**options(two)), tiny_model, 4, {2: tmp_path / "c"}, accumulate_grad_batches=3)
    assert first == expected[:12]
    again = fit(TremblDataModule(**options(two)), tiny_model, 5, {}, tmp_path / "c", accumulate_grad_batches=3)
    assert again == expected[6:15]


@LIGHTNING
def test_a_run_may_have_lightnings_epochs(two: list[str], tiny_model: Performer, tmp_path: Path) -> None:
    """With trainer.limit_train_batches, Lightning iterates the loader repeatedly."""
    data = TremblDataModule(**options(two))
    seen = fit(data, tiny_model, 15, {13: tmp_path / "c"}, limit_train_batches=5)
    assert seen == order(TremblDataModule(**options(two)), 15)
    again = fit(TremblDataModule(**options(two)), tiny_model, 17, {}, tmp_path / "c", limit_train_batches=5)
    assert again == order(TremblDataModule(**options(two)), 17)[13:]


def state(data: TremblDataModule, consumed: int = 3) -> dict[str, Any]:
    """The state that a run stores, as read from a checkpoint."""
    loader = iter(data.train_dataloader())
    for _ in range(consumed + 1):
        next(loader)
    return pickle.loads(pickle.dumps({**data.state_dict(), "place": data._sampler.position(consumed)}))


@KINDS
def test_a_different_order_of_batches_is_refused_with_one_message(kind, two: list[str], tmp_path: Path) -> None:
    whole = options(two, weights=[1, 1])
    stored = state(kind(**whole))
    kind(**whole).load_state_dict(stored)
    kind(**{**whole, "workers": 2, "valid": 0.3}).load_state_dict(stored)  # irrelevant here
    del stored["order"]["min_cluster_size"]  # as in older checkpoints
    kind(**whole).load_state_dict(stored)
    for changes, expected in (
        ({"seed": 4}, "data.seed 3 is now 4"),
        ({"token_budget": 400}, "data.token_budget 500 is now 400"),
        ({"max_length": 40}, "data.max_length 50 is now 40"),
        ({"weights": [1, 2]}, r"data.weights \[1, 1\] is now \[1, 2\]"),
        ({"weights": None}, "data.weights .* is now None"),
        ({"sample_by": "cluster"}, "data.sample_by protein is now cluster"),
        ({"min_cluster_size": 2}, "data.min_cluster_size 1 is now 2"),
        ({"corpus": two[:1], "weights": [1]}, ".*data.corpus .* is now"),
        ({"corpus": two[::-1]}, "data.corpus .* is now"),
        ({"seed": 4, "token_budget": 400}, "data.seed 3 is now 4, data.token_budget 500 is now 400"),
    ):
        with pytest.raises(
            UserError, match=f"position in the data.*: {expected}.*; resume with the same options"
        ) as said:
            kind(**{**whole, **changes}).load_state_dict(stored)
        assert "\n" not in str(said.value)


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.2), (0.2, 0.1), (0, 0)])
def test_a_corpus_with_other_splits_of_the_same_proteins_is_refused(valid: float, test: float, tmp_path: Path) -> None:
    """Its training split has other proteins, or the same in a different order."""
    stored = state(TremblDataModule(**options(str(prepared(tmp_path / "c.h5", 100)))))
    other = str(prepared(tmp_path / "c.h5", 100, SplitRule(valid, test)))
    with pytest.raises(UserError, match=r"position in the data.*data\.corpus"):
        TremblDataModule(**options(other)).load_state_dict(stored)


def test_a_corpus_with_the_same_splits_in_another_order_is_refused(tmp_path: Path) -> None:
    """With a table of clusters, each split is stored cluster by cluster."""
    path, table = tmp_path / "c.h5", tmp_path / "c.tsv"
    data = TremblDataModule(**options(str(prepared(path, 100))))
    stored, expected = state(data), order(data, 4)
    table.write_text("".join(f"c{i % 7}\tc{i}\n" for i in range(100)))
    prepared(path, 100, SplitRule(0.1, 0.1, table, whole_clusters=False))
    other = TremblDataModule(**options(str(path)))
    assert other.corpora.count("train") == data.corpora.count("train")
    assert order(other, 4) != expected
    with pytest.raises(UserError, match=r"position in the data.*data\.corpus"):
        other.load_state_dict(stored)


def test_a_corpus_of_other_proteins_of_the_same_lengths_is_refused(tmp_path: Path) -> None:
    stored = None
    for letters in ("ACDEF", "GHIKL"):
        fasta = tmp_path / f"{letters}.fasta"
        fasta.write_text("".join(f">{letters}{i}\n{letters * (i + 1)}\n" for i in range(20)))
        prepare_corpus([fasta], tmp_path / f"{letters}.h5", SplitRule(0, 0))
        data = TremblDataModule(**options(str(tmp_path / f"{letters}.h5")))
        if stored is None:
            stored = state(data)
            continue
        with pytest.raises(UserError, match=r"position in the data.*data\.corpus"):
            data.load_state_dict(stored)


def test_a_corpus_may_be_moved(two: list[str], tmp_path: Path) -> None:
    stored = state(TremblDataModule(**options(two[0])))
    moved = tmp_path / "moved.h5"
    moved.write_bytes(Path(two[0]).read_bytes())
    data = TremblDataModule(**options([str(moved)]))
    data.load_state_dict(stored)
    assert order(data, 5) == order(TremblDataModule(**options(two[0])), 8, 3)


def test_a_position_of_an_earlier_version_is_refused(two: list[str]) -> None:
    with pytest.raises(UserError, match="position in the data"):
        TremblDataModule(**options(two)).load_state_dict({"start": [0, 3]})


RANK = """
import json, sys
from pathlib import Path
import pytest, torch
sys.path.insert(0, {folder!r})
from test_datamodule import TremblDataModule, Recorder, SaveAt, options, pl, batching
from protlm.performer import Performer, PerformerConfig
import warnings; warnings.simplefilter("ignore")
import logging; logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
batching.POOL = 4


class Witness(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, task):
        Path(self.folder, str(trainer.global_rank) + ".json").write_text(json.dumps(task.seen))


sizes = dict(layers=1, heads=1, width=8, feed_forward=8, num_features=4, max_length=50)
for corpora, first, last, save, start, out in json.loads(sys.argv[1]):
    torch.manual_seed(0)
    task = Recorder(Performer(PerformerConfig(33, 1, **sizes)))
    data = TremblDataModule(**options(corpora, weights=[0.7, 0.3], workers=2))
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", max_steps=last, max_epochs=-1, logger=False,
        callbacks=[SaveAt({{first: Path(save)}}), Witness(out)], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, limit_val_batches=0)
    trainer.fit(task, data, ckpt_path=start, weights_only=True)
"""


@LIGHTNING
@pytest.mark.slow
def test_two_ranks_share_the_batches_and_resume_exactly(
    two: list[str], tiny_model: Performer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with a different number of ranks."""
    monkeypatch.setattr(batching, "POOL", 4)
    (tmp_path / "rank.py").write_text(RANK.format(folder=str(Path(__file__).parent)))
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}

    stages = []
    for name, first, last, start in (("one", 6, 8, None), ("two", 15, 16, str(tmp_path / "one" / "c.ckpt"))):
        (tmp_path / name).mkdir()
        stages.append([two, first, last, str(tmp_path / name / "c.ckpt"), start, str(tmp_path / name)])
    command = [sys.executable, str(tmp_path / "rank.py"), json.dumps(stages)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr

    def seen(name: str) -> list[list[Inputs]]:
        return [json.loads((tmp_path / name / f"{rank}.json").read_text()) for rank in range(2)]

    def dealt(batches: list[Inputs], first: int, last: int) -> list[list[Inputs]]:
        return [batches[2 * first + rank : 2 * last : 2] for rank in range(2)]

    expected = order(TremblDataModule(**options(two, weights=[0.7, 0.3])), 40)
    assert seen("one") == dealt(expected, 0, 8)
    assert seen("two") == dealt(expected, 6, 16)
    alone = TremblDataModule(**options(two, weights=[0.7, 0.3]))
    alone.load_state_dict(torch.load(tmp_path / "two" / "c.ckpt", weights_only=True)["TremblDataModule"])
    assert order(alone, 10) == expected[30:40]


@pytest.mark.parametrize(
    "expected", [{"test": 0.5}, {"valid": 0.2}, {"held_out": "ids.txt"}, {"clusters": "ids.txt", "split_by": "cluster"}]
)
def test_a_corpus_split_with_other_options_is_refused(
    expected: dict, two: list[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.txt").write_text("a\ta\n")
    with pytest.raises(UserError, match=f"prepared with other .*data.{next(iter(expected))}"):
        TremblDataModule(**{**options(two), **expected}).prepare_data()


def test_a_corpus_split_with_the_same_options_is_accepted(tmp_path: Path, sample: Path) -> None:
    tables = {"clusters": str(sample.with_name("families.clusters.tsv")), "split_by": "cluster", "test": 0.2}
    expected = {
        "corpus": str(tmp_path / "c.h5"),
        "fasta": str(sample),
        "held_out": str(sample.with_name("families.ood.txt")),
    }
    for _ in range(2):
        TremblDataModule(**expected, **tables).prepare_data()
