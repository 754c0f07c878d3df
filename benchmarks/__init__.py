"""Benchmarks of protlm; run each as `python -m benchmarks.NAME`."""

import signal
import sys

if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during imports; `measure.program` restores it
