"""The command `python -m protlm.train`: its arguments, errors and exit codes, and the table of a multirun."""

import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from protlm.corpus.truncation import truncation_in_one_line
from protlm.errors import UserError
from protlm.training.checkpoints import REQUEUE, exit_on_signal
from protlm.training.from_config import train
from protlm.training.multirun import TABLE, format_jobs, read_jobs, write_jobs
from protlm.training.options import CONF, choices, explained
from protlm.training.run import is_first, lock_run_folder, run_name

OPTIONAL = {"callbacks": "~callbacks", "schedule": "~schedule", "logger": "logger=[]"}
"""Groups that can be left out, and how Hydra wants that to be said."""
REPLACED = ("optimizer", "schedule", "logger")
"""Groups of which a `_target_` on the command line leaves nothing."""
WITH_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p")
"""Flags of Hydra that are followed by a value."""


class MultirunTable(Callback):
    """Prints and writes a table of all runs at the end of a multirun, however it ends."""

    _pending: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        MultirunTable._pending = Path(config.hydra.sweep.dir)

    @classmethod
    def show(cls) -> None:
        """Writes and prints the table if a multirun has started."""
        folder, cls._pending = cls._pending, None
        if folder and is_first() and (jobs := read_jobs(folder)):
            write_jobs(jobs, folder / TABLE)
            print(f"{format_jobs(jobs)}\ntable written to {folder / TABLE}", flush=True)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Prints a user error in one line and exits with code 2."""
    try:
        with errors_of_options():
            yield
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def errors_of_options() -> Iterator[None]:
    """Raises what is wrong with the configuration as a `UserError` that names the option."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, YAMLError, MisconfigurationException) as error:
        message = error.renamed("data.{}".format) if isinstance(error, UserError) else str(error)
        if isinstance(error, InstantiationException) and (cause := error.__cause__):
            where = message.rpartition("full_key: ")[2]
            said = cause.renamed("data.{}".format) if isinstance(cause, UserError) else str(cause)
            # the parts of protlm name their options themselves
            own = isinstance(cause, UserError) or said.startswith(f"{where}.")
            message = said if own else f"{where}: {said}"
        elif message.startswith("Error merging override") and error.__context__:
            message = f"{message.removeprefix('Error merging override ')}: {str(error.__context__).splitlines()[0]}"
        raise UserError(explained(message, CONF)) from error


def job(config: DictConfig) -> float:
    """`train`, as called by Hydra, in this process or in that of a launcher."""
    quiet_lightning()
    folder, multirun = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().mode == RunMode.MULTIRUN
    # in a multirun, an error ends only this job and is reported after the last one; otherwise it is reported here,
    # before Hydra adds its own lines
    reporting = nullcontext() if multirun else errors_in_one_line()
    with reporting, lock_run_folder(folder, remove_unused=not multirun) if is_first() else nullcontext():
        return train(config)


def quiet_lightning() -> None:
    """Silences what Lightning says about ordinary runs; the rest reaches the log of the run, too."""
    lightning = logging.getLogger("pytorch_lightning")
    lightning.setLevel(logging.WARNING)
    if logging.getLogger().hasHandlers():  # Hydra's; without any, as when it was imported, Lightning has its own
        lightning.handlers.clear()
        lightning.propagate = True
    for name in ("profilers", "callbacks"):  # these report when they are configured to
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # its output is never changed in place


def accepted(arguments: list[str]) -> list[str]:
    """The command line in the form that Hydra accepts.

    Hydra rejects GROUP=null and GROUP=false, and flags such as `-m` between other arguments; and would pass the
    options of the default optimizer or schedule to another one that is named by `_target_`.
    """
    flags = [i for i, one in enumerate(arguments) if one.startswith("-") and "." not in one.partition("=")[0]]
    flags += [i + 1 for i in flags if arguments[i] in WITH_VALUE]
    first = [one for i, one in enumerate(arguments) if i in flags]
    arguments = [*first, *(one for i, one in enumerate(arguments) if i not in flags)]
    own = {name for name in REPLACED if any(re.match(rf"\+?{name}(\._target_=|=\{{)", one) for one in arguments)}
    own = {name for name in own if not any(re.match(rf"~{name}$|{name}=[^{{]", one) for one in arguments)}
    result = [OPTIONAL.get(name, f"~{name}") for name in sorted(own)]
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--") and "." in name:
            raise UserError(f"{argument}: options have no dashes; write {argument.lstrip('-')}")
        if name.lstrip("+") == "hydra.job.name" and os.sep in value:  # names a file in the folder of the run
            raise UserError(f"{argument}: expected a name without {os.sep!r}; the run's folder is hydra.run.dir")
        if name.partition(".")[0] in own:
            result.append(f"++{argument}")
        elif not equals or value.lower() not in ("null", "none", "false", "true", ""):
            result.append(argument)
        elif value.lower() != "true" and name in OPTIONAL:
            result.append(OPTIONAL[name])
        elif found := choices(CONF, name):
            raise UserError(f"{argument}: expected {name}=NAME, with one of {', '.join(found)}")
        else:
            result.append(argument)
    return result


def main() -> None:
    """Entry point; without arguments it trains the demo."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are raised to here instead of printed with a stack trace
    os.environ["PROTLM_RUN"] = run_name()  # for the folder names in conf/config.yaml
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, *REQUEUE):
            signal.signal(number, exit_on_signal)
    if len(sys.argv) == 1:
        sys.argv.append("+experiment=demo")
    with errors_in_one_line(), truncation_in_one_line():
        sys.argv[1:] = accepted(sys.argv[1:])
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
        finally:
            MultirunTable.show()
