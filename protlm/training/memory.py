"""Giving freed memory back to the system on CPUs."""

import ctypes
import platform

_M_MMAP_THRESHOLD = -3  # of mallopt, malloc.h
_BYTES = 4 * 2**20


def return_freed_memory() -> None:
    """Lets glibc map tensors of 4 MiB and more one by one, so that a freed one leaves the process.

    By itself glibc raises that bound to up to 32 MiB as tensors are freed, and keeps smaller ones in one heap. There
    the kept inputs of the blocks lie between freed temporaries, and what activation checkpointing saves is lost again.
    Does nothing with another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _BYTES)
