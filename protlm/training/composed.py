"""A run started from Python: the same configuration, training and records as `python -m protlm.train`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from protlm.training.command import accepted, errors_of_options, quiet_lightning
from protlm.training.from_config import check_parts, train
from protlm.training.options import CONF
from protlm.training.run import lock_run_folder, run_name


@contextmanager
def _composed(overrides: Sequence[str], folder: Path) -> Iterator[Any]:
    """The configuration of a run in `folder`; errors of options are raised as `UserError`."""
    GlobalHydra.instance().clear()
    output = f"hydra.runtime.output_dir={folder.resolve()}"
    with errors_of_options(), initialize_config_dir(version_base="1.3", config_dir=str(CONF.resolve())):
        config: Any = compose("config", [*accepted(list(overrides)), f"++{output}"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        yield config


def check_composed(overrides: Sequence[str]) -> None:
    """Checks options before labels and models are read, as far as that is possible.

    Args:
        overrides: options as on the command line.

    Raises:
        UserError: for options that are unknown, or have values that cannot be used.
    """
    with _composed(overrides, Path()) as config:
        check_parts(config)


def run_composed(overrides: Sequence[str], folder: Path) -> float:
    """Trains and tests a model in this process; see `train`.

    Args:
        overrides: options as on the command line.
        folder: of the run; made if necessary.

    Raises:
        UserError: for options that cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    quiet_lightning()
    os.environ.setdefault("PROTLM_RUN", run_name())
    with _composed(overrides, folder) as config, lock_run_folder(folder, remove_unused=False):
        return train(config, announce=False)
