"""The `protlm` command; each subcommand is a thin layer over functions of the package."""

import io
import os
import signal
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from protlm import __version__
from protlm.cli.annotation import annotate, map_proteins
from protlm.cli.check import check
from protlm.cli.console import fail, say, warnings_as_lines
from protlm.cli.contacts import contacts
from protlm.cli.corpus import evaluate, info, prepare
from protlm.cli.embedding import embed, merge
from protlm.cli.homology import homologs
from protlm.cli.linearise import linearise
from protlm.cli.models import export, import_model
from protlm.cli.predict import predict
from protlm.cli.prediction import fill, generate
from protlm.cli.supervised import fit
from protlm.cli.variants import proteingym, score
from protlm.corpus.truncation import truncation_in_one_line
from protlm.errors import UserError

app = typer.Typer(
    help="Protein language models built on Performers. To train one, run: python -m protlm.train",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# click's UsageError, from the click that typer depends on or, since 0.26, includes
_UsageError: Any = typer.BadParameter.__mro__[1]

for command in (
    prepare,
    info,
    embed,
    merge,
    fill,
    generate,
    evaluate,
    export,
    check,
    linearise,
    homologs,
    score,
    proteingym,
    contacts,
    fit,
    predict,
    annotate,
):
    app.command()(command)
app.command("map")(map_proteins)
app.command("import")(import_model)
app.command("import-esm", help="The same as import.", hidden=True)(import_model)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if show:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point. User errors are one line and exit code 2; Ctrl-C exits with 130, SIGTERM 143, a closed pipe 1."""
    # raises, so that partial files are removed
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    _prepare_streams()
    command: Any = typer.main.get_command(app)
    try:
        with warnings_as_lines(), truncation_in_one_line():
            interrupted = command(standalone_mode=False) == 130
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        fail(error.renamed(_options(command)))
    except BrokenPipeError:  # such as that of `| head`; typer does the same
        sys.exit(1)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except _UsageError as error:
        # without arguments the message is empty: the help has been printed
        if text := _usage(error):
            fail(f"{text.removesuffix('?')}; see: {error.ctx.command_path} --help" if error.ctx else text)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            say(*getattr(stop, "__notes__", ["terminated; no partial output was left"]))
        raise
    except (KeyboardInterrupt, typer.Abort):
        interrupted = True
    finally:
        _discard_unwritten()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process at once
        say("interrupted; no partial output was left")
        sys.exit(130)


def _usage(error: Any) -> str:
    """What is wrong with the command line; of an unknown option also which was probably meant."""
    name = getattr(error, "option_name", None)
    if name is None or error.ctx is None or name.count("-") < 2:
        return error.format_message().strip().rstrip(".")
    known = [option for parameter in error.ctx.command.params for option in parameter.opts if option[:2] == "--"]
    found = [option for option in known if option.startswith(name)] or get_close_matches(name, known, n=1, cutoff=0.7)
    return f"no such option {name}" + (f"; did you mean {found[0]}?" if found else "")


def _options(command: Any) -> Callable[[str], str]:
    """Argument of the library -> option of the running command; other names stay as they are."""
    parameters = getattr(command.commands.get(sys.argv[1] if len(sys.argv) > 1 else ""), "params", ())
    options = {
        p.name: next((opt for opt in p.opts if opt[:2] == "--"), p.opts[0])
        for p in parameters
        if p.param_type_name == "option"
    }
    return lambda name: options.get(name, name)


def _prepare_streams() -> None:
    """Prints letters that the terminal's encoding lacks as escapes, and nothing where standard error is closed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _discard_unwritten() -> None:
    """Drops what standard output did not take; at exit, the interpreter would try again and print a traceback."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
