"""Options and choices that the configuration does not have, and what was probably meant."""

import inspect
import pydoc
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from protlm.errors import no_model

CONF = Path(__file__).parents[1] / "conf"  # in a wheel
if not CONF.is_dir():
    CONF = Path(__file__).parents[2] / "conf"  # in a checkout
LIST = "'python -m protlm.train --help' lists all; one that only a class of your own takes is added with a + before it"
WORDS = {
    "batch_size": "data.token_budget",
    "epochs": "trainer.max_epochs",
    "gpus": "trainer.devices",
    "learning_rate": "optimizer.lr",
    "resume": "ckpt_path",
    "steps": "trainer.max_steps",
}
"""Names of options in other programs."""
_CHOICE = re.compile(r"Could not (?:find|load) '(?!hydra/)([^']+)/([^/']+)'(?: Available options in '\S+ (.*))?")
_MODELS = ("model.path", "model.teacher")
"""Options without a default that take a trained model."""
_UNEXPECTED = re.compile(r"(?:([\w.+/]+): )?(?:\S+ )?got an unexpected keyword argument '(\w+)'")


def explained(message: str, conf: Path) -> str:
    """A message of Hydra about an option or choice in the words of this program; other messages are only shortened.

    That of an error in a worker of a DataLoader loses its traceback.

    Args:
        message: the message of an exception.
        conf: folder of the configuration.
    """
    # Hydra's search path, and its advice to append unknown options, do not help here
    message = re.sub(r"To append to your config use \S+|Config search path:.*", "", message, flags=re.DOTALL)
    if message.startswith("Caught UserError in DataLoader worker"):
        message = message.rpartition("UserError: ")[2]
    message = " ".join(message.split())
    if plugin := re.search(r"Could not load 'hydra/\w+/(submitit|optuna)", message):
        extra = "slurm" if plugin[1] == "submitit" else "optuna"
        return f"{message} Install it: pip install -e '.[{extra}]' -c constraints.txt"
    if found := re.search(r"Could not override '([^']+)'\. No match", message):
        return (
            f"{found[1]}: has no default; use +{found[1]}=NAME" if choices(conf, found[1]) else unknown(found[1], conf)
        )
    if found := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", message):
        return unknown(found[1], conf)
    if found := _CHOICE.search(message):
        return unknown_choice(found[1], found[2], (found[3] or "").split() or choices(conf, found[1]))
    if found := _UNEXPECTED.search(message):
        name = f"{found[1]}.{found[2]}" if found[1] else found[2]
        known = any(name == one for one, _ in known_options(conf))
        return f"{found[1]}: takes no option {found[2]!r}; leave it out with ~{name}" if known else unknown(name, conf)
    if found := re.search(r"Missing mandatory value: (\S+)", message):
        option = found[1]
        if option in _MODELS:
            return str(no_model(f"{option}=MODEL, a model folder or a checkpoint (.ckpt)"))
        return f"{option}: none given, and there is no default; write {option}=VALUE"
    if found := re.search(r"Error parsing override '(.*?)' missing EQUAL", message):
        return f"{found[1]!r}: expected OPTION=VALUE, without spaces"
    return message


def unknown(name: str, conf: Path) -> str:
    """The message about an unknown option."""
    known = dict(known_options(conf))
    group, (parent, _, last) = name.partition(".")[0], name.rpartition(".")
    if name in known:
        found = [one for one in choices(conf, group) if name in dict(known_options(conf, f"{group}/{one}.yaml"))]
        return f"{name}: not in this configuration; it is an option of {group}={' and '.join(found) or 'NAME'}"
    path = known.get(f"{parent}._target_")
    target: Any = pydoc.locate(path) if path else None
    if callable(target) and last in inspect.signature(target).parameters:
        return f"{name}: is not in the configuration; to add it, write +{name}=VALUE"
    return f"unknown option {name!r}; {meant(name, [one for one in known if not one.endswith('_')]) or LIST}"


def meant(name: str, known: Sequence[str]) -> str:
    """A question after a misspelt name; empty if nothing is similar.

    >>> meant("optimizer.lrr", ["optimizer.lr", "seed"]), meant("lr", ["optimizer.lr", "seed"]), meant("x", ["seed"])
    ('did you mean optimizer.lr?', 'did you mean optimizer.lr?', '')
    """
    found = [WORDS[name]] if name in WORDS else [one for one in known if one.endswith(f".{name}")]
    found = found or get_close_matches(name, known, n=1, cutoff=0.75)
    return f"did you mean {' or '.join(found[:3])}?" if found else ""


def unknown_choice(group: str, name: str, options: Sequence[str]) -> str:
    """The message about a file that a group does not have."""
    question = meant(name, options)
    return f"{group} {name!r}: " + (f"{question} " if question else "") + f"expected one of {', '.join(options)}"


def choices(conf: Path, group: str) -> list[str]:
    """The files of a group."""
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))


def known_options(conf: Path, pattern: str = "**/*.yaml") -> Iterator[tuple[str, Any]]:
    """The options of all groups with their values, and the groups themselves; or those of some files."""
    for path in sorted(conf.glob(pattern)):
        group = path.relative_to(conf).parent.parts
        if group[:1] not in (("hydra",), ("experiment",)):
            content = yaml.safe_load(path.read_text()) or {}
            yield from _flat({name: x for name, x in content.items() if name not in ("defaults", "hydra")}, group)


def own_options(files: Iterable[tuple[str, str | None]], folders: Iterable[str]) -> set[str]:
    """Names of the options in those files of a configuration that are not protlm's.

    Args:
        files: group/NAME and package of each file.
        folders: configuration folders, in the order in which they are searched.
    """
    found: set[str] = set()
    for file, package in files:
        path = next((path for folder in folders if (path := Path(folder, f"{file}.yaml")).is_file()), None)
        if path and CONF.resolve() not in path.resolve().parents:
            content = yaml.safe_load(path.read_text()) or {}
            found.update(name for name, _ in _flat(content, package.split(".") if package else ()))
    return found


def _flat(node: dict[str, Any], prefix: Sequence[str]) -> Iterator[tuple[str, Any]]:
    if prefix:
        yield ".".join(prefix), None
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, (*prefix, name))
        else:
            yield ".".join((*prefix, name)), value
