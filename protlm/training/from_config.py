"""A run from its Hydra configuration: builds every part, trains, tests and records it."""

import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from omegaconf import MISSING, DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.callbacks.weight_averaging import WeightAveraging

from protlm.errors import UserError
from protlm.files import UnwritableError
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabets import PROTEIN, describe
from protlm.training.base_task import TrainingTask
from protlm.training.checkpoints import BEST, LAST, AtomicCheckpointIO, resume_point
from protlm.training.data import TrainingData
from protlm.training.datamodule import TremblDataModule, corpus_alphabet
from protlm.training.epochs import describe_plan, plan_epochs, resolve_limits
from protlm.training.factories import checked, of_kind, parameters_of, takes_optimizer
from protlm.training.loggers import RunLogger
from protlm.training.options import meant, own_options
from protlm.training.packing import AUTO, packed_before, packed_by_default, warn_if_taken_apart
from protlm.training.run import (
    RunRecorder,
    describe_run,
    is_first,
    move_earlier_outputs,
    record_end,
    time_limit_message,
)
from protlm.training.sample import resolve_data
from protlm.training.supported import check_callbacks, check_loggers, check_options
from protlm.training.warm_start import checked_init, load_initial_weights


@dataclass
class Config:
    """Root of the configuration; other names are rejected."""

    model: Any = MISSING
    data: Any = MISSING
    task: Any = MISSING
    trainer: Any = MISSING
    logger: Any = None
    callbacks: Any = None
    optimizer: Any = MISSING
    schedule: Any = None
    seed: int = 1
    init: str | None = None
    ckpt_path: str | None = None


ConfigStore.instance().store("schema", Config)


def train(config: DictConfig, announce: bool = True) -> float:
    """Trains and tests a model; returns the best value of what is monitored, or infinity without a validation.

    Args:
        config: composed by Hydra.
        announce: say at the end where everything is.
    """
    known = [field.name for field in fields(Config)]
    if odd := sorted(str(name) for name in config if name not in known):
        raise UserError(f"unknown option {odd[0]!r}; {meant(odd[0], known) or 'expected one of ' + ', '.join(known)}")
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    layers = set_by_user()
    config.trainer.update(resolve_limits(config.trainer, layers))
    config.data.update(resolve_data(config.data, layers[0] | layers[1]))
    check_options(config.seed, config.trainer)
    folder = Path(hydra_config.runtime.output_dir)
    checkpoints = folder / "checkpoints"
    seed_everything(config.seed, workers=True, verbose=False)
    model = network(config.model, config.data)
    optimizer = instantiate(config.optimizer, _convert_="all", _partial_=True)
    callbacks, named_loggers = (
        instantiate_each("callbacks", config.callbacks),
        instantiate_each("logger", config.logger),
    )
    sharded = "FullySharded" in str(config.trainer.get("strategy"))
    make_task = instantiate(config.task)
    check_callbacks(callbacks, sharded, getattr(getattr(make_task, "func", None), "monitored", TrainingTask.monitored))
    check_loggers(named_loggers)
    loggers = list(named_loggers.values())
    if not config.trainer.get("enable_progress_bar", True):
        callbacks = {name: one for name, one in callbacks.items() if not isinstance(one, ProgressBar)}
    # StopOnSignal requeues: Lightning's own requeueing writes its checkpoint in the middle of a step
    slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    options: dict[str, Any] = {
        "logger": loggers,
        "callbacks": [recorder := RunRecorder(folder), *callbacks.values()],
        "plugins": [AtomicCheckpointIO(), *([SLURMEnvironment(auto_requeue=False)] if slurm else [])],
    }
    if not any(isinstance(callback, Checkpoint) for callback in callbacks.values()):
        options["enable_checkpointing"] = False  # otherwise Lightning adds its own, in the working directory
    trainer = of_kind("trainer", instantiate(config.trainer, _convert_="all", **options), Trainer)
    in_epochs = config.trainer.get("max_epochs") not in (None, -1)
    data: Any = None
    if in_epochs:  # the number of steps has to be known before the schedule is made
        data = prepared(config.data, everywhere=True)
        plan_epochs(trainer, data)
        config.trainer.max_steps = trainer.max_steps
    schedule = instantiate_schedule(config.schedule)
    task = checked("task", lambda: make_task(model, optimizer, schedule), TrainingTask)
    if not in_epochs:  # last, so that missing data does not hide other errors
        data = prepared(config.data)
    resume, content = resume_point(config.ckpt_path, checkpoints), {}
    if resume:
        content = torch.load(resume, mmap=True, map_location="cpu", weights_only=True)
        config.init = checked_init(content, config.init)
        if is_first():
            print(f"resuming from {resume} (step {content['global_step']:,})", flush=True)
    elif config.init:
        load_initial_weights(model, config.init)
    if config.data.get("packed") == AUTO:
        config.data.packed = packed_before(content, data) if resume else packed_by_default(model, trainer)
        data.pack(config.data.packed)
    if config.data.get("packed"):
        warn_if_taken_apart(model, trainer)
    recorder.init = config.init
    if trainer.is_global_zero:
        if not resume or Path(resume).parent.resolve() != checkpoints.resolve():
            move_earlier_outputs(folder)
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        about = describe_run(resolved, overrides, folder, data.fingerprints, resume, trainer.world_size)
        recorder.about, recorder.config = about, OmegaConf.to_yaml(config, resolve=True)
        print(describe_plan(trainer, data), flush=True)
    try:
        trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    except UnwritableError as error:
        saved = getattr(callbacks.get("checkpoint"), "saved", None)
        raise UserError(f"{error}; last good checkpoint: {saved or 'none'}") from error
    except RuntimeError as error:
        if killed := str(error).startswith("DataLoader worker"):
            data.check_unchanged()  # reading a corpus that was cut short ends a worker by SIGBUS
        if not killed and not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise UserError(str(error)) from error
    if trainer.is_global_zero:
        recorder.write(trainer)  # a resumed run that had no steps left
        demo = hydra_config.runtime.choices.get("experiment") == "demo"
        stopped = time_limit_message(trainer, "README's" if demo else "those of the full run")
        record_end(folder, trainer.global_step, stopped)
        if stopped:
            print(stopped, flush=True)
    # at a test, these would load the weights that are not averaged
    trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, WeightAveraging)]
    best = trainer.strategy.broadcast(str(checkpoints / BEST) if (checkpoints / BEST).exists() else None)
    if data.evaluated_splits():
        trainer.test(task, data, ckpt_path=best, weights_only=True, verbose=False)
    usable = task.written or best or (str(checkpoints / LAST) if (checkpoints / LAST).exists() else None)
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.log_results(task.results, usable)
    if trainer.is_global_zero and announce:
        print(f"everything is in {folder}" + (f"; use the model as --model {usable}" if usable else ""))
    score = getattr(callbacks.get("best"), "best_model_score", None)
    return math.inf if score is None else float(score)


def check_parts(config: DictConfig) -> None:
    """Makes what a run needs besides its data and its model, to find wrong options early; a small model stands in.

    Args:
        config: composed by Hydra.
    """
    check_options(config.seed, config.trainer)
    instantiate(config.data, _convert_="all")
    instantiate_each("callbacks", config.callbacks)
    small = Performer(PerformerConfig(PROTEIN.size, PROTEIN.pad, layers=1, width=8, heads=1, feed_forward=8))
    optimizer, schedule = instantiate(config.optimizer, _convert_="all", _partial_=True), config.schedule
    config.task.attention_backend = "auto"  # depends on the model
    checked("task", lambda: instantiate(config.task)(small, optimizer, instantiate_schedule(schedule)), TrainingTask)


def set_by_user() -> tuple[set[str], set[str]]:
    """Names of the options in the user's own configuration files, and of those on the command line."""
    about = HydraConfig.get()
    # as they were given: read one by one, interpolations such as ${optimizer} would be resolved
    given: Any = OmegaConf.to_container(about.overrides, resolve=False)
    overrides = [*given["task"], *given["hydra"]]
    loader = GlobalHydra.instance().config_loader()
    files = loader.compute_defaults_list(about.job.config_name, overrides, RunMode.RUN).defaults
    folders = [source.path for source in about.runtime.config_sources if source.schema == "file"]
    own = own_options([(file.config_path, file.package) for file in files if file.config_path], folders)
    return own, {override.lstrip("+").partition("=")[0] for override in given["task"]}


def network(node: DictConfig, data: DictConfig) -> Performer:
    """A new network, from a node that makes a `PerformerConfig`, or a trained one, from a node that loads it.

    The first takes the vocabulary of the data.
    """
    module = data_module(data)
    if not issubclass(module, TremblDataModule) or "vocab_size" not in parameters_of(get_object(node._target_)):
        return of_kind("model", instantiate(node), Performer)
    alphabet = corpus_alphabet(data.get("corpus"), data.get("alphabet"))
    sizes = {"vocab_size": alphabet.size, "pad_id": alphabet.pad, "start_id": module.batches.start_of(alphabet)}
    settings = instantiate(node, **sizes)
    if alphabet != PROTEIN and isinstance(settings, PerformerConfig):
        settings = replace(settings, alphabet=describe(alphabet))
    return Performer(of_kind("model", settings, PerformerConfig))


def data_module(node: DictConfig) -> type[TrainingData]:
    """The class of the data module."""
    found = get_object(node._target_)
    if not isinstance(found, type) or not issubclass(found, TrainingData):
        expected = f"{TremblDataModule.__module__}.{TremblDataModule.__qualname__}"
        raise UserError(f"data: expected a subclass of {expected}, got {node._target_}; see data._target_")
    return found


def prepared(node: DictConfig, everywhere: bool = False) -> Any:
    """The data module, with its corpus, which the first rank of each node makes; with `everywhere`, all wait for it."""
    data = instantiate(node, _convert_="all")
    if everywhere or os.environ.get("LOCAL_RANK", "0") == "0":
        data.prepare_data()  # before Lightning, which would report Ctrl-C as an error
    return data


def instantiate_each(group: str, node: DictConfig | None) -> dict[str, Any]:
    """The objects of a group that has several, by name; a node with `_target_` is a single object."""
    nodes = {"": node} if node and "_target_" in node else node or {}
    for name, each in nodes.items():
        if each and not (isinstance(each, DictConfig) and "_target_" in each):
            raise UserError(f"{group}.{name}: expected an object with a _target_, as in +{group}.{name}._target_=CLASS")
    return {str(name): instantiate(each) for name, each in nodes.items() if each}


def instantiate_schedule(node: DictConfig | None) -> Any:
    """A schedule, or a partial that makes it from an optimizer."""
    partial: Any = instantiate(node, _convert_="all", _partial_=True) if node else None
    return partial if takes_optimizer(partial) else instantiate(node, _convert_="all")
