import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from protlm.errors import UserError
from protlm.inference.embed import embed, embed_fasta
from protlm.performer import Performer
from protlm.sequence.alphabet import encode, with_ends

# shorter, as long as, and longer than the positions of the tiny model
SEQUENCES = ["MKT", "M", "GAVLIMCFYWHKRQNEDSTPXBZUO" * 5, "MKTAYIAKQRQISFVKSHFSRQ", "W" * 62, "MKT"]
BUDGETS = pytest.mark.parametrize("token_budget", [1, 64, 150, 100_000])


def written(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: dataset[:] for name, dataset in file.items()}


@BUDGETS
def test_batches_and_order_change_nothing(tiny_model: Performer, token_budget: int) -> None:
    for order in (list(range(6)), [5, 2, 0, 4, 1, 3]):
        together = list(embed(tiny_model, [SEQUENCES[i] for i in order], token_budget))
        for i, rows in zip(order, together, strict=True):
            (alone,) = embed(tiny_model, [SEQUENCES[i]])
            assert rows.dtype == np.float32
            assert rows.shape == (len(SEQUENCES[i]), 16)
            np.testing.assert_allclose(rows, alone, atol=1e-5)


def test_rows_are_the_residues_of_the_last_norm(tiny_model: Performer) -> None:
    (rows,) = embed(tiny_model, ["MKTAYIAK"])
    with torch.inference_mode():
        hidden = tiny_model.hidden(torch.from_numpy(with_ends(encode("MKTAYIAK"))).long()[None])[0]
    np.testing.assert_allclose(rows, hidden[1:-1], atol=1e-6)
    assert np.abs(np.diff(rows, axis=0)).max() > 0.1  # and not all the same


def test_nothing_gives_nothing(tiny_model: Performer) -> None:
    assert list(embed(tiny_model, [])) == []


@BUDGETS
def test_the_files_hold_float16_by_accession_in_the_order_of_the_fasta(
    tiny_model: Performer, write_fasta, tmp_path: Path, token_budget: int
) -> None:
    names = ["sp|Q9|A_B", "b", "a/b", "zz", "P1", "c"]
    fasta = write_fasta(zip(names, SEQUENCES, strict=True))
    proteins, residues = tmp_path / "proteins.h5", tmp_path / "residues.h5"
    summary = embed_fasta(tiny_model, fasta, proteins, residues, token_budget)
    means, rows = written(proteins), written(residues)
    assert list(means) == list(rows) == ["Q9", "b", "a_b", "zz", "P1", "c"]
    for name, sequence in zip(means, SEQUENCES, strict=True):
        assert means[name].dtype == rows[name].dtype == np.float16
        assert rows[name].shape == (len(sequence), 16)
        np.testing.assert_allclose(means[name], rows[name].astype(float).mean(0), atol=2e-3)
        (expected,) = embed(tiny_model, [sequence])
        np.testing.assert_allclose(rows[name], expected, atol=2e-3)
        np.testing.assert_allclose(means[name], expected.mean(0), atol=2e-3)
    assert (summary.proteins, summary.residues) == (6, sum(map(len, SEQUENCES)))
    assert (summary.renamed, summary.beyond_positions) == (1, 1)


def test_windows_change_nothing(tiny_model: Performer, write_fasta, tmp_path: Path, monkeypatch) -> None:
    fasta = write_fasta((f"p{i}", sequence) for i, sequence in enumerate(SEQUENCES))
    steps = []
    embed_fasta(tiny_model, fasta, tmp_path / "whole.h5")
    monkeypatch.setattr("protlm.inference.embed._WINDOW", 2)
    embed_fasta(tiny_model, fasta, tmp_path / "windows.h5", progress=lambda done, total: steps.append((done, total)))
    assert len(steps) == 3
    assert steps[-1] == (fasta.stat().st_size,) * 2
    whole, windows = written(tmp_path / "whole.h5"), written(tmp_path / "windows.h5")
    assert list(whole) == list(windows)
    for name, mean in whole.items():
        np.testing.assert_allclose(mean, windows[name], atol=2e-3)


def test_what_was_changed_in_the_fasta_is_reported(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("a", "MkT*"), ("none", ""), ("b", "MK")])
    summary = embed_fasta(tiny_model, fasta, tmp_path / "out.h5")
    assert list(written(tmp_path / "out.h5")) == ["a", "b"]
    assert summary.tally.to_dict() == {
        "lower case made upper case": {"records": 1, "residues": 1},
        "final stop removed": {"records": 1, "residues": 1},
        "left out, no sequence": {"records": 1, "residues": 0},
    }


def test_the_file_can_be_read_by_others_as_any_new_file(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    embed_fasta(tiny_model, write_fasta([("a", "MKT")]), tmp_path / "out.h5")
    (tmp_path / "any").touch()
    assert (tmp_path / "out.h5").stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize(
    ("records", "match"),
    [
        ([("a", "MKT"), ("sp|b|X_Y", "MK"), ("c", "M"), ("b", "MKV")], "'b' stands twice, in proteins 2 and 4"),
        ([("a/b", "MKT"), ("a_b", "MK")], "'a_b' stands twice, in proteins 1 and 2"),
        ([("a", "MKT"), (".", "MK")], "cannot name a dataset"),
        ([("a", "MKT"), ("b", "M1")], r"record 2 \(b\), line 4"),
        ([("a", "ACGT" * 20)], "nucleotides"),
        ([("a", "*")], "no record has a sequence"),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_a_failure_changes_nothing(
    tiny_model: Performer, write_fasta, tmp_path: Path, records, match: str, exists: bool
) -> None:
    outputs = [tmp_path / "proteins.h5", tmp_path / "residues.h5"]
    fasta = write_fasta(records)
    if exists:
        for path in outputs:
            path.write_text("precious")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=match):
        embed_fasta(tiny_model, fasta, *outputs, token_budget=8)
    assert sorted(tmp_path.iterdir()) == before
    assert [path.read_text() for path in outputs if exists] == ["precious"] * 2 * exists


def test_outputs_that_cannot_be_written_are_refused(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("a", "MKT")])
    text = fasta.read_text()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(fasta)
    before = sorted(tmp_path.iterdir())
    good = tmp_path / "good.h5"
    for outputs in (
        (tmp_path / "absent" / "out.h5", None),
        (tmp_path / "folder", None),
        (fasta, None),
        (tmp_path / "link", None),
        (good, tmp_path / "absent" / "out.h5"),
        (good, tmp_path / "folder"),
        (good, good),
        (good, tmp_path / "folder" / ".." / "good.h5"),
    ):
        with pytest.raises(UserError):
            embed_fasta(tiny_model, fasta, *outputs)
        assert sorted(tmp_path.iterdir()) == before
    assert fasta.read_text() == text


def test_killed_while_embedding_nothing_has_the_final_name(model_folder: Path, write_fasta, tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom protlm import load\nfrom protlm.inference.embed import embed_fasta\n"
        "stop = lambda *_: (print('begun', flush=True), time.sleep(99))\n"
        "embed_fasta(load(sys.argv[1]), *sys.argv[2:], progress=stop)"
    )
    fasta, existing, new = write_fasta([("a", "MKT")]), tmp_path / "proteins.h5", tmp_path / "residues.h5"
    existing.write_text("precious")
    command = [sys.executable, "-c", script, *map(str, (model_folder, fasta, existing, new))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGKILL)
    assert existing.read_text() == "precious"
    assert not new.exists()
