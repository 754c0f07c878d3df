import ast
import inspect
import pickle
from pathlib import Path

import pytest
import typer

import protlm
from protlm.cli import _options, app
from protlm.errors import UserError


@pytest.mark.parametrize(
    ("message", "arguments", "renamed"),
    [
        ("identifier 'identifier': expected one of x", ["identifier"], "--id 'identifier': expected one of x"),
        ("overwrite.h5: already exists, set overwrite", ["overwrite"], "overwrite.h5: already exists, set --overwrite"),
        ("min_length 3: above max_length, 2", ["min_length", "max_length"], "--min-length 3: above --max-length, 2"),
        ("seed -1", [], "seed -1"),
        ("seed -1", ["share"], "seed -1"),
    ],
)
def test_arguments_become_options(message: str, arguments: list[str], renamed: str) -> None:
    error = UserError(message, *arguments)
    options = {"identifier": "--id"}

    def option(name: str) -> str:
        return options.get(name, f"--{name.replace('_', '-')}")

    assert (str(error), error.renamed(option)) == (message, renamed)
    assert pickle.loads(pickle.dumps(error)).renamed(option) == renamed  # from a worker process
    wrapped = UserError(f"while reading: {message}")
    wrapped.__cause__ = error
    assert wrapped.renamed("<{}>".format).count("<") == len([a for a in arguments if a in message])


def named_arguments() -> dict[str, set[str]]:
    """Literal names of arguments in the package's UserErrors, by file."""
    found: dict[str, set[str]] = {}
    for path in Path(inspect.getfile(protlm)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                names = {a.value for a in node.args[1:] if isinstance(a, ast.Constant)}
                if names:
                    found.setdefault(path.parent.name, set()).update(names)
    return found


# options of training alone
TRAINING = {"sample_by", "weights", "min_cluster_size", "reverse_complement"}


def test_every_argument_named_in_an_error_is_an_option_of_a_command() -> None:
    command = typer.main.get_command(app)
    known = {parameter.name for each in command.commands.values() for parameter in each.params}  # type: ignore[attr-defined]
    named = set().union(*named_arguments().values())
    assert len(named) > 20
    assert named - known <= TRAINING


def test_options_are_those_of_the_command_that_runs(monkeypatch) -> None:
    command = typer.main.get_command(app)
    for argv, identifier, offset in (
        (["protlm", "prepare"], "--id", "offset"),
        (["protlm", "score"], "identifier", "--offset"),
        (["protlm"], "identifier", "offset"),
    ):
        monkeypatch.setattr("sys.argv", argv)
        option = _options(command)
        assert (option("identifier"), option("offset")) == (identifier, offset)
