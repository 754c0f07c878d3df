"""Benchmarks of protlm; run each as `python -m benchmarks.NAME`."""

import signal
import sys

# Ctrl-C prints no traceback during imports, after which `measure.program` handles it, nor in processes that
# multiprocessing starts, whose command lines name it
_OURS = sys.argv[0] == "-m" or any("multiprocessing" in part for part in sys.orig_argv)
if _OURS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
