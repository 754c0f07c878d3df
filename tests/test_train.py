"""`python -m protlm.train`: configurations, user errors, small runs, resuming."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import protlm
from protlm.batching.samplers import EndlessBatches
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.splits import SplitRule
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.performer.kind import Kind
from protlm.performer.linformer import Linformer
from protlm.performer.lsh import Lsh
from protlm.performer.window import Window
from protlm.sequence.alphabet import EOS, PAD, TOKENS
from protlm.training.command import errors_in_one_line
from protlm.training.datamodule import TremblDataModule
from protlm.training.options import CONF
from protlm.training.task import LanguageModelTask
from tests.tiny import FAST, QUICK, TINY, run_training

GROUPS = ("model", "data", "task", "trainer", "logger", "callbacks", "optimizer", "schedule")


TRAINED = ("finetune", "labels", "pretrained", "distillation", "linearise", "student")
"""Files for trained models, which tests/supervised/tuning/test_run.py and tests/distillation/test_run.py run."""


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The single line on standard error of a call that exits with code 2."""
    with pytest.raises(SystemExit) as stopped:
        run_training(*arguments)
    assert stopped.value.code == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "override",
    [f"{group}={name}" for group in GROUPS for name in names(group) if name not in TRAINED]
    + [f"+experiment={x}" for x in names("experiment") if x not in TRAINED],
)
def test_every_yaml_composes_and_instantiates(override: str, corpus_path: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.setenv("WANDB_MODE", "offline")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", [override, *QUICK, f"data.corpus={corpus_path}"], return_hydra_config=True)
    config.hydra.runtime.output_dir = str(tmp_path)
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(config)
    data = instantiate(config.data, _convert_="all")
    settings = instantiate(config.model, vocab_size=len(TOKENS), pad_id=PAD)
    with torch.device("meta"):
        model = Performer(dataclasses.replace(settings, layers=1))
    optimizer = instantiate(config.optimizer, _convert_="all")(model)
    factor = instantiate(config.schedule)(0, 10)
    task = instantiate(config.task)(model, instantiate(config.optimizer, _convert_="all"))
    callbacks = [instantiate(node) for node in config.callbacks.values() if node]
    trainer = instantiate(config.trainer, logger=instantiate(config.logger), callbacks=callbacks)
    assert task.model is model
    assert data.objective.causal == settings.causal
    assert 0 < factor <= 1
    assert optimizer.param_groups[0]["lr"] > 0
    assert trainer.max_steps > 0


def test_the_papers_model_is_the_papers_model() -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", ["+experiment=trembl"])
    with torch.device("meta"):
        model = Performer(instantiate(config.model, vocab_size=len(TOKENS), pad_id=PAD))
    shape = (len(model.blocks), model.config.heads, model.config.width, model.config.feed_forward)
    assert shape == (36, 8, 512, 1024)
    assert (model.config.attention_name, model.config.num_features, model.config.dropout) == ("relu", 256, 0.1)
    assert (config.optimizer.lr, list(config.optimizer.betas), config.optimizer.eps) == (1e-3, [0.9, 0.98], 1e-9)
    assert (config.optimizer.weight_decay, config.trainer.gradient_clip_val) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["+experiment=nonsense"], "experiment 'nonsense'"),
        (["model.layrs=3"], "layrs"),
        (["modle.layers=3"], "modle"),
        (["+modle=3"], "modle"),
        (["+optimizer.lrr=1", "data.corpus=x.h5"], "lrr"),
        (["+data.masking.shre=1", "data.corpus=x.h5"], "shre"),
        (["data.masking.share=2", "data.corpus=x.h5"], "share"),
        (["model.attention=nystrom", "data.corpus=x.h5"], "nystrom"),
        (["schedule.decay=slow", "data.corpus=x.h5"], "slow"),
        (["trainer.max_steps=lots"], "trainer.max_steps lots: expected a positive integer"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches 0"),
        (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val -1"),
        (["trainer.precision=16-mixed"], "bf16-mixed"),
        (["trainer.num_nodes=some"], "trainer: "),
        (["task.compile=maybe"], "task.compile 'maybe': expected true or false"),
        (["seed=99999999999"], "seed 99999999999"),
        (["hydra/launcher=submitit_nonsense"], "submitit_nonsense"),
        (["data.corpus=missing.h5"], "protlm prepare"),
        (["data.fasta=missing.fasta"], "missing.fasta: no such file"),
        (["trainer.max_steps=1"], "data.fasta"),
        (["seed=="], "seed"),
    ],
)
def test_invalid_command_lines(arguments, expected, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(capsys, *QUICK, *arguments)
    assert not list(tmp_path.glob("*.h5"))


def test_invalid_yaml_files(monkeypatch, capsys, tmp_path, corpus_path) -> None:
    conf = tmp_path / "conf"
    conf.mkdir()
    monkeypatch.chdir(tmp_path)
    for text, expected in (
        ("layrs: 3\n", "layrs"),  # at the root
        ("model: {layrs: 3}\n", "layrs"),
        ("optimizer: {lrr: 3}\n", "lrr"),
        ("schedule: {stesp: 3}\n", "stesp"),
        ("callbacks: {best: {mood: max}}\n", "mood"),
        ("data: [\n", "typo"),  # not YAML
    ):
        (conf / "experiment").mkdir(exist_ok=True)
        (conf / "experiment" / "typo.yaml").write_text("# @package _global_\n" + text)
        message = refusal(
            capsys, *QUICK, "+experiment=typo", f"hydra.searchpath=[{conf}]", f"data.corpus={corpus_path}"
        )
        assert expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "is empty"), (b"no fasta\n", "not FASTA"), (b">dna\n" + b"ACGTTGCA" * 20, "nucleotides")],
)
def test_unusable_fasta(content, expected, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.fasta").write_bytes(content)
    assert expected in refusal(capsys, *TINY, "data.fasta=in.fasta", "data.corpus=out.h5")
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == ["in.fasta"]


def test_unusable_checkpoints(monkeypatch, capsys, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    start = [*FAST, f"data.corpus={corpus_path}", "hydra.run.dir=run"]
    (tmp_path / "torn.ckpt").write_bytes(b"PK\x03\x04 torn")
    assert "damaged" in refusal(capsys, *start, "ckpt_path=torn.ckpt")
    assert "no such checkpoint" in refusal(capsys, *start, "ckpt_path=none.ckpt")
    assert "run: is a folder; expected a checkpoint such as" in refusal(capsys, *start, "ckpt_path=run")
    run_training(*start, "trainer.max_steps=1", "ckpt_path=")  # as of an unset variable of a shell
    capsys.readouterr()
    last = "run/checkpoints/last.ckpt"
    assert f"use its checkpoint {last}" in refusal(capsys, *start, "ckpt_path=run")
    assert f"use its checkpoint {last}" in refusal(capsys, *start, "ckpt_path=run/checkpoints")
    message = refusal(capsys, *start, "model.heads=2", f"ckpt_path={last}")
    assert "heads 4 is now 2" in message
    content = torch.load(last, weights_only=True)
    content["protlm"]["alphabet"] = list("ACDE")
    torch.save(content, "other.ckpt")
    assert "alphabet" in refusal(capsys, *start, "ckpt_path=other.ckpt")


def test_a_complete_run(monkeypatch, capsys, tmp_path, sample) -> None:
    """From FASTA to a usable checkpoint, a figure, a table, and a line that says where they are."""
    monkeypatch.chdir(tmp_path)
    steps = ["trainer.max_steps=6", "trainer.val_check_interval=3", "trainer.log_every_n_steps=1"]
    held_out = [
        f"data.clusters={sample.parent}/families.clusters.tsv",
        f"data.held_out={sample.parent}/families.ood.txt",
    ]
    run_training(
        *TINY,
        *steps,
        *held_out,
        f"data.fasta={sample}",
        "hydra.run.dir=run",
        "callbacks.redraw.every_n_steps=2",
    )
    printed = capsys.readouterr().out
    assert "run/checkpoints/best.ckpt" in printed
    results = json.loads(Path("run/results.json").read_text())
    assert set(results) == {"test", "ood"}
    assert all(0 <= row["accuracy"] <= 1 < row["perplexity"] for row in results.values())
    assert f"{results['ood']['unigram_perplexity']:.2f}" in printed
    assert Path("run/learning_curve.png").read_bytes().startswith(b"\x89PNG")
    with open("run/metrics/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert {"train/loss", "valid/accuracy", "valid/unigram_accuracy", "valid/perplexity"} <= set(rows[0])
    model = protlm.load("run/checkpoints/last.ckpt")
    assert model.blocks[0].attention.attention.draw_number == 2  # steps 4 and 5 use the third draw
    assert len(list(Path("corpora").iterdir())) == 1


def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(monkeypatch, tmp_path, without_clusters) -> None:
    """Weights, optimizer, data order, masks, dropout and redraws."""
    monkeypatch.chdir(tmp_path)
    common = [*FAST, f"data.corpus={without_clusters}", "schedule=constant", "model.dropout=0.1"]
    common += ["callbacks.redraw.every_n_steps=3", "data.token_budget=200", "trainer.val_check_interval=4"]
    run_training(*common, "trainer.max_steps=12", "hydra.run.dir=whole")
    run_training(*common, "trainer.max_steps=5", "hydra.run.dir=parts")
    run_training(*common, "trainer.max_steps=12", "hydra.run.dir=parts", "ckpt_path=auto")
    whole, parts = (torch.load(f"{x}/checkpoints/last.ckpt", weights_only=True) for x in ("whole", "parts"))
    assert whole["global_step"] == parts["global_step"] == 12
    assert whole["TremblDataModule"] == parts["TremblDataModule"]
    assert whole["TremblDataModule"]["place"][0] > 0  # past the first epoch
    for name, weight in whole["state_dict"].items():
        assert torch.equal(weight, parts["state_dict"][name]), name


@pytest.mark.slow
def test_training_learns(monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    small = [
        "model.layers=1",
        "model.width=32",
        "model.feed_forward=64",
        "model.num_features=32",
        "data.max_length=128",
    ]
    steps = ["trainer.max_steps=300", "trainer.val_check_interval=300", "schedule.steps=10", "optimizer.lr=1e-2"]
    steps += ["trainer.limit_val_batches=1", "trainer.limit_test_batches=20"]
    run_training(*QUICK, *small, *steps, f"data.corpus={corpus_path}", "hydra.run.dir=run")
    test = json.loads(Path("run/results.json").read_text())["test"]
    assert test["perplexity"] < 0.98 * test["unigram_perplexity"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "checkpoint"),
    [("trembl", False), ("trembl_unidirectional", True), ("trembl_softmax", False), ("trembl_transformer", False)],
)
def test_the_36_layer_model_takes_a_step(experiment, checkpoint, monkeypatch, tmp_path, corpus_path) -> None:
    """Only one of the experiments writes its checkpoint of a gigabyte."""
    monkeypatch.chdir(tmp_path)
    options = [f"data.corpus={corpus_path}", "data.max_length=64", "data.token_budget=64", "trainer.max_steps=1"]
    options += ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "hydra.run.dir=run"]
    options += [] if checkpoint else ["~callbacks.checkpoint"]
    tasks = []
    monkeypatch.setattr(LanguageModelTask, "on_train_end", lambda task: tasks.append(task), raising=False)
    run_training(*QUICK, f"+experiment={experiment}", *options)
    model = protlm.load("run/checkpoints/last.ckpt") if checkpoint else tasks[0].model
    assert len(model.blocks) == 36
    assert tasks[0].global_step == 1
    assert all(parameter.isfinite().all() for parameter in model.parameters())


BOTH = pytest.mark.parametrize("causal", ["true", pytest.param("false", marks=pytest.mark.slow)])
BLOCKS = [option for option in FAST if "max_length" not in option]
BLOCKS += ["data=trembl_concat", "data.max_length=256", "data.token_budget=512", "trainer.max_steps=2"]


@BOTH
def test_separate_proteins_in_blocks_train_differently_from_concatenated_ones(
    causal: str, monkeypatch, tmp_path, corpus_path
) -> None:
    monkeypatch.chdir(tmp_path)
    models = []
    for separate in ("true", "false"):
        options = [f"data.separate={separate}", f"model.causal={causal}", f"hydra.run.dir=run-{separate}"]
        run_training(*BLOCKS, f"data.corpus={corpus_path}", *options)
        assert set(json.loads(Path(f"run-{separate}/results.json").read_text())) == {"test", "ood"}
        models.append(protlm.load(f"run-{separate}/checkpoints/last.ckpt"))
        assert models[-1].config.start_id == EOS
        assert models[-1].head.weight.isfinite().all()
    assert not torch.equal(*(model.head.weight for model in models))


@pytest.fixture
def without_clusters(tmp_path: Path) -> Path:
    fasta, path = tmp_path / "more.fasta", tmp_path / "more.h5"
    fasta.write_text("".join(f">m{i}\nMKT{'ACDEFGHIKL'[i] * 9}\n" for i in range(10)))
    prepare_corpus([fasta], path, SplitRule(0, 0))
    return path


def test_several_corpora_train_as_one_with_weights_and_resume(
    monkeypatch, capsys, tmp_path, corpus_path, without_clusters
) -> None:
    monkeypatch.chdir(tmp_path)
    corpora = f"data.corpus=[{corpus_path},{without_clusters}]"
    common = [*FAST, corpora, "data.weights=[0.25,0.75]", "schedule=constant", "hydra.run.dir=run"]
    run_training(*common, "trainer.max_steps=2")
    run_training(*common, "trainer.max_steps=4", "ckpt_path=auto")
    stored = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert stored["global_step"] == 4
    data = TremblDataModule(
        [str(corpus_path), str(without_clusters)], [0.25, 0.75], max_length=64, token_budget=4000, seed=1
    )
    counts, batches = Counter(), iter(EndlessBatches(data.train_dataloader().dataset))
    for key in islice(batches, 4):
        counts.update((key[:, 1] >= data.corpora.starts[1]).tolist())
    assert counts[True] > counts[False] > 0
    data.load_state_dict(stored["TremblDataModule"])
    following = next(iter(EndlessBatches(data.train_dataloader().dataset, start=data._start)))
    assert following.tolist() == next(batches).tolist()
    capsys.readouterr()
    for changes, expected in (
        (["data.seed=2"], "data.seed 1 is now 2"),
        (["data=trembl_concat"], "was not made with ConcatenatedTremblDataModule"),
    ):
        message = refusal(capsys, *common, *changes, "trainer.max_steps=6", "ckpt_path=auto")
        assert expected in message
        assert "resume with the same options" in message


def test_training_by_cluster(monkeypatch, capsys, tmp_path, corpus_path, without_clusters) -> None:
    monkeypatch.chdir(tmp_path)
    common = [*FAST, "data.sample_by=cluster", "trainer.max_steps=3", "hydra.run.dir=run"]
    run_training(*common, f"data.corpus={corpus_path}")
    place = torch.load("run/checkpoints/last.ckpt", weights_only=True)["TremblDataModule"]["place"]
    assert place[0] == 3  # 17 clusters make one batch
    assert "has no clusters" in refusal(capsys, *common, f"data.corpus=[{corpus_path},{without_clusters}]")
    message = refusal(capsys, *common, f"data.corpus={without_clusters}")
    assert "more.h5: has no clusters; prepare it again with a cluster table" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["data.weights=[1,2]"], "weights [1, 2]: expected a non-negative number for each corpus (1)"),
        (["data.weights=[-1]"], "weights [-1]: expected"),
        (["data.weights=1"], "weights"),
        (["data.weights=[a]"], "weights"),
        (["data.sample_by=family"], "expected one of protein, cluster"),
        (["data.corpus=[]"], "data.corpus"),
        (["data.corpus=[none.h5,other.h5]"], "none.h5: no such corpus"),
        (["data.corpus=[a.h5,b.h5]", "data.fasta=a.fasta"], "protlm prepare"),
    ],
)
def test_invalid_corpora(options, expected, monkeypatch, capsys, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.fasta").write_text(">a\nMKT\n")
    start = [*TINY, "trainer.max_steps=1", f"data.corpus={corpus_path}"]
    assert expected in refusal(capsys, *start, *options)


@pytest.mark.slow
def test_workers_change_nothing(monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    for workers in (0, 2):
        start = [f"data.corpus={corpus_path}", "trainer.max_steps=3", f"data.workers={workers}"]
        run_training(*FAST, *start, f"hydra.run.dir=run{workers}")
    one, two = (protlm.load(f"run{workers}/checkpoints/last.ckpt").state_dict() for workers in (0, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_wandb_runs_offline_without_an_account(monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no login there
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    steps = ["trainer.max_steps=2", "trainer.log_every_n_steps=1"]
    run_training(*FAST, *steps, f"data.corpus={corpus_path}", "logger=wandb", "hydra.run.dir=run")
    assert list(Path("run/wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.slow
def test_a_process_stopped_by_ctrl_c_writes_a_checkpoint_and_resumes(monkeypatch, tmp_path, corpus_path) -> None:
    """It ends like an uninterrupted run; its workers get the signal too. In process, test_resume has all signals."""
    monkeypatch.chdir(tmp_path)
    common = [
        *FAST,
        f"data.corpus={corpus_path}",
        "model.dropout=0.1",
        "trainer.max_steps=40",
        "data.token_budget=2000",
    ]
    run_training(*common, "hydra.run.dir=whole")
    parts = [*common, "hydra.run.dir=parts", "trainer.log_every_n_steps=1", "data.workers=1"]
    command = [sys.executable, "-m", "protlm.train", *parts]
    same = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }  # for the same rounding
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=same, start_new_session=True, **streams) as process:
        while not Path("parts/metrics/metrics.csv").exists() and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "to resume: ckpt_path=" in errors
    assert "Traceback" not in errors
    stopped = torch.load("parts/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 0 < stopped < 40
    run_training(*parts, "ckpt_path=auto")
    one, two = (protlm.load(f"{x}/checkpoints/last.ckpt").state_dict() for x in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_two_proteins_train_without_the_other_splits(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.fasta").write_text(">a\nMKTAYIAKQRQISFVK\n>b\nMSHFSRQLEERLGLIEV\n")
    run_training(
        *FAST,
        "data.fasta=few.fasta",
        "data.valid=0",
        "data.test=0",
        "trainer.max_steps=3",
        "hydra.run.dir=run",
    )
    assert not Path("run/results.json").exists()
    assert "run/checkpoints/last.ckpt" in capsys.readouterr().out


@pytest.mark.parametrize("kernel", names("model/attention"))
def test_a_kernel_by_name_and_by_its_file_are_the_same(kernel: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", [f"model/attention={kernel}", "data.corpus=x.h5"]).model
    by_file, by_name = (
        instantiate(config, vocab_size=len(TOKENS), pad_id=PAD, **how) for how in ({}, {"attention": kernel})
    )
    assert isinstance(by_file.attention, Kind)
    assert by_name.to_dict() == by_file.to_dict()
    assert by_file.to_dict()["attention"] == kernel


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["model/attention=linformer", "model.attention.rank=6", "model.positions=learned"], Linformer(6)),
        (["model/attention=reformer", "model.attention.bucket=8"], Lsh(bucket=8)),
        pytest.param(["model/attention=window", "model.attention.size=10"], Window(10), marks=pytest.mark.slow),
        pytest.param(["model.attention=window", "model.causal=true"], "window", marks=pytest.mark.slow),
    ],
)
def test_a_run_with_each_kind_of_attention(options, expected, monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    common = [*FAST, f"data.corpus={corpus_path}"]
    run_training(*common, *options, "trainer.max_steps=3", "hydra.run.dir=run")
    model = protlm.load("run/checkpoints/last.ckpt")
    assert model.config.attention == expected
    assert model.draw_number == (2 if isinstance(expected, Lsh) else 0)  # of the last step
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_data_longer_than_attention_accepts_is_refused(monkeypatch, capsys, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*TINY, f"data.corpus={corpus_path}", "model.attention=linformer", "model.max_length=32"]
    message = refusal(capsys, *options, "trainer.max_steps=1", "hydra.run.dir=run")
    assert "data.max_length 64: attention linformer takes at most model.max_length tokens, 32" in message


def test_an_adaptive_kernel_adopts_its_observations(monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    common = [*FAST, f"data.corpus={corpus_path}", "model/attention=optimal", "callbacks.redraw.every_n_steps=2"]
    run_training(*common, "trainer.max_steps=3", "schedule=constant", "hydra.run.dir=run")
    attention = protlm.load("run/checkpoints/last.ckpt").blocks[0].attention.attention
    assert attention.draw_number == 1 < attention.observed
    assert attention.bias.abs().max() > 0


def test_an_error_in_a_worker_is_one_line(capsys) -> None:
    text = "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n"
    with pytest.raises(SystemExit), errors_in_one_line():
        raise UserError(f"{text}protlm.errors.UserError: c.h5: has changed since it was opened\n")
    assert capsys.readouterr().err == "error: c.h5: has changed since it was opened\n"


@pytest.mark.parametrize("overwritten", [True, False])
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_killed_worker_of_the_data_is_one_line(overwritten: bool, monkeypatch, tmp_path, capsys, corpus_path) -> None:
    """As by a corpus that is cut short between the check of a batch and its reading, or when memory runs out."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(corpus_path, "c.h5")

    def killed(*_: object) -> None:
        if overwritten:
            with Path("c.h5").open("r+b") as file:
                file.truncate(1_000)
        os.kill(os.getpid(), signal.SIGBUS if overwritten else signal.SIGKILL)

    monkeypatch.setattr("protlm.batching.batches.ProteinBatches.__getitem__", killed)
    with pytest.raises(SystemExit) as stopped:
        run_training(*FAST, "data.corpus=c.h5", "data.workers=1", "trainer.max_steps=1", "hydra.run.dir=run")
    assert stopped.value.code == 2
    expected = "error: c.h5: has changed since it was opened; " if overwritten else "error: DataLoader worker (pid"
    assert capsys.readouterr().err.splitlines()[-1].startswith(expected)


@pytest.mark.slow
def test_ctrl_c_during_the_imports_is_one_line() -> None:
    command = [sys.executable, "-v", "-m", "protlm.train"]  # -v reports each import
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("import 'torch._utils'"))
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.endswith("stopped by SIGINT\n")
    assert "Traceback" not in rest


@pytest.mark.slow
def test_spawned_workers_serve_training_and_the_test(tmp_path: Path, corpus_path: Path) -> None:
    """As by default on macOS; they import neither Lightning nor Hydra, which took longer than a short run."""
    (tmp_path / "sitecustomize.py").write_text(
        "import multiprocessing, sys\n"
        "multiprocessing.set_start_method('spawn')\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        assert name not in ('pytorch_lightning', 'hydra'), name\n"
        "if '--multiprocessing-fork' in sys.argv:\n"
        "    sys.meta_path.insert(0, Refuse())\n"
    )
    command = [sys.executable, "-m", "protlm.train", *FAST, f"data.corpus={corpus_path}", "data.workers=1"]
    path = os.pathsep.join((str(tmp_path), *sys.path))
    done = subprocess.run(
        [*command, "trainer.max_steps=1", "hydra.run.dir=run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/results.json").exists()


def test_batches_are_packed_where_that_gains_and_a_resumed_run_keeps_its_choice(
    monkeypatch, tmp_path, corpus_path
) -> None:
    monkeypatch.chdir(tmp_path)
    base = [*FAST, f"data.corpus={corpus_path}", "hydra.run.dir=run", "ckpt_path=auto"]
    last = Path("run/checkpoints/last.ckpt")

    def packed(*options: str) -> tuple[bool, bool]:
        """As recorded in the configuration, and in the checkpoint."""
        run_training(*base, *options)
        stored = torch.load(last, weights_only=True)["TremblDataModule"]["packed"]
        return OmegaConf.load("run/config.yaml").data.packed, stored

    assert packed("trainer.max_steps=1", "model.attention=window") == (False, False)  # on a CPU
    shutil.rmtree("run")
    with monkeypatch.context() as patched:
        patched.setattr("protlm.training.packing.gains", lambda device: True)
        assert packed("trainer.max_steps=1") == (False, False)  # no kernel takes ReLU's
        shutil.rmtree("run")
        assert packed("trainer.max_steps=1", "model.attention=window") == (True, True)
    assert packed("trainer.max_steps=2", "model.attention=window") == (True, True)
    content = torch.load(last, weights_only=True)
    del content["TremblDataModule"]["packed"]  # a checkpoint of an earlier version
    torch.save(content, last)
    monkeypatch.setattr("protlm.training.packing.gains", lambda device: True)
    assert packed("trainer.max_steps=3", "model.attention=window") == (False, False)


@pytest.mark.parametrize(
    "base", [FAST, BLOCKS, [*BLOCKS, "data.separate=true"]], ids=["proteins", "blocks", "separated blocks"]
)
def test_packed_batches_train_like_padded_ones(base: list[str], monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    models = []
    for packed in ("true", "false"):
        options = [f"data.packed={packed}", f"data.corpus={corpus_path}", "model.dropout=0", "trainer.max_steps=2"]
        run_training(*base, *options, f"hydra.run.dir=run-{packed}")
        models.append(protlm.load(f"run-{packed}/checkpoints/last.ckpt").state_dict())
    for name, weights in models[0].items():
        assert torch.allclose(weights, models[1][name], atol=1e-4)
