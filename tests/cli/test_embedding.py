import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from protlm.checkpoint import load
from protlm.embedding import survey
from protlm.embedding.proteome import embed_fasta
from tests.command import Outcome, assert_refused

OUTPUT = ("--device", "cpu", "-o", "out.h5")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Path) -> None:
    """Commands run in the test's folder, where "model" is a model."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fasta(write_fasta) -> str:
    chance = np.random.default_rng(0)
    write_fasta((f"p{i}", "".join(chance.choice(list("ACDEFGHIKL"), 30))) for i in range(300))
    return "proteins.fasta"


def values(path: str | Path) -> dict[str, bytes]:
    with h5py.File(path) as file:
        return {name: dataset[:].tobytes() for name, dataset in file.items()}


def test_embed_reports_counts_and_changes(protlm, write_fasta, tmp_path: Path) -> None:
    write_fasta([("sp|P1|A_B", "MKTAYIAKQR"), ("b/c", "mkT-LLI*"), ("d", "GAVLIMCFYW" * 30), ("d", "MKTAYIAKQR")])
    command = ("embed", "proteins.fasta", "--model", "model", *OUTPUT, "--duplicates", "suffix")
    first = protlm(*command, "--per-residue", "rows.h5")
    assert (first.code, first.out) == (0, "")
    lines = first.err.splitlines()
    warning, *lines = lines
    assert warning.startswith("warning: a protein is longer than the 256 positions that this model has learned")
    assert lines[0].startswith("out.h5, rows.h5: 4 proteins, 326 residues, width 16; ")
    assert re.search(r"; \d+\.\d s, of which \d+\.\d s in the model, [\d,]+ residues/s$", lines[0])
    assert lines[1].startswith("1 protein: identical to an earlier sequence")
    assert lines[2].startswith("2 identifiers: stored under another name")
    assert "1 record: lower case made upper case (2 residues)" in lines
    assert "1 protein: longer than the positions that the model has learned" in lines
    assert list(values("out.h5")) == list(values("rows.h5")) == ["P1", "b_c", "d", "d_2"]
    again = protlm(*command)
    assert (again.code, again.err) == (0, "out.h5: already complete; nothing was done\n")


def test_shards_and_merge(protlm, fasta: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("embed", fasta, "--model", "model", "--device", "cpu", "--layout", "packed", "--pool", "max")
    for part in (1, 2):
        assert protlm(*command, "-o", f"{part}.h5", "--shard", f"{part}/2").code == 0
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    refused = protlm(*command, "-o", "2.h5", "--shard", "auto")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    alone = protlm(*command, "-o", "2.h5", "--shard", "auto").err
    assert alone.endswith("LSB_JOBINDEX is set; expected i/n, such as 1/8\n")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert_refused(refused, "--shard auto: SLURM does not say how many tasks", "such as --shard auto/100")
    again = protlm(*command, "-o", "2.h5", "--shard", "auto/2")
    assert again.err == "shard 2/2 (SLURM task 2)\n2.h5: already complete; nothing was done\n"
    merged = protlm("merge", "2.h5", "1.h5", "-o", "out.h5")
    assert (merged.code, merged.err) == (0, "out.h5: 300 proteins, 9,000 residues from 2 shards\n")
    assert "already complete" in protlm(*command, "-o", "out.h5").err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("embed FASTA --model model", "no output"),
        ("embed FASTA --model model -o out.h5 --layers 9", "layer 9: expected 0"),
        ("embed FASTA --model model -o out.h5 --layers last", "--layers 'last'"),
        ("embed FASTA --model model -o out.h5 --pool sum", "--pool 'sum'"),
        ("embed FASTA --model model -o out.h5 --pool max --pool max", "each once"),
        ("embed FASTA --model model --per-residue out.h5 --pool max", "--pool requires --output"),
        ("embed FASTA --model model -o out.h5 --layout zip", "--layout 'zip': expected one of uniprot"),
        ("embed FASTA --model model -o out.h5 --format xlsx", "--format 'xlsx': expected one of h5"),
        ("embed FASTA --model model -o out.csv --format csv --layout packed", "--layout packed does not apply"),
        ("embed FASTA --model model -o out.npz --layout packed", "the output is an HDF5 file"),
        (
            "embed FASTA --model model -o out.txt",
            "expected a file name that ends in .h5, .hdf5, .npz, .csv or .parquet",
        ),
        ("embed FASTA --model model -o out.csv --format npz", "the output is an npz file"),
        ("embed FASTA FASTA --model model -o out.h5", "is given twice"),
        ("embed FASTA - --model model -o out.h5", "standard input cannot be combined"),
        ("embed FASTA absent.fasta --model model -o out.h5", "absent.fasta: no such file"),
        ("embed FASTA --model model -o out.h5 --dtype float8", "--dtype 'float8'"),
        ("embed FASTA --model model -o out.h5 --precision float8", "--precision 'float8'"),
        ("embed FASTA --model model -o out.h5 --id name", "--id 'name'"),
        ("embed FASTA --model model -o out.h5 --duplicates last", "--duplicates 'last'"),
        ("embed FASTA --model model -o out.h5 --shard 3/2", "--shard 3/2"),
        ("embed FASTA --model model -o out.h5 --shard half", "--shard 'half'"),
        ("embed FASTA --model model -o proteins.fasta --overwrite", "the output is a file of embeddings"),
        ("embed FASTA --model model -o proteins.fasta --format h5 --overwrite", "the output is an HDF5 file"),
        ("embed FASTA --model model -o model --layout esm-pt", "is an input or another output"),
        ("embed FASTA --model model -o model --overwrite", "--output model: is a folder"),
        ("embed FASTA --model model --per-residue model/config.json", "the output is a file of embeddings"),
        ("embed FASTA --model model -o absent/out.h5", "there is no folder absent"),
        ("embed absent.fasta --model model -o out.h5", "absent.fasta: no such file"),
        ("merge absent.h5 -o out.h5", "absent.h5: no such file"),
        ("merge FASTA -o out.h5", "not embeddings or predictions of protlm"),
        ("merge -o out.h5", "Missing argument"),
    ],
)
def test_wrong_arguments(protlm, fasta: str, tmp_path: Path, monkeypatch, arguments: str, words: str) -> None:
    names = sorted(tmp_path.rglob("*"))
    if any(word in words for word in ("no output", "expected a name", "given twice", "combined", "no such file")):
        monkeypatch.setattr("protlm.model_api.load", None)  # needs no model
    assert_refused(protlm(*(fasta if word == "FASTA" else word for word in arguments.split())), words)
    assert sorted(tmp_path.rglob("*")) == names


def test_only_files_are_replaced(protlm, fasta: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("precious")
    command = ("embed", fasta, "--model", "model", "--device", "cpu", "-o")
    for more in ((), ("--overwrite",)):
        assert_refused(protlm(*command, "pipe.h5", *more), "pipe.h5: is neither a file nor a folder")
        refused = protlm(*command, "notes", "--layout", "esm-pt", *more)
        assert_refused(refused, "a folder that protlm has not written; choose another one")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "precious"


def test_standard_input_is_like_a_file_and_is_resumed(
    protlm, fasta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert protlm("embed", fasta, "--model", "model", "--device", "cpu", "-o", "whole.h5").code == 0
    monkeypatch.setattr(survey, "WINDOW_TOKENS", 1_000)
    (tmp_path / "other.fasta").write_text(">a\nM\n")

    @contextmanager
    def standard_input(name: str) -> Iterator[None]:
        with (tmp_path / name).open() as file, monkeypatch.context() as patched:
            patched.setattr("sys.stdin", file)
            yield

    calls = iter([False] * 30 + [True])

    def stop(done: int, total: int) -> None:
        if next(calls):
            raise KeyboardInterrupt

    with standard_input(fasta), pytest.raises(KeyboardInterrupt, match="computed results are kept"):
        embed_fasta(load("model"), "-", "out.h5", progress=stop, token_budget=300)
    with standard_input(fasta):
        assert embed_fasta(load("model"), "-", "out.h5").resumed > 0
    assert list(values("out.h5")) == list(values("whole.h5"))
    assert not list(tmp_path.glob(".*"))
    embedded = ("embed", "-", "--model", "model", *OUTPUT)
    with standard_input(fasta):
        same = protlm(*embedded)
    assert (same.code, same.err) == (0, "out.h5: already complete; nothing was done\n")
    with standard_input("other.fasta"):
        assert_refused(protlm(*embedded), "source: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "stopped; computed results are kept"),
        (signal.SIGTERM, 143, "terminated; computed results are kept"),
    ],
)
def test_a_run_stopped_by_a_signal_is_resumed_by_the_same_command(
    protlm, write_fasta, tmp_path: Path, number: signal.Signals, code: int, message: str
) -> None:
    # several windows, and large enough that the run has not ended when the signal comes
    write_fasta((f"p{i}", "MKTAYIAKQRQISFVKSHFSRQ" * (40 + i % 9) + "ACDEFGHIKL"[: i % 10]) for i in range(3_000))
    script = (
        "import signal, protlm.cli, protlm.embedding.survey as survey; survey.WINDOW_TOKENS = 1 << 15; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); protlm.cli.main()"
    )
    command = [sys.executable, "-c", script, "embed", "proteins.fasta", "--model", "model", *OUTPUT]
    windows = tmp_path / ".out.h5.partial" / "windows"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not windows.exists() or not any(windows.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == code
    warning, line = err.splitlines()
    assert warning.startswith("warning: a protein is longer than the 256 positions")
    assert line.startswith(message)
    assert any(windows.iterdir())
    assert not (tmp_path / "out.h5").exists()
    done = protlm("embed", "proteins.fasta", "--model", "model", *OUTPUT)
    assert done.code == 0
    assert len(values("out.h5")) == 3_000
    assert not list(tmp_path.glob(".*"))


LIMITED = (
    "import resource, sys\nlimit = int(sys.argv.pop(1))\n"
    "from protlm.cli import main\nresource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\nmain()"
)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.97])
def test_a_full_disk_is_reported_in_one_line_and_leaves_no_partial_file(
    protlm, fasta: str, tmp_path: Path, share: float
) -> None:
    command = ("embed", fasta, "--model", "model", "--device", "cpu", "--per-residue", "out.h5")
    assert protlm(*command).code == 0
    whole, limit = values("out.h5"), int(share * (tmp_path / "out.h5").stat().st_size)
    (tmp_path / "out.h5").unlink()
    done = subprocess.run([sys.executable, "-c", LIMITED, str(limit), *command], capture_output=True, text=True)
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), "out.h5: cannot be written")
    assert not (tmp_path / "out.h5").exists()
    assert protlm(*command).code == 0
    assert values("out.h5") == whole
    assert not list(tmp_path.glob(".*"))


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            *["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "protlm"],
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.slow
def test_two_ranks_write_one_file(protlm, write_fasta, tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    write_fasta((f"p{i}", "".join(chance.choice(list("ACDEFGHIKL"), 400))) for i in range(700))
    command = ("embed", "proteins.fasta", "--model", "model", "--device", "cpu")
    for part in "12":
        assert protlm(*command, "-o", f"{part}.h5", "--shard", f"{part}/2").code == 0
    assert protlm("merge", "1.h5", "2.h5", "-o", "merged.h5").code == 0
    done = torchrun(*command, *OUTPUT)
    assert done.returncode == 0
    assert done.stderr.count("700 proteins, 280,000 residues") == 1
    said = re.search(r" of which ([\d.]+) s in the model, ([\d,]+) residues/s", done.stderr)
    assert said is not None
    seconds, rate = float(said[1]), int(said[2].replace(",", ""))
    assert abs(seconds * rate - 280_000) <= 0.05 * rate + 0.5 * seconds + 1  # both are rounded when printed
    assert values("out.h5") == values("merged.h5")
    assert not list(tmp_path.glob(".*"))
    again = torchrun(*command, *OUTPUT)
    assert (again.returncode, again.stderr.count("already complete")) == (0, 1)
    refused = torchrun(*command, *OUTPUT, "--pool", "max")
    assert refused.returncode != 0
    assert refused.stderr.count("error: ") == 1
    assert "pool: mean instead of max" in refused.stderr
