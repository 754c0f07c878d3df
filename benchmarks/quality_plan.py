"""What a benchmark will train: each run's options, and the recipe by which its results are known again.

A work folder holds plan.json and a folder for each run. A run is done if its folder has results and says that it was
made with the recipe of the plan; anything else is begun or gone on with.
"""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.performer import Performer
from protlm.sequence.alphabet import PAD, TOKENS
from protlm.train import CONF

PLAN = "plan.json"
EFFORT = "effort.json"
QUIET = ["trainer.enable_progress_bar=false", "callbacks.curve=null"]
_ELSEWHERE = ("ckpt_path", "logger", "callbacks")
"""Parts of a configuration that do not change what is learned, but for the callbacks that `recipe` keeps."""


@dataclass(frozen=True)
class Run:
    """One call of `python -m protlm.train`.

    Args:
        name: of its folder within the work folder, such as families/causal/relu/1.
        corpus: what it is trained on.
        overrides: its options, without those of folders and corpus.
    """

    name: str
    corpus: Path
    overrides: tuple[str, ...]

    def arguments(self, folder: Path) -> list[str]:
        """All options, but for `ckpt_path`."""
        effort = f"+callbacks.effort={{_target_:benchmarks.quality_runs.Effort,path:'{folder / EFFORT}'}}"
        place = [f"data.corpus='{self.corpus.resolve()}'", f"hydra.run.dir='{folder}'"]
        return [*self.overrides, *QUIET, effort, *place]


def composed(overrides: Sequence[str], folder: Path = Path(".")) -> DictConfig:
    """The configuration that `protlm.train` makes of its options.

    Raises:
        UserError: for options that it would refuse.
    """
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            config = compose("config", list(overrides), return_hydra_config=True)
    except Exception as error:  # of Hydra, OmegaConf and the grammar of overrides
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{said[0]} (options: {shlex.join(overrides)})") from error
    config.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(config)
    return config


def build(config: DictConfig) -> Performer:
    """The model of a configuration, with random weights.

    Raises:
        UserError: for a model that cannot be made.
    """
    start = get_class(config.data._target_).batches.start
    try:
        return Performer(instantiate(config.model, vocab_size=len(TOKENS), pad_id=PAD, start_id=start)).train()
    except Exception as error:  # Hydra's, around that of the model
        raise UserError(" ".join(str(error.__cause__ or error).split())) from error


def check_models(runs: Iterable[Run]) -> None:
    """Makes sure, before anything is prepared or trained, that there are such options and such models.

    Raises:
        UserError: if not.
    """
    different = {tuple(option for option in run.overrides if not option.startswith("seed=")) for run in runs}
    for overrides in sorted(different):
        build(composed(overrides))


def recipe_of(config: DictConfig, fingerprints: Sequence[str] = ()) -> dict[str, Any]:
    """`recipe` of what `composed` gives."""
    config = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    return recipe(json.loads(json.dumps(OmegaConf.to_container(config, resolve=True))), fingerprints)


def recipe(config: dict[str, Any], fingerprints: Sequence[str]) -> dict[str, Any]:
    """What a result depends on, flat: name -> value; two runs with the same recipe are the same but for the machine.

    Args:
        config: resolved, of a plan or from run.json.
        fingerprints: of the corpora.
    """
    known = {name: part for name, part in config.items() if name not in (*_ELSEWHERE, "hydra")}
    known["model"] = dict(config["model"])
    if not known["model"].get("local_heads"):  # then what an earlier version, without them, has trained
        for name in ("local_heads", "local_window"):
            known["model"].pop(name, None)
    known["data"] = {**config["data"], "corpus": list(fingerprints)}
    known["data"].pop("workers")
    known["init"] = config.get("init") and Path(config["init"]).name  # named by its content
    for name in ("redraw", "along"):  # those that act on the model, or say what is measured
        if part := (config["callbacks"] or {}).get(name):
            known[name] = {key: value for key, value in part.items() if key != "path"}
    return dict(_flat(known))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@dataclass(frozen=True)
class Plan:
    """The runs of a work folder.

    Args:
        recipes: name of the run -> its recipe.
        ignored: names of options that are not compared, such as those that a newer version has added.
    """

    recipes: dict[str, dict[str, Any]]
    ignored: tuple[str, ...] = ()

    def changes(self, name: str, folder: Path) -> dict[str, tuple[Any, Any]]:
        """Option -> (value of what is in a run's folder, value of the plan), where they differ; all if unreadable."""
        try:
            about = json.loads((folder / "run.json").read_text())
            made = recipe(about["config"], about["corpus_fingerprint"])
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            made = {}
        wanted = self.recipes[name]
        names = [option for option in {**wanted, **made} if option not in self.ignored]
        return {
            n: (made.get(n), wanted.get(n)) for n in names if (n in made, made.get(n)) != (n in wanted, wanted.get(n))
        }

    def is_done(self, name: str, work: Path) -> bool:
        """Whether a run has its results, made as planned."""
        files = all((work / name / file).exists() for file in ("results.json", EFFORT))
        return files and not self.changes(name, work / name)


def write_plan(runs: Sequence[Run], work: Path, redo: bool = False, ignored: Sequence[str] = ()) -> Plan:
    """Puts runs into plan.json; others that are there stay.

    Args:
        runs: of which each name is given once.
        work: the work folder.
        redo: take runs that were made with other options for nothing; their files are put aside when they begin anew.
        ignored: see `Plan`.

    Raises:
        UserError: for options that Hydra refuses, a corpus that is missing, and, without `redo`, runs in the folder
            that were made with other options.
    """
    before = read_plan(work).recipes if (work / PLAN).exists() else {}
    fingerprints = {path: Corpus(path).fingerprint for path in {run.corpus for run in runs}}
    recipes = {}
    for run in runs:
        folder = (work / run.name).resolve()
        config = composed(run.arguments(folder), folder)
        recipes[run.name] = recipe_of(config, [fingerprints[run.corpus]])
    plan = Plan({**before, **recipes}, tuple(ignored))
    odd = {name: plan.changes(name, work / name) for name in recipes if (work / name / "run.json").exists()}
    odd = {name: changes for name, changes in odd.items() if changes}
    if odd and not redo:
        changes = next(iter(odd.values()))
        first = ", ".join(f"{option} {was} is now {now}" for option, (was, now) in list(changes.items())[:3])
        raise UserError(
            f"{work}: {len(odd)} runs there were made with other options ({next(iter(odd))}: {first}); name another "
            "--work, or train them anew with --redo, or leave options out of the comparison with --ignore"
        )
    work.mkdir(parents=True, exist_ok=True)
    with atomic_output(work / PLAN) as partial:
        partial.write_text(json.dumps(asdict(plan), indent=1) + "\n")
    return plan


def read_plan(work: Path) -> Plan:
    """What `write_plan` has written.

    Raises:
        UserError: if there is no plan, or something else.
    """
    path = work / PLAN
    try:
        stored = json.loads(path.read_text())
        recipes, ignored = stored["recipes"], tuple(stored["ignored"])
        if all(isinstance(found, dict) for found in (recipes, *recipes.values())):
            return Plan(recipes, ignored)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; begin with the sub-command that trains") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path}: not a plan of this program; remove it, and train again: finished runs stay")
