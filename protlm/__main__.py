"""The `protlm` command, as `python -m protlm` and as a console script."""

import sys


def main() -> None:
    """Runs `protlm.cli.main`; Ctrl-C during the import, which takes a moment, ends the command as it does later."""
    try:
        from protlm.cli import main as run
    except KeyboardInterrupt:
        print("interrupted; no partial output was left", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
