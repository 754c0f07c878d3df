from itertools import islice
from pathlib import Path

import pytest

from protlm.errors import UserError
from protlm.training.datamodule import ConcatenatedTremblDataModule, TremblDataModule


@pytest.mark.parametrize("kind", [TremblDataModule, ConcatenatedTremblDataModule])
def test_training_has_no_end_and_evaluation_masks_only_with_mask(kind, corpus_path: Path) -> None:
    data = kind(corpus=str(corpus_path), max_length=128, token_budget=20_000)
    data.prepare_data()
    epoch = len(data._batches("train", data.question).plan(0))
    assert len(list(islice(data.train_dataloader(), epoch + 2))) == epoch + 2
    for loader in (*data.val_dataloader(), *data.test_dataloader()):
        for batch in loader:
            assert (batch.inputs[batch.scored] == 32).all()
            assert ((batch.targets != -100) == batch.scored).all()
    assert data.evaluated_splits() == ("test", "ood")


def test_a_missing_corpus_is_made_from_the_fasta_and_made_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fasta = tmp_path / "in.fasta"
    fasta.write_text("".join(f">p{i}\nMKT{'ACDEFGHIKL'[i] * 9}\n" for i in range(10)))
    first = TremblDataModule(fasta=str(fasta))
    first.prepare_data()
    assert len(first.corpus) == 10
    fasta.write_text(fasta.read_text() + ">more\nMKTAYIAK\n")
    second = TremblDataModule(fasta=str(fasta))
    second.prepare_data()
    assert len(second.corpus) == 11
    assert TremblDataModule(fasta=str(fasta), test=0.2).corpus_path != second.corpus_path
    with pytest.raises(UserError, match="was made from"):  # a corpus of another FASTA is not taken silently
        TremblDataModule(fasta=str(fasta), corpus=str(first.corpus_path)).prepare_data()


def test_what_is_missing_is_said_with_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.fasta"):
        TremblDataModule()
    with pytest.raises(UserError, match="protlm prepare"):
        TremblDataModule(corpus=str(tmp_path / "none.h5")).prepare_data()
    with pytest.raises(UserError, match="clusters"):
        TremblDataModule(corpus="x.h5", split_by="cluster")


def test_a_corpus_without_training_proteins_is_refused(tmp_path: Path) -> None:
    fasta = tmp_path / "one.fasta"
    fasta.write_text(">p\nMKTAYIAKQR\n")
    data = TremblDataModule(fasta=str(fasta), corpus=str(tmp_path / "one.h5"), test=0.999, valid=0)
    data.prepare_data()
    with pytest.raises(UserError, match="no protein in the train split"):
        data.train_dataloader()
    assert [len(list(loader)) for loader in data.val_dataloader()] == [0]
