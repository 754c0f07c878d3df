"""benchmarks/embed.py on small inputs: every part runs and measures what it claims to."""

import csv
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import embed as benchmark
from protlm.checkpoint import export
from protlm.sequence.alphabet import encode, with_ends

SIZES = ["--layers", "1", "--width", "64"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["embed", *map(str, arguments)])
    benchmark.main()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_process_is_measured() -> None:
    program = "import numpy, time; kept = numpy.ones(20 << 20, dtype=numpy.int8); time.sleep(0.2); print('done')"
    seconds, peak, output = benchmark.process(["-c", program])
    assert 0.2 < seconds < 60
    assert 20 << 20 < peak < 2 << 30
    assert output == "done\n"
    with pytest.raises(RuntimeError, match="exit code 3"):
        benchmark.process(["-c", "raise SystemExit(3)"])


@pytest.mark.slow  # imports transformers
def test_compare(protlm, monkeypatch: pytest.MonkeyPatch, write_fasta, tmp_path: Path) -> None:
    """The commands that `compare` starts run in this process, to save the time of nine imports of torch."""
    commands = []

    def in_process(command: Sequence[str | Path]) -> tuple[float, float, str]:
        _, module, *arguments = map(str, command)
        commands.append((module, *arguments[:2]))
        if module == "protlm":
            assert protlm(*arguments).code == 0
            return 2.0, 100 << 20, ""
        output = StringIO()
        with redirect_stdout(output):
            run(monkeypatch, *arguments)
        return 3.0, 200 << 20, output.getvalue()

    monkeypatch.setattr(benchmark, "process", in_process)
    short = write_fasta([("a", "MKT"), ("b", "MKTAYIAK"), ("c", "MK")], "short.fasta")
    long = write_fasta([("d", "MKTAYIAKQR" * 9), ("e", "MKTAYIAKQR")], "long.fasta")
    table = tmp_path / "table.csv"
    run(monkeypatch, "compare", short, long, "--proteins", 3, "--repeats", 1, *SIZES, "--csv", table)
    found = rows(table)
    assert [(row["set"], row["what"]) for row in found] == [
        (name, kind) for name in ("3 proteins", "the 2 of long.fasta", "d") for kind in benchmark.KINDS
    ]
    assert [int(row["residues"]) for row in found[::3]] == [13, 100, 90]
    assert {command[0] for command in commands[::3]} == {"protlm"}
    assert {command[1:] for command in commands if command[0] != "protlm"} == {
        ("forward", kind) for kind in benchmark.KINDS[1:]
    }
    assert all(float(row["seconds"]) == 2 and row["peak MiB"] == "100" for row in found[::3])
    assert all(row["peak MiB"] == "200" for row in found if row["what"] != "protlm embed")


def test_the_same_peptides_are_embedded_and_evaluated(protlm, monkeypatch, tmp_path: Path) -> None:
    commands = []

    def in_process(command: Sequence[str | Path]) -> tuple[float, float, str]:
        commands.append(str(command[2]))
        assert protlm(*command[2:], *(["--device", "cpu"] if command[2] != "prepare" else [])).code == 0
        return float(len(commands)), 1 << 20, ""

    monkeypatch.setattr(benchmark, "process", in_process)
    run(monkeypatch, "peptides", "--proteins", 40, *SIZES, "--csv", tmp_path / "table.csv")
    assert commands == ["prepare", "embed", "evaluate"]
    assert [(row["command"], row["peptides"], row["seconds"]) for row in rows(tmp_path / "table.csv")] == [
        ("embed", "40", "2.0"),
        ("evaluate", "40", "3.0"),
    ]


def test_invariance(monkeypatch, write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("a", "MKTAYIAKQR" * 3), ("b", "MKT"), ("c", "GAVLI" * 5)])
    run(monkeypatch, "invariance", fasta, "--proteins", 3, *SIZES, "--csv", tmp_path / "table.csv")
    differences = {row["precision"]: float(row["largest difference"]) for row in rows(tmp_path / "table.csv")}
    assert differences["float32"] < 1e-5
    assert set(differences) == {"float32", "bfloat16"}


@pytest.mark.parametrize("kind", benchmark.KINDS[1:])
def test_both_forwards_return_a_vector_for_each_token(tmp_path: Path, kind: str) -> None:
    export(benchmark.performer(1, 64), tmp_path / "model")
    forward = benchmark.forward_function(kind, tmp_path / "model", 1, 64)
    tokens = torch.from_numpy(np.stack([with_ends(encode("MKTAY")), with_ends(encode("GAVLI"))])).long()
    with torch.inference_mode():
        assert forward(tokens).shape == (2, 7, 64)
