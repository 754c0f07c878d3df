"""`python -m protlm.train`: the entry point of `protlm.training.command`.

It imports nothing else, since spawned workers of data loaders import the main module again.
"""

import os
import signal
import threading


def main() -> None:
    """Trains and tests a model; without arguments, that of the demo."""
    if threading.current_thread() is threading.main_thread():  # the imports take seconds and may catch exceptions
        signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"stopped by SIGINT\n"), os._exit(130)))
    from protlm.training.command import main as run

    run()


if __name__ == "__main__":
    main()
