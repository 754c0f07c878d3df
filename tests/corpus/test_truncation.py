"""A corpus that is cut short while a batch is read."""

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protlm.corpus.truncation import MESSAGE, truncation_in_one_line

PROGRAM = """
import os, sys
from protlm import cli
from protlm.corpus.reader import Corpus

def cut_short(corpus, before=Corpus._map):
    before(corpus)
    os.truncate(corpus.path, 0)

Corpus._map = cut_short
if sys.argv[1] == "info":
    cli.main()
Corpus(sys.argv[2]).offsets.sum()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="Windows has no bus errors")
def test_a_read_beyond_the_end_of_the_file_is_one_line(corpus_path: Path, tmp_path: Path) -> None:
    """Without the handler, the process is killed."""
    for command, code, words in (("info", 2, f"error: {MESSAGE}\n"), ("-", -signal.SIGBUS, "")):
        path = tmp_path / f"{code}.h5"
        path.write_bytes(corpus_path.read_bytes())
        arguments = [sys.executable, "-c", PROGRAM, command, str(path)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", words)


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="Windows has no bus errors")
def test_the_handler_before_is_back_afterwards() -> None:
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)

    def handler() -> int | None:
        address = libc.signal(signal.SIGBUS, None)
        libc.signal(signal.SIGBUS, address)
        return address

    before = handler()
    with truncation_in_one_line():
        assert handler() != before
    assert handler() == before
