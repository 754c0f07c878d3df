"""Second tasks: what they teach, of which proteins, and that the model they train is an ordinary one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import second_tasks
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SplitRule
from protlm.errors import UserError
from protlm.model_api import load
from protlm.performer import Performer
from protlm.training.datamodule import TremblDataModule
from tests.supervised.proteins import proteins
from tests.tiny import FAST, run_training

SIZE = 5  # proteins of each cluster


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with proteins.fasta, whose GO terms follow from composition, corpus.h5 and, to leave out, p0 and p5."""
    sequences, labels = proteins(80)
    terms = {"basic": "M=0000001,0000002", "acidic": "B=0000003"}
    records = list(zip(sequences, labels, strict=True))
    fasta, clusters = tmp_path / "proteins.fasta", tmp_path / "clusters.tsv"
    fasta.write_text("".join(f">p{i} {terms[label]}\n{one}\n" for i, (one, label) in enumerate(records)))
    clusters.write_text("".join(f"p{i // SIZE * SIZE}\tp{i}\n" for i in range(len(records))))
    prepare_corpus([fasta], tmp_path / "corpus.h5", SplitRule(valid=0.1, test=0.1, clusters=clusters))
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "tested.fasta").write_text(f">p0\nMA\n>other\n{sequences[SIZE]}\n")
    return tmp_path


def train(data: Path, task: str, *options: str) -> Path:
    """The checkpoint of a run of five steps."""
    given = [f"task._target_=benchmarks.second_tasks.{task}", f"data.corpus={data / 'corpus.h5'}", *options]
    run = data / task
    run_training(
        *FAST, "trainer.max_steps=5", "schedule=constant", "data.sample_by=cluster", *given, f"hydra.run.dir={run}"
    )
    return run / "checkpoints" / "last.ckpt"


def module(corpus: Path) -> TremblDataModule:
    return TremblDataModule(str(corpus), max_length=64, token_budget=256, sample_by="cluster", seed=3)


class Attached:
    """A task with data, as in a run, without a trainer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, task: second_tasks.SecondTask, corpus: Path) -> None:
        self.task, self.data = task, module(corpus)
        monkeypatch.setattr(task, "_data", lambda: self.data)
        monkeypatch.setattr(type(task), "global_step", 0, raising=False)
        task.setup("test")

    def batches(self) -> Any:
        found = self.data._training_batches()
        return [found[key] for key in found.plan(0)]


@pytest.mark.parametrize("task", ["WithTerms", "WithPairs", "WithTeacher"])
def test_the_model_is_an_ordinary_one(task: str, data: Path, model_folder: Path) -> None:
    options = {
        "WithTerms": [
            f"+task.proteins={data / 'proteins.fasta'}",
            f"+task.without={data / 'without'}",
            "+task.least=5",
        ],
        "WithPairs": [],
        "WithTeacher": [f"+task.teacher={model_folder}"],
    }
    assert load(train(data, task, *options[task])).embed("MKTAYIAKQR").shape[-1] == 16


def test_terms_are_learned_except_those_of_clusters_left_out(
    data: Path, tiny_model: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"proteins": str(data / "proteins.fasta"), "without": str(data / "without"), "least": 5, "weight": 1.0}
    task = second_tasks.WithTerms(tiny_model, torch.optim.Adam, **given)
    here = Attached(monkeypatch, task, data / "corpus.h5")
    ids = Corpus(data / "corpus.h5").ids()
    left_out = range(2 * SIZE)  # the clusters of p0, which is named, and of p5, whose sequence has another name
    assert {ids[i] for i in task._of_protein} == set(ids) - {f"p{i}" for i in left_out}
    optimizer = torch.optim.Adam(task.trained.parameters(), 0.01)
    losses = []
    for _ in range(60):
        for batch in here.batches():
            loss = task.second(batch, tiny_model.hidden(batch.inputs), torch.empty(0))
            if loss.requires_grad:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    print(losses)
    assert sum(losses[-4:]) / 4 < 1.5 * math.log(2)  # half of what the shares of the three terms alone give


def test_without_go_terms_the_headers_are_shown(tiny_model: Performer, tmp_path: Path) -> None:
    (tmp_path / "plain.fasta").write_text(">a\nMK\n")
    with pytest.raises(UserError, match="no GO term, such as M=0003824"):
        second_tasks.WithTerms(
            tiny_model, torch.optim.Adam, proteins=str(tmp_path / "plain.fasta"), without=str(tmp_path)
        )


def test_partners_are_members_of_the_same_cluster(
    data: Path, tiny_model: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = second_tasks.WithPairs(tiny_model, torch.optim.Adam)
    here = Attached(monkeypatch, task, data / "corpus.h5")
    clusters, batches, seen = Corpus(data / "corpus.h5").clusters, here.batches(), []
    asked = task._partners.__getitem__
    monkeypatch.setattr(type(task._partners), "__getitem__", lambda _, key: seen.append(key) or asked(key))
    batches.append(batches[0]._replace(inputs=batches[0].inputs[:1], key=batches[0].key[:1]))
    for batch in batches:
        task.second(batch, tiny_model.hidden(batch.inputs), torch.empty(0))
        assert (clusters[batch.key[:, 1]] == clusters[seen[-1][:, 1]]).all()
    assert any((batch.key[:, 1] != other[:, 1]).any() for batch, other in zip(batches, seen, strict=True))
    assert len(task._before) == sum(map(len, seen))


def test_a_student_equal_to_its_teacher_has_no_divergence(
    data: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load(model_folder)
    task = second_tasks.WithTeacher(teacher, torch.optim.Adam, teacher=str(model_folder))
    batch = Attached(monkeypatch, task, data / "corpus.h5").batches()[0]
    logits = teacher(batch.inputs, batch.key_mask)
    assert task.second(batch, logits, logits).item() == pytest.approx(0, abs=1e-6)
    assert task.second(batch, logits, logits + torch.arange(logits.shape[-1])).item() > 0.1


def test_the_loss_is_that_of_masked_residues_and_the_second(
    data: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(model_folder)
    task = second_tasks.WithPairs(model, torch.optim.Adam, weight=0.5)
    batch = Attached(monkeypatch, task, data / "corpus.h5").batches()[0]
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    hidden = model.hidden(batch.inputs, batch.key_mask)
    masked = model.loss(model(batch.inputs, batch.key_mask), batch.targets)
    second = task.second(batch, hidden, torch.empty(0))
    task._before = task._before[:0]
    assert task.loss_of(batch).item() == pytest.approx((masked + second).item(), rel=1e-5)
    task._before, task._weight = task._before[:0], 0.0
    assert second > task.second(batch, hidden, torch.empty(0)) > 0  # pairs are compared, partners' residues predicted


def test_pairs_are_compared_row_by_row_and_with_earlier_proteins() -> None:
    rows, none = torch.eye(3), torch.zeros(0, 3)
    right = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert second_tasks.contrast(rows, rows, none, 0.5).item() == pytest.approx(right, rel=1e-5)
    assert second_tasks.contrast(rows, rows.roll(1, 0), none, 0.5).item() == pytest.approx(right + 2, rel=1e-5)
    more = -math.log(math.exp(2) / (2 * math.exp(2) + 2))  # one that equals the first protein
    found = second_tasks.contrast(rows[:1], rows[:1], rows, 0.5).item()
    assert found == pytest.approx(more, rel=1e-5)


def test_means_are_over_residues(data: Path, tiny_model: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Attached(monkeypatch, second_tasks.WithPairs(tiny_model, torch.optim.Adam), data / "corpus.h5").task
    inputs = torch.tensor([[0, 5, 32, 2], [0, 7, 2, 1]])  # start, residues (one of them masked), end, padding
    hidden = torch.arange(8.0).view(2, 4, 1)
    assert task.pooled(hidden, inputs).flatten().tolist() == [1.5, 5.0]


def test_packed_batches_are_refused(data: Path, tiny_model: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    task = second_tasks.WithPairs(tiny_model, torch.optim.Adam)
    monkeypatch.setattr(TremblDataModule, "packed", True, raising=False)
    monkeypatch.setattr(TremblDataModule, "pack", lambda *_: None)
    with pytest.raises(UserError, match=r"data.packed=true: .* set it to false"):
        Attached(monkeypatch, task, data / "corpus.h5")
