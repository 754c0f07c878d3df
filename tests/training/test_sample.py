"""The sample of the demo is not mixed with data of the user's."""

from pathlib import Path

import pytest
import yaml

from tests.tiny import FAST, run_training

RUN = ["+experiment=demo", *FAST, "data.token_budget=900", "trainer.max_steps=1", "hydra.run.dir=run"]


def test_the_demo_trains_on_another_corpus(monkeypatch, tmp_path: Path, corpus_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run_training(*RUN, f"data.corpus={corpus_path}")
    data = yaml.safe_load(Path("run/config.yaml").read_text())["data"]
    assert [data[name] for name in ("corpus", "fasta", "clusters", "held_out")] == [str(corpus_path), None, None, None]


def test_the_demo_trains_on_another_fasta(monkeypatch, tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta((f"p{i}", "MKTAYIAKQRGAVLIMCFYW"[i % 7 :] * (i % 5 + 2)) for i in range(60))
    monkeypatch.chdir(tmp_path)
    run_training(*RUN, f"data.fasta={fasta}")
    data = yaml.safe_load(Path("run/config.yaml").read_text())["data"]
    assert [data[name] for name in ("fasta", "clusters", "held_out")] == [str(fasta), None, None]


def test_without_the_sample_its_place_is_named(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_training(*RUN)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no such file; the demo's sample is in a checkout" in line
