"""Two processes train like one that accumulates two batches: DDP and FSDP, with signals and bad batches."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import protlm
from protlm import train
from protlm.corpus.reader import Corpus
from protlm.inference.evaluate import evaluate

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS, STOP = 12, 6
SMALL = [
    "trainer.enable_progress_bar=false",
    "callbacks.progress=null",
    "model.layers=2",
    "model.width=16",
    "model.feed_forward=32",
    "model.num_features=8",
    "model.dropout=0.1",
    "callbacks.redraw.every_n_steps=5",
    "data.max_length=64",
    "data.token_budget=1500",
    "schedule.steps=4",
    "optimizer=adamw",
    "optimizer.lr=1e-2",
    "optimizer.eps=1e-3",  # otherwise rounding decides the update of weights with a tiny gradient
    f"trainer.max_steps={STEPS}",
    "trainer.log_every_n_steps=1",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
    "ckpt_path=auto",
]
SEVERAL = '''
"""Runs several commands, one after the other, in each of torchrun's processes."""
import contextlib, io, json, os, signal, sys
from pathlib import Path
import torch
from pytorch_lightning.callbacks import Callback
from protlm import train
from protlm.corpus.reader import Corpus
from protlm.inference.evaluate import evaluate
from protlm.performer import Performer

rank, loss = os.environ.get("RANK", "0"), Performer.loss


class Witness(Callback):
    """Saves the buffers of this rank; at given steps it sends a signal, or makes the loss NaN."""

    def __init__(self, folder, number=0, step=-1, rank=-1, part=0, spoil=()):
        self.folder, self.number, self.step, self.rank, self.spoil = folder, number, step, rank, spoil
        self.part = part  # of an accumulated gradient

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        here = trainer.global_rank == self.rank or self.rank < 0
        part = batch_idx % trainer.accumulate_grad_batches
        if here and (trainer.global_step + 1, part) == (self.step, self.part) and self.number:
            os.kill(os.getpid(), self.number)
        bad = here and trainer.global_step + 1 in self.spoil
        if bad:
            names = trainer.datamodule.names(batch)
            Path(self.folder, f"bad{trainer.global_rank}.json").write_text(json.dumps(names))
        Performer.loss = (lambda *x: loss(*x) * float("nan")) if bad else loss

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        if trainer.global_step % 5 == 1:  # after a redraw
            buffers = {name: value.clone() for name, value in task.model.named_buffers()}
            torch.save(buffers, Path(self.folder, f"buffers{trainer.global_step}-{rank}.pt"))


if __name__ == "__main__":
    outcomes = []
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                sys.argv = ["protlm-train", *arguments]
                train.main()
            except SystemExit as stopped:
                code = stopped.code
            except BaseException:
                import traceback

                traceback.print_exc()
                code = "crashed"
        outcomes.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
        Path(f"outcomes{rank}.json").write_text(json.dumps(outcomes))
'''


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}


def torchrun(folder: Path, *command: object) -> str:
    """Runs a command in two processes; returns its output."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, *map(str, command)],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Several:
    """Commands to run in two processes, and their outcomes."""

    def __init__(self, folder: Path, *common: str) -> None:
        self.folder, self.common = folder, common
        self.names: list[str] = []
        self.commands: list[list[str]] = []
        self.outcomes: list[list[dict[str, Any]]] = []

    def add(self, name: str, *options: str, **witness: Any) -> None:
        """Adds a command whose run folder has this name."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        fields = ",".join(f"{key}:{str(value).replace(' ', '')}" for key, value in {"folder": path, **witness}.items())
        self.names.append(name)
        trap = f"+callbacks.witness={{_target_:several.Witness,{fields}}}"
        last = {option.partition("=")[0]: option for option in (*self.common, *options)}  # each once, as Hydra wants
        self.commands.append([*last.values(), trap, f"hydra.run.dir={name}"])

    def run(self) -> None:
        """Runs the commands, unless another worker of pytest has done so."""
        if not (self.folder / "done").exists():
            self._run()
        self.outcomes = [json.loads((self.folder / f"outcomes{rank}.json").read_text()) for rank in range(2)]

    def _run(self) -> None:
        (self.folder / "several.py").write_text(SEVERAL)
        (self.folder / "commands.json").write_text(json.dumps(self.commands))
        torchrun(self.folder, "several.py", "commands.json")
        (self.folder / "done").touch()

    def codes(self) -> dict[str, list[list[int]]]:
        """Exit codes of both ranks for each command."""
        found: dict[str, list[list[int]]] = {}
        for name, one, other in zip(self.names, *self.outcomes, strict=True):
            found.setdefault(name, []).append([one["code"], other["code"]])
        return found

    def errors(self, name: str) -> str:
        return self.outcomes[0][self.names.index(name)]["err"]

    def last(self, name: str, file: str = "last.ckpt") -> dict[str, Any]:
        return torch.load(self.folder / name / "checkpoints" / file, weights_only=True)


def equal(one: Any, other: Any) -> bool:
    """Whether weights and optimizer states are equal bit for bit."""
    weights = all(torch.equal(weight, other["state_dict"][name]) for name, weight in one["state_dict"].items())
    return weights and states(one) == states(other)


def states(content: dict[str, Any]) -> Any:
    (state,) = content["optimizer_states"]
    return {
        i: {name: torch.as_tensor(x).tolist() for name, x in values.items()} for i, values in state["state"].items()
    }


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Up to the rounding of float32 sums in a different order."""
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(weight, other["state_dict"][name], rtol=1e-5, atol=1e-6, msg=name)
    for i, values in states(one).items():
        for name, value in values.items():
            expected = torch.as_tensor(states(other)[i][name])
            torch.testing.assert_close(torch.as_tensor(value), expected, rtol=1e-3, atol=1e-7)
    for key in ("global_step", "TremblDataModule"):
        assert one[key] == other[key]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, corpus_path: Path) -> Several:
    """All runs of two processes, in one launch, since its imports take longer than the runs."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    runs = Several(shared / "two", *SMALL, f"data.corpus={corpus_path}", "trainer.val_check_interval=4")
    term = {"number": int(signal.SIGTERM), "step": STOP}
    muon = ["optimizer=muon", "optimizer.lr=1e-2"]
    runs.add("ddp", "trainer=ddp_cpu")
    runs.add("fsdp", "trainer=fsdp_cpu")
    runs.add("tested", "trainer=ddp_cpu", "trainer.max_steps=1", "trainer.limit_test_batches=1.0")
    for first, second in (("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp")):
        runs.add(f"{first}-{second}", f"trainer={first}_cpu", **term, rank=1)
        runs.add(f"{first}-{second}", f"trainer={second}_cpu")
    runs.add("fsdp-muon", "trainer=fsdp_cpu", *muon)
    runs.add("fsdp-muon-parts", "trainer=fsdp_cpu", *muon, **{**term, "number": int(signal.SIGUSR2)})
    runs.add("fsdp-muon-parts", "trainer=fsdp_cpu", *muon)
    for kind in ("ddp", "fsdp"):
        runs.add(f"{kind}-optimal", f"trainer={kind}_cpu", "model.attention=optimal")
        runs.add(f"{kind}-muon-step", f"trainer={kind}_cpu", *muon, "trainer.max_steps=1", "schedule=constant")
        runs.add(f"{kind}-bad", f"trainer={kind}_cpu", "callbacks.checkpoint.every_n_train_steps=2", rank=1, spoil=[4])
    runs.add("fsdp-skip", "trainer=fsdp_cpu", "task.skip_nonfinite=2", rank=1, spoil=[4])
    runs.add("changed-bad", "trainer=fsdp_cpu", "optimizer.lr=0.123", "ckpt_path=fsdp/checkpoints/last.ckpt")
    with FileLock(shared / "two.lock"):
        runs.run()
    return runs


def test_both_ranks_exit_with_the_expected_code(two: Several) -> None:
    for name, found in two.codes().items():
        stopped = 128 + (signal.SIGUSR2 if "muon" in name else signal.SIGTERM)
        expected = [[2, 2]] if name.endswith("-bad") else [[stopped] * 2, [0, 0]][-len(found) :]
        assert found == expected, (name, two.errors(name)[-3000:])


def test_two_processes_equal_one_that_accumulates_two_batches(two: Several, monkeypatch, tmp_path: Path) -> None:
    """Batches, dropout, redraws and optimizer."""
    monkeypatch.chdir(tmp_path)
    alone(monkeypatch, two, "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=8", "hydra.run.dir=one")
    last = torch.load("one/checkpoints/last.ckpt", weights_only=True)
    assert_close(last, two.last("ddp"))
    assert last["global_step"] == STEPS
    assert (last["state_dict"]["model.norm.weight"] - 1).abs().max() > 0.01  # far from its initial value


def test_two_processes_test_as_one(two: Several, corpus_path: Path) -> None:
    """Metrics over whole splits, each batch counted once."""
    results = json.loads((two.folder / "tested" / "results.json").read_text())
    model = protlm.load(two.folder / "tested" / "checkpoints" / "last.ckpt")
    alone = evaluate(model, Corpus(corpus_path), max_length=64, seed=1)
    for split in ("test", "ood"):
        assert results[split] == pytest.approx(alone[split], rel=1e-3)
        assert results[split]["unigram_accuracy"] == alone[split]["unigram_accuracy"]


def test_fsdp_equals_ddp(two: Several) -> None:
    assert_close(two.last("fsdp"), two.last("ddp"))
    results = [json.loads((two.folder / name / "results.json").read_text()) for name in ("fsdp", "ddp")]
    for split in ("test", "ood"):
        assert results[0][split] == pytest.approx(results[1][split], rel=1e-4)


def test_fsdp_resumes_bit_for_bit(two: Several) -> None:
    assert two.last("fsdp-fsdp", "previous.ckpt")["global_step"] == STOP
    assert equal(two.last("fsdp-fsdp"), two.last("fsdp"))
    assert equal(two.last("fsdp-muon-parts"), two.last("fsdp-muon"))


def test_fsdp_refuses_changed_options_of_the_optimizer(two: Several) -> None:
    assert "is now 0.123; resume with the same options" in two.errors("changed-bad")


def test_a_checkpoint_of_fsdp_or_ddp_resumes_with_the_other(two: Several) -> None:
    for name in ("fsdp-ddp", "ddp-fsdp"):
        assert two.last(name, "previous.ckpt")["global_step"] == STOP
        assert_close(two.last(name), two.last("ddp"))


def test_a_checkpoint_of_fsdp_resumes_on_one_device_and_is_a_model(two: Several, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    part = two.folder / "fsdp-ddp" / "checkpoints" / "previous.ckpt"
    options = ["trainer.accumulate_grad_batches=2", "trainer.val_check_interval=8", "hydra.run.dir=one"]
    alone(monkeypatch, two, *options, f"ckpt_path={part}")
    assert_close(torch.load("one/checkpoints/last.ckpt", weights_only=True), two.last("ddp"))
    model = protlm.load(part)
    assert all(weight.device.type == "cpu" and weight.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("name", ["ddp", "fsdp", "ddp-optimal", "fsdp-optimal"])
def test_the_random_directions_are_the_same_on_all_ranks_after_each_redraw(two: Several, name: str) -> None:
    drawn = []
    for step in (1, 6, 11):
        one, other = (torch.load(two.folder / name / f"buffers{step}-{rank}.pt", weights_only=True) for rank in (0, 1))
        directions = {key: value for key, value in one.items() if key.endswith(("directions", "bias", "draw_number"))}
        assert len(directions) >= 4
        for key, value in directions.items():
            assert torch.equal(value, other[key]), key
        drawn.append(one["blocks.0.attention.attention.directions"])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_muon_takes_the_same_step_with_fsdp_and_ddp(two: Several) -> None:
    """It orthogonalises full matrices, not shards."""
    one, other = (two.last(f"{kind}-muon-step")["state_dict"] for kind in ("ddp", "fsdp"))
    for name, weight in one.items():
        if ".blocks." in name and name.endswith("weight") and weight.ndim == 2:
            step = 0.2 * 1e-2 * weight.numel() ** 0.5  # norm of the update
            assert (weight - other[name]).norm() < 0.05 * step, name  # Muon computes in bfloat16
        else:
            torch.testing.assert_close(weight, other[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_bad_batch_of_one_rank_stops_both_and_is_named(two: Several) -> None:
    for kind in ("ddp", "fsdp"):
        message = two.errors(f"{kind}-bad").strip()
        assert message.startswith("error: step 4: the gradient is not finite; loss nan on ")
        assert f"{kind}-bad/checkpoints/last.ckpt (step 2)" in message
        bad = json.loads((two.folder / f"{kind}-bad" / "bad1.json").read_text())
        assert f"loss nan on {', '.join(bad[:12])} and {len(bad) - 12} more" in message
        last = two.last(f"{kind}-bad")
        assert last["global_step"] == 2
        assert all(weight.isfinite().all() for weight in last["state_dict"].values())


def test_a_bad_batch_of_one_rank_is_skipped_on_both(two: Several) -> None:
    last = two.last("fsdp-skip")
    assert (last["global_step"], last["skipped_steps"]) == (STEPS, [1, 0])
    assert all(weight.isfinite().all() for weight in last["state_dict"].values())
    assert {float(state["step"]) for state in last["optimizer_states"][0]["state"].values()} == {STEPS - 1}


ACCIDENT = """
import os, signal
from pathlib import Path
from pytorch_lightning.callbacks import Callback

class Accident(Callback):
    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if (trainer.global_step, trainer.global_rank) == (8, 1) and not Path("happened").exists():
            Path("happened").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_torchrun_uses_one_run_folder_and_resumes_when_a_process_dies(two: Several, tmp_path: Path) -> None:
    """The result equals that of an uninterrupted run with Lightning's launcher."""
    (tmp_path / "accident.py").write_text(ACCIDENT)
    trap = ["+callbacks.accident={_target_:accident.Accident}", "callbacks.checkpoint.every_n_train_steps=3"]
    torchrun(tmp_path, "--max-restarts=1", "-m", "protlm.train", *two.common, "trainer=ddp_cpu", *trap)
    assert (tmp_path / "happened").exists()
    (folder,) = (tmp_path / "runs").iterdir()
    about = json.loads((folder / "run.json").read_text())
    assert about["resumed_from"].endswith("last.ckpt")
    assert len(about["earlier"]) == 1
    assert equal(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True), two.last("ddp"))
    assert json.loads((folder / "results.json").read_text()).keys() == {"test", "ood"}


def test_ctrl_c_within_an_accumulated_step_of_two_processes_loses_no_batch(
    two: Several, monkeypatch, tmp_path: Path
) -> None:
    """The signal reaches both processes; both exit, with one message."""
    several = Several(tmp_path, *two.common)
    several.add(
        "run", "trainer=ddp_cpu", "trainer.accumulate_grad_batches=2", number=int(signal.SIGINT), step=STOP, part=1
    )
    (tmp_path / "several.py").write_text(SEVERAL)
    command = [sys.executable, "-m", "protlm.train", *several.commands[0]]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.count("stopped at step 6; to resume: ckpt_path=") == 1
    assert "Traceback" not in errors
    for _ in range(200):  # until no process is left
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("the other process is still running")
    monkeypatch.chdir(tmp_path)
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == STOP
    four = ["trainer.accumulate_grad_batches=4", "trainer.val_check_interval=16"]
    alone(monkeypatch, two, *four, "hydra.run.dir=run")
    alone(monkeypatch, two, *four, "hydra.run.dir=whole")
    assert_close(*(torch.load(f"{x}/checkpoints/last.ckpt", weights_only=True) for x in ("run", "whole")))


def alone(monkeypatch: pytest.MonkeyPatch, two: Several, *options: str) -> None:
    """Trains with the same options in this process."""
    arguments = [*two.common, "trainer.accelerator=cpu", "trainer.devices=1", *options]
    last = {argument.partition("=")[0]: argument for argument in arguments}  # Hydra refuses some that come twice
    monkeypatch.setattr("sys.argv", ["protlm-train", *last.values()])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as there: other numbers of threads sum in a different order
    try:
        train.main()
    finally:
        torch.set_num_threads(threads)
