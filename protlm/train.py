"""`python -m protlm.train`: composes the Hydra configuration, builds everything, trains and tests. It only wires."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in the seconds of the imports below

import logging
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import ProgressBar
from yaml import YAMLError

from protlm.errors import UserError
from protlm.files import UnwritableError
from protlm.performer import Performer
from protlm.sequence.alphabet import PAD, TOKENS
from protlm.training.checkpoints import BEST, LAST, WholeFiles, resume_point
from protlm.training.launch import is_first, run_name
from protlm.training.multirun import TABLE, format_jobs, read_jobs, write_table
from protlm.training.options import check_options
from protlm.training.record import claimed, describe_run, set_aside, write_run
from protlm.training.signals import REQUEUE, leave
from protlm.training.warm_start import begin_with

CONF = Path(__file__).parent / "conf"  # in a wheel
if not CONF.is_dir():
    CONF = Path(__file__).parent.parent / "conf"  # in a checkout


@dataclass
class Config:
    """The root of the configuration: any other name is refused."""

    model: Any = MISSING
    data: Any = MISSING
    task: Any = MISSING
    trainer: Any = MISSING
    logger: Any = None
    callbacks: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = None
    seed: int = 1
    init: str | None = None
    ckpt_path: str | None = None


ConfigStore.instance().store("schema", Config)


def train(config: DictConfig) -> float:
    """Trains, tests, and says where everything is; returns the best validation perplexity, infinity without."""
    if odd := set(config) - {field.name for field in fields(Config)}:
        raise UserError(f"unknown option {', '.join(map(str, sorted(odd)))}; expected one of those in conf/config.yaml")
    check_options(config.seed, config.trainer)
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    checkpoints = folder / "checkpoints"
    seed_everything(config.seed, workers=True, verbose=False)
    start = get_class(config.data._target_).batches.start
    model = Performer(instantiate(config.model, vocab_size=len(TOKENS), pad_id=PAD, start_id=start))
    optimizer, schedule = instantiate(config.optimizer, _convert_="all"), instantiate(config.schedule)
    task = instantiate(config.task)(model, optimizer, schedule)
    callbacks = {name: instantiate(node) for name, node in config.callbacks.items() if node}
    if not config.trainer.get("enable_progress_bar", True):
        callbacks = {name: one for name, one in callbacks.items() if not isinstance(one, ProgressBar)}
    loggers = [instantiate(node) for node in (config.logger or {}).values() if node]
    # requeueing is our StopOnSignal's: Lightning's writes its checkpoint in the middle of a step
    slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    plugins = [WholeFiles(), *([SLURMEnvironment(auto_requeue=False)] if slurm else [])]
    trainer = instantiate(config.trainer, logger=loggers, callbacks=list(callbacks.values()), plugins=plugins)
    # last, so that no other mistake hides behind missing data
    data = instantiate(config.data, _convert_="all")
    if os.environ.get("LOCAL_RANK", "0") == "0":
        data.prepare_data()  # before Lightning, which would take Ctrl-C for an error of its own
    resume = resume_point(config.ckpt_path, checkpoints)
    if config.init and not resume:
        begin_with(model, config.init)
    if trainer.is_global_zero:
        if not resume or Path(resume).parent.resolve() != checkpoints.resolve():
            set_aside(folder)
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        fingerprints = [corpus.fingerprint for corpus in data.corpora.corpora]
        about = describe_run(
            resolved, list(hydra_config.overrides.task), folder, fingerprints, resume, trainer.world_size
        )
        write_run(about, folder)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
        for logger in loggers:
            logger.log_hyperparams(about)
    try:
        trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    except UnwritableError as error:
        saved = getattr(callbacks.get("checkpoint"), "saved", None)
        raise UserError(f"{error}; last good checkpoint: {saved or 'none'}") from error
    best = trainer.strategy.broadcast(str(checkpoints / BEST) if (checkpoints / BEST).exists() else None)
    if data.evaluated_splits():
        trainer.test(task, data, ckpt_path=best, weights_only=True, verbose=False)
    for logger in loggers:
        logger.log_results(task.results, best or str(checkpoints / LAST))
    if trainer.is_global_zero:
        print(f"everything is in {folder}; use the model as --model {best or checkpoints / LAST}")
    score = getattr(callbacks.get("best"), "best_model_score", None)
    return math.inf if score is None else float(score)


class JointTable(Callback):
    """At the end of a multirun, however it ends, one table of its runs: on screen, and as a file in its folder."""

    _pending: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        JointTable._pending = Path(config.hydra.sweep.dir)

    @classmethod
    def show(cls) -> None:
        """Writes and prints the table, if a multirun has begun."""
        folder, cls._pending = cls._pending, None
        if folder and is_first() and (jobs := read_jobs(folder)):
            write_table(jobs, folder / TABLE)
            print(f"{format_jobs(jobs)}\nthis table is in {folder / TABLE}", flush=True)


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """A mistake of the user's is printed in one line and ends the program with code 2."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, HydraException, OmegaConfBaseException, YAMLError, MisconfigurationException) as error:
        message = str(error)
        if isinstance(error, InstantiationException) and error.__cause__:
            where = "" if isinstance(error.__cause__, UserError) else message.rpartition("full_key: ")[2] + ": "
            message = f"{where}{error.__cause__}"
        # Hydra's advice to append what it does not know, and its search path, help nobody here
        message = re.sub(r"To append to your config use \S+|Config search path:.*", "", message, flags=re.DOTALL)
        if plugin := re.search(r"Could not load 'hydra/\w+/(submitit|optuna)", message):
            extra = "slurm" if plugin[1] == "submitit" else "optuna"
            message += f" Install it: pip install -e '.[{extra}]' -c constraints.txt"
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


def job(config: DictConfig) -> float:
    """`train`, as Hydra calls it, in this process or in that of a launcher."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # its output is never changed in place
    folder, multirun = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().mode == RunMode.MULTIRUN
    # a mistake in one of several ends this job only, and is told behind the last one;
    # otherwise it is told here, since Hydra would print its own lines about it
    told = nullcontext() if multirun else mistakes_in_one_line()
    with told, claimed(folder, remove_unused=not multirun) if is_first() else nullcontext():
        return train(config)


def main() -> None:
    """The command; without arguments it trains the demo."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed with a stack trace
    os.environ["PROTLM_RUN"] = run_name()  # for the names of folders in conf/config.yaml
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, *REQUEUE):
            signal.signal(number, leave)
    if len(sys.argv) == 1:
        sys.argv.append("+experiment=demo")
    with mistakes_in_one_line():
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
        finally:
            JointTable.show()


if __name__ == "__main__":
    from protlm import train as module  # under its name, by which launchers and Hydra's callbacks know it

    module.main()
