"""`python -m protlm.train`: composes the Hydra configuration, builds everything, trains and tests. It only wires."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import seed_everything
from yaml import YAMLError

from protlm.checkpoint import resume_point
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.sequence.alphabet import PAD, TOKENS
from protlm.training.task import LanguageModelTask

CONF = Path(__file__).parent / "conf"  # in a wheel
if not CONF.is_dir():
    CONF = Path(__file__).parent.parent / "conf"  # in a checkout


@dataclass
class Config:
    """The root of the configuration: any other name is refused."""

    model: Any = MISSING
    data: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    callbacks: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = None
    seed: int = 1
    ckpt_path: str | None = None


ConfigStore.instance().store("schema", Config)


def train(config: DictConfig) -> None:
    """Trains, tests, and says where everything is."""
    if odd := set(config) - {field.name for field in fields(Config)}:
        raise UserError(f"unknown option {', '.join(map(str, sorted(odd)))}; expected one of those in conf/config.yaml")
    if config.seed < 0:
        raise UserError(f"seed {config.seed}: expected a whole number from 0")
    folder = Path(HydraConfig.get().runtime.output_dir)
    seed_everything(config.seed, workers=True, verbose=False)
    model = Performer(instantiate(config.model, vocab_size=len(TOKENS), pad_id=PAD))
    optimizer, schedule = instantiate(config.optimizer, _convert_="all"), instantiate(config.schedule)
    task = LanguageModelTask(model, optimizer, schedule)
    callbacks = {name: instantiate(node) for name, node in config.callbacks.items() if node}
    trainer = instantiate(config.trainer, logger=instantiate(config.logger), callbacks=list(callbacks.values()))
    # last, so that no other mistake hides behind missing data
    data = instantiate(config.data, _convert_="all")
    if os.environ.get("LOCAL_RANK", "0") == "0":
        data.prepare_data()  # before Lightning, which would take Ctrl-C for an error of its own
    resume = resume_point(config.ckpt_path, folder / "checkpoints" / "last.ckpt")
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    best = getattr(callbacks.get("best"), "best_model_path", "")
    if Path(best).parent != folder / "checkpoints" or not Path(best).is_file():
        best = ""  # a checkpoint of another folder remembers the best of that one
    if data.evaluated_splits():
        trainer.test(task, data, ckpt_path=best or None, weights_only=True, verbose=False)
    if trainer.is_global_zero:
        print(f"everything is in {folder}; use the model as --model {best or folder / 'checkpoints' / 'last.ckpt'}")


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """A mistake of the user's is printed in one line and ends the program with code 2."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, HydraException, OmegaConfBaseException, YAMLError) as error:
        message = str(error)
        if isinstance(error, InstantiationException) and error.__cause__:
            where = "" if isinstance(error.__cause__, UserError) else message.rpartition("full_key: ")[2] + ": "
            message = f"{where}{error.__cause__}"
        # Hydra's advice to append what it does not know, and its search path, help nobody here
        message = re.sub(r"To append to your config use \S+|Config search path:.*", "", message, flags=re.DOTALL)
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """The command; without arguments it trains the demo."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed with a stack trace
    if len(sys.argv) == 1:
        sys.argv.append("+experiment=demo")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    with mistakes_in_one_line():
        # once more inside, since Hydra would print its own lines about an error in the job
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(mistakes_in_one_line()(train))()


if __name__ == "__main__":
    main()
