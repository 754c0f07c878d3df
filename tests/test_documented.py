"""Commands, options and folders named in README and docs exist. README stays short."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from protlm.cli import app
from protlm.training import from_config  # noqa: F401 - it registers the schema
from protlm.training.datamodule import TremblDataModule
from protlm.training.options import CONF

ROOT = Path(__file__).parents[1]
EXTENDING = ROOT / "docs" / "extending"  # its commands use parts of the reader's own, which its own tests provide
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if EXTENDING not in path.parents]
COMMANDS = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]


def documented(text: str) -> list[list[str]]:
    """The arguments of each command line in the code blocks of a page."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "".join(block for language, block in blocks if not language).replace("\\\n", " ").split("\n")
    commands = r"(\$ |srun |zcat .* \| )?(protlm |python -m protlm\.train |torchrun )"
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if re.match(commands, line)]


def of_program(program: str) -> list[list[str]]:
    """The arguments after the name of a program, in all pages, each once."""
    found = [line for page in PAGES for line in documented(page.read_text(encoding="utf-8"))]
    after = [[*line[line.index(program) + 1 :], "|"] for line in found if program in line]
    after = [line[: line.index("|")] for line in after]  # not what the output is piped into
    return [list(line) for line in sorted({tuple(line) for line in after if line})]


def check_options(arguments: list[str]) -> None:
    """Raises click's error if the command or one of its options does not exist."""
    command = COMMANDS[arguments[0]]
    context = command.context_class(command, info_name=arguments[0])
    optional = re.compile(r"\[.*|.*\]")  # as in [--attention softmax]
    command.make_parser(context).parse_args([word for word in arguments[1:] if not optional.fullmatch(word)])


@pytest.mark.parametrize("arguments", of_program("protlm"), ids=" ".join)
def test_documented_commands_and_options_exist(arguments):
    if arguments != ["--version"]:
        check_options(arguments)


def test_an_unknown_option_in_the_docs_is_found():
    with pytest.raises(Exception, match="--poll"):
        check_options(["embed", "x.fasta", "--poll", "mean"])


@pytest.fixture(scope="module")
def configuration() -> Iterator[None]:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize("arguments", of_program("protlm.train"), ids=" ".join)
def test_documented_training_options_compose(arguments):
    one_run = [
        re.sub(r"^([^\[]*?=[^\[,]*),.*", r"\1", argument)  # the first value of a sweep
        for argument in arguments
        if argument not in ("-m", "--help") and "(" not in argument
    ]
    data = compose("config", one_run, return_hydra_config=True).data
    if issubclass(get_object(data._target_), TremblDataModule):
        instantiate(data, corpus="corpus.h5", fasta=None, _convert_="all")  # reads no corpus yet


@pytest.mark.usefixtures("configuration")
def test_options_in_the_docs_that_no_data_can_have_are_found():
    data = compose("config", ["data.corpus=genome.h5", "data.max_length=8192"]).data
    with pytest.raises(InstantiationException, match="max_length 8192: expected 3 to 4000"):
        instantiate(data)


def test_commands_after_a_block_of_python_are_found():
    assert documented("```python\nprotlm.load(path)\n```\ntext\n```\nprotlm check m\n```\n") == [
        ["protlm", "check", "m"]
    ]


def test_pages_have_commands_of_both_programs():
    assert len(of_program("protlm")) > 30
    assert len(of_program("protlm.train")) > 10


def test_every_extra_is_in_the_guide():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert [extra for extra in extras if f"| `{extra}` |" not in text] == []


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 120


def test_architecture_names_every_folder_of_the_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [path.parent.name for path in (ROOT / "protlm").glob("*/__init__.py")]
    assert len(folders) > 10
    assert [folder for folder in folders if f"`{folder}/`" not in text] == []
