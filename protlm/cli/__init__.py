"""The `protlm` command; each subcommand is a thin layer over functions of the package."""

import signal
import sys
from typing import Annotated, Any

import typer

from protlm import __version__
from protlm.cli.console import fail, say
from protlm.cli.corpus import evaluate, info, prepare
from protlm.cli.embedding import embed, merge
from protlm.cli.models import export, import_esm
from protlm.cli.prediction import fill, generate
from protlm.cli.variants import proteingym, score
from protlm.errors import UserError

app = typer.Typer(
    help="Protein language models built on Performers. To train one, run: python -m protlm.train",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# click's UsageError, from the click that typer depends on or, since 0.26, includes
_UsageError: Any = typer.BadParameter.__mro__[1]

for command in (prepare, info, embed, merge, fill, generate, evaluate, export, import_esm, score, proteingym):
    app.command()(command)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if show:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point. User errors are one line and exit code 2; Ctrl-C is exit code 130, SIGTERM 143."""
    # raises, so that partial files are removed
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        interrupted = app(standalone_mode=False) == 130
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except _UsageError as error:
        # without arguments the message is empty: the help has been printed
        if text := error.format_message().strip().rstrip("."):
            fail(f"{text}; see: {error.ctx.command_path} --help" if error.ctx else text)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            say(*getattr(stop, "__notes__", ["terminated; no partial output was left"]))
        raise
    except (KeyboardInterrupt, typer.Abort):
        interrupted = True
    if interrupted:
        say("interrupted; no partial output was left")
        sys.exit(130)
