"""Speed and memory against length: search for the largest length, turns, resuming, and one small run."""

import csv
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.models import Sizes, random_batch
from benchmarks.train_step import __main__ as train_step
from benchmarks.train_step import figure as lengths
from benchmarks.train_step.largest_length import largest_length
from benchmarks.train_step.memory import MemoryCase
from benchmarks.train_step.report import draw, tables
from benchmarks.train_step.steps import Steps, kind_of, take_turns, time_passes
from protlm.errors import UserError

TINY = ["--layers", "1", "--width", "16", "--heads", "2", "--feed-forward", "16", "--features", "8"]
SIZES = Sizes(1, 16, 2, 16, 8)


@pytest.mark.parametrize(
    ("peak", "memory"), [(lambda n: 1000 + 90 * n, 400_000), (lambda n: n * n + 40 * n, 5_000_000)]
)
def test_the_largest_length_is_found_in_few_steps(peak, memory: int) -> None:
    """Memory grows with the length or its square; steps beyond twice the memory fail."""
    ran: list[int] = []

    def run(length: int) -> int | None:
        ran.append(length)
        return peak(length) if peak(length) < 2 * memory else None

    found, how = largest_length({256: peak(256), 512: peak(512)}, memory, run, lambda _: True)
    assert how == "measured"
    assert found in ran
    assert peak(found) <= memory < peak(int(found * 1.04))
    assert len(ran) <= 6


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ({1000: 100, 2000: 200, 4000: 400}, (2976, "interpolated")),
        ({1000: 100, 2000: 200}, (2976, "extrapolated")),
        ({1000: 100, 1100: 101}, (1100, "at least")),
        ({1000: 400}, (0, "none")),
        ({1000: None}, (0, "none")),
    ],
)
def test_a_length_that_was_not_run_is_marked(peaks: dict[int, int | None], expected: tuple[int, str]) -> None:
    assert largest_length(peaks, 300, pytest.fail, lambda _: False) == expected


def test_functions_take_turns_within_the_budget() -> None:
    calls: list[str] = []
    slow, fast = (lambda s=s, n=n: calls.append(n) or [s, s, 2 * s] for s, n in ((1.0, "slow"), (0.1, "fast")))
    found = take_turns({"slow": slow, "fast": fast}, repeats=3, budget=9.0)
    assert calls == ["slow", "fast", "slow", "fast", "fast", "fast"]
    assert found["slow"] == {"forward_seconds": 1, "train_forward_seconds": 1, "backward_seconds": 2, "turns": 1}
    assert found["fast"]["turns"] == 3
    assert take_turns({"slow": slow}, 3, budget=1.0)["slow"]["turns"] == 1  # only the first


@pytest.mark.parametrize("causal", [False, True])
def test_attention_that_stores_its_matrix_is_exact_attention(causal: bool) -> None:
    batch = random_batch(1, 40)
    logits = [SIZES.build(kind, causal, 40).eval()(batch.inputs) for kind in ("exact", kind_of("matrix"))]
    torch.testing.assert_close(*logits)


def test_passes_leave_no_gradients() -> None:
    model = SIZES.build("relu", False, 32)
    assert all(time > 0 for time in time_passes(model, random_batch(1, 32)))
    assert all(weight.grad is None for weight in model.parameters())
    assert model.training
    assert model.draw_number == 0
    reformer = SIZES.build("reformer", True, 32)
    time_passes(reformer, random_batch(1, 32))
    assert reformer.draw_number == 1  # as in training, before each step


def test_all_kinds_with_a_causal_form_are_measured_causally() -> None:
    assert lengths.KINDS["causal"] == lengths.kinds_of("causal", lengths.KINDS["bidirectional"])


def test_the_time_of_a_step_is_extrapolated() -> None:
    steps = Steps("exact", "causal", SIZES, 2**30, limit=20.0)
    assert steps.affordable(10**9)  # nothing is known
    steps.seconds = {1000: 1.0, 2000: 4.0}
    assert steps.affordable(4000)
    assert not steps.affordable(5000)


def row(attention: str, length: int, **values: str) -> dict[str, str]:
    times = {"forward_seconds": "0.1", "train_forward_seconds": "0.2", "backward_seconds": "0.3", "peak_mib": "512.0"}
    known = {"direction": "causal", "length": str(length), "attention": attention, "outcome": "measured", "turns": "1"}
    known["features"] = "8"
    return known | times | values


def test_tables_mark_missing_measurements(tmp_path: Path) -> None:
    nothing = {"forward_seconds": "", "train_forward_seconds": "", "backward_seconds": "", "peak_mib": ""}
    rows = [row("exact", 64), row("gelu", 64), row("exact", 128, outcome="too long", **nothing)]
    rows.append(row("gelu", 128, outcome="out of memory", **nothing))
    key = {"direction": "causal", "memory_gib": "1", "peak_mib": "", "features": "8"}
    largest = [{**key, "attention": "exact", "length": "64", "how": "at least"}]
    largest.append({**key, "attention": "gelu", "length": "1234", "how": "interpolated"})
    table = tables(rows, largest)
    assert "| 64 | 100; 200 + 300 | 100; 200 + 300 |" in table
    named = tables([row("softmax", 64), row("reformer", 64)], [])
    assert "| L | Performer-softmax (positive, M=8) | Reformer, without reversible layers |" in named
    assert table.count("| 128 | too long | out of memory |") == 2
    assert "≥ 64" in table
    assert "~1,234" in table
    draw(rows, largest, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The program in this process, with training steps that use 1 MiB per token and take a moment."""
    ran: list[tuple[str, int]] = []

    def step(case: MemoryCase, sizes: Sizes, threads: int, limit: int):
        ran.append((case.direction, case.length))
        return (2**20 * case.length, 0.001) if 2**20 * case.length <= limit else None

    def run_here(self: Steps, length: int) -> int | None:
        found = step(MemoryCase("", self.direction, False, length), SIZES, 1, self._allowed)
        self.peaks[length] = found and found[0]
        return self.peaks[length]

    monkeypatch.setattr(Steps, "run", run_here)

    def run(*options: str) -> list[tuple[str, int]]:
        files = ["--csv", "r/t.csv", "--largest", "r/l.csv", "--figure", "f/f.png"]
        memory = ["--memory", str(100 / 1024)]  # 100 MiB, so 100 tokens
        arguments = ["figure", *TINY, *files, *memory, "--repeats", "1", "--lengths", "32", "64", *options]
        monkeypatch.setattr(sys, "argv", ["train_step", *arguments])
        monkeypatch.chdir(tmp_path)
        ran.clear()
        train_step.main()
        return list(ran)

    return run


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_interrupted_run_resumes(figure, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    kinds = ["--attention", "opt", "linformer"]
    assert figure(*kinds)
    rows, largest = table(tmp_path / "r" / "t.csv"), table(tmp_path / "r" / "l.csv")
    assert [(r["direction"], r["length"], r["attention"]) for r in rows] == [
        *(("bidirectional", length, kind) for length in ("32", "64") for kind in ("opt", "linformer")),
        *(("causal", length, "opt") for length in ("32", "64")),  # no causal Linformer
    ]
    assert all(float(r["backward_seconds"]) > 0 for r in rows)
    assert {(r["length"], r["how"]) for r in largest} == {("96", "measured")}
    assert (tmp_path / "f" / "f.png").exists()
    assert "no attention (OPT)" in capsys.readouterr().out
    monkeypatch.setattr(lengths, "draw", lambda *_: None)
    lengths.replace_csv(rows[:-1], tmp_path / "r" / "t.csv")
    assert figure(*kinds) == [("causal", 64)]
    assert table(tmp_path / "r" / "t.csv")[:-1] == rows[:-1]
    assert table(tmp_path / "r" / "l.csv") == largest
    assert figure("--attention", "relu", "opt", "--directions", "causal")  # a kind that is not in the table yet
    rows = table(tmp_path / "r" / "t.csv")
    assert len([r for r in rows if r["direction"] == "bidirectional"]) == 4
    assert sorted(r["attention"] for r in rows if r["direction"] == "causal") == ["opt", "opt", "relu", "relu"]
    before = (tmp_path / "r" / "t.csv").read_bytes()
    with pytest.raises(UserError, match=r"measured with features 8, this run has features 9"):
        figure("--features", "9")
    assert (tmp_path / "r" / "t.csv").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["l.csv", "t.csv"]


def test_lengths_beyond_the_first_out_of_memory_are_not_run(figure, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lengths, "draw", lambda *_: None)
    ran = figure("--attention", "opt", "--directions", "causal", "--lengths", "64", "128", "256", "512")
    assert [length for _, length in ran][:2] == [64, 128]
    assert 256 not in [length for _, length in ran]
    outcomes = [r["outcome"] for r in table(tmp_path / "r" / "t.csv")]
    assert outcomes == ["measured", "out of memory", "out of memory", "out of memory"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "100000"], "reduce it"),
        (["--heads", "3"], "3 heads"),
        (["--attention", "linformer", "--directions", "causal"], "only defined for bidirectional"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(
    figure, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        figure("--attention", "opt", *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_peaks_are_measured_in_a_separate_process() -> None:
    steps = Steps(kind_of("matrix"), "causal", SIZES, 2**27, limit=60.0)
    peak = steps.run(1024)
    assert peak
    assert peak > 2 * SIZES.heads * 1024**2 * 4  # the matrix and its gradient
    assert steps.run(8192) is None  # out of memory
    assert list(steps.seconds) == [1024]
