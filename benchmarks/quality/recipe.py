"""The runs of a comparison: the options of each, and the recipe by which a finished run is recognised.

A work folder holds one folder per run, as `python -m protlm.train` writes it, and no other record of the comparison. A
run is done if its folder has results and its run.json has the recipe that is requested; otherwise it starts or resumes.
"""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from protlm.corpus.reader import Corpus
from protlm.errors import UserError, counted
from protlm.performer import Performer
from protlm.sequence.alphabet import PAD, TOKENS
from protlm.training import from_config  # noqa: F401 - it registers the schema
from protlm.training.options import CONF

EFFORT = "effort.json"
QUIET = ["trainer.enable_progress_bar=false", "callbacks.curve=null"]
_IRRELEVANT = ("ckpt_path", "logger", "callbacks", "hydra")
"""Parts of a configuration that do not change the result, except for the callbacks that `recipe` keeps."""


@dataclass(frozen=True)
class Run:
    """One call of `python -m protlm.train`.

    Args:
        name: its folder within the work folder, such as families/causal/relu/1.
        corpus: the corpus to train on.
        overrides: its options, except those for the folder and the corpus.
    """

    name: str
    corpus: Path
    overrides: tuple[str, ...]

    def arguments(self, folder: Path) -> list[str]:
        """All options except `ckpt_path`."""
        effort = f"+callbacks.effort={{_target_:benchmarks.quality.runs.Effort,path:'{folder / EFFORT}'}}"
        paths = [f"data.corpus='{self.corpus.resolve()}'", f"hydra.run.dir='{folder}'"]
        return [*self.overrides, *QUIET, effort, *paths]


def composed(overrides: Sequence[str], folder: Path = Path(".")) -> DictConfig:
    """The configuration that `protlm.train` composes from its options.

    Raises:
        UserError: if `protlm.train` would refuse the options.
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
        UserError: if the configuration is not that of a model.
    """
    start = get_class(config.data._target_).batches.start
    try:
        return Performer(instantiate(config.model, vocab_size=len(TOKENS), pad_id=PAD, start_id=start)).train()
    except Exception as error:  # Hydra's, which wraps the model's
        raise UserError(" ".join(str(error.__cause__ or error).split())) from error


def check_models(runs: Iterable[Run]) -> None:
    """Checks the options and the model of every run, before anything is prepared or trained.

    Raises:
        UserError: if any of them is invalid.
    """
    for overrides in sorted({tuple(o for o in run.overrides if not o.startswith("seed=")) for run in runs}):
        build(composed(overrides))


def recipe_of(config: DictConfig, fingerprints: Sequence[str] = ()) -> dict[str, Any]:
    """`recipe` of a configuration from `composed`."""
    config = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    return recipe(json.loads(json.dumps(OmegaConf.to_container(config, resolve=True))), fingerprints)


def recipe(config: dict[str, Any], fingerprints: Sequence[str]) -> dict[str, Any]:
    """Everything a result depends on, flat: name -> value. Runs with equal recipes differ at most by the machine.

    Args:
        config: a resolved configuration, composed or from run.json.
        fingerprints: those of the corpora.
    """
    known = {name: part for name, part in config.items() if name not in _IRRELEVANT}
    known["model"] = dict(config["model"])
    if not known["model"].get("local_heads"):  # equals a model of a version without local heads
        for name in ("local_heads", "local_window"):
            known["model"].pop(name, None)
    known["data"] = {**config["data"], "corpus": list(fingerprints)}
    known["data"].pop("workers")
    known["data"].pop("packed", None)  # with or without padding, results are the same but for rounding
    known["init"] = config.get("init") and Path(config["init"]).name  # named by its content
    for name, left_out in (("redraw", ()), ("along", ("path", "_target_"))):  # callbacks that change results
        if part := (config["callbacks"] or {}).get(name):
            known[name] = {key: value for key, value in part.items() if key not in left_out}
    return dict(_flat(known))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def recipe_in(folder: Path) -> dict[str, Any]:
    """The recipe of the run in a folder; empty if there is none or its run.json is unreadable."""
    try:
        about = json.loads((folder / "run.json").read_text())
        return recipe(about["config"], about["corpus_fingerprint"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def has_results(folder: Path) -> bool:
    """Whether the run in a folder has finished."""
    return all((folder / file).exists() for file in ("results.json", EFFORT))


@dataclass(frozen=True)
class Comparison:
    """The requested runs and their recipes.

    Args:
        work: the work folder.
        recipes: name of a run -> its recipe.
        ignored: options left out of the comparison with earlier runs, such as those added by a newer version.
    """

    work: Path
    recipes: dict[str, dict[str, Any]]
    ignored: tuple[str, ...] = ()

    def changes(self, name: str) -> dict[str, tuple[Any, Any]]:
        """Option -> (value in the run's folder, value requested), where they differ."""
        made, expected = recipe_in(self.work / name), self.recipes[name]
        names = [option for option in {**expected, **made} if option not in self.ignored]
        pairs = {option: (made.get(option), expected.get(option)) for option in names}
        return {n: pair for n, pair in pairs.items() if pair[0] != pair[1] or (n in made) != (n in expected)}

    def is_done(self, name: str) -> bool:
        """Whether a run has finished with the requested recipe."""
        return has_results(self.work / name) and not self.changes(name)


def compared(runs: Sequence[Run], work: Path, redo: bool = False, ignored: Sequence[str] = ()) -> Comparison:
    """Composes the recipe of each run and checks it against the work folder.

    Args:
        runs: with unique names.
        work: the work folder.
        redo: start runs again that were made with other options; their files are set aside.
        ignored: see `Comparison`.

    Raises:
        UserError: for options that Hydra refuses, a missing corpus and, without `redo`, runs in the folder that were
            made with other options.
    """
    fingerprints = {path: Corpus(path).fingerprint for path in {run.corpus for run in runs}}
    recipes = {}
    for run in runs:
        folder = (work / run.name).resolve()
        recipes[run.name] = recipe_of(composed(run.arguments(folder), folder), [fingerprints[run.corpus]])
    comparison = Comparison(work, recipes, tuple(ignored))
    there = [name for name in recipes if (work / name / "run.json").exists()]
    odd = {name: changes for name in there if (changes := comparison.changes(name))}
    if odd and not redo:
        name, changes = next(iter(odd.items()))
        first = ", ".join(f"{option} {was} is now {now}" for option, (was, now) in list(changes.items())[:3])
        raise UserError(
            f"{work}: has {counted(len(odd), 'run')} with other options ({name}: {first}); choose another --work, "
            "train again with --redo, or leave options out of the comparison with --ignore"
        )
    return comparison
