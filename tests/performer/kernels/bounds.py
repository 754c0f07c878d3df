"""Makes Triton's interpreter fail at loads and stores outside of the tensors that a kernel was given.

It reads and writes any address otherwise, so that a wrong one is seen only on a GPU.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np


class OutOfBoundsError(IndexError):
    """A lane whose mask is true points to memory that no argument of the kernel owns."""


def _tensors(arguments: Any) -> Iterator[Any]:
    for x in arguments:
        if isinstance(x, tuple):
            yield from _tensors(x)
        elif hasattr(x, "data_ptr"):
            yield x


def ranges(arguments: Any) -> np.ndarray:
    """(n, 2) first address, and the first one after it, of the memory of each tensor, in order and disjoint."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in _tensors(arguments)}
    return np.array([(start, start + size) for start, size in sorted(storages.items()) if size], np.int64).reshape(
        -1, 2
    )


def line() -> str:
    """The line of a kernel that is being interpreted."""
    frame = sys._getframe()
    while frame and (frame.f_code.co_filename == __file__ or "/triton/" in frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "an unknown line"


def check(addresses: np.ndarray, mask: np.ndarray, size: int, owned: np.ndarray, kernel: str) -> None:
    """Raises OutOfBoundsError.

    Args:
        addresses: of the lanes, any shape; mask: the same shape, the lanes that count.
        size: bytes that each reads or writes.
        owned: as from `ranges`.
        kernel: its name, for the message.
    """
    first = np.broadcast_to(addresses, np.broadcast_shapes(addresses.shape, mask.shape)).astype(np.int64)
    first = first[np.broadcast_to(mask, first.shape).astype(bool)]
    if not first.size:
        return
    at = np.searchsorted(owned[:, 0], first, side="right") - 1
    bad = (at < 0) | (first + size > owned[np.maximum(at, 0), 1]) if len(owned) else np.ones(first.shape, bool)
    if bad.any():
        wrong = int(first[bad][0])
        beyond = [f"{wrong - stop:+d} bytes from the end of {stop - start}" for start, stop in owned if start <= wrong]
        before = [
            f"{wrong - start:+d} bytes from the start of {stop - start}" for start, stop in owned if start > wrong
        ]
        near = ", ".join([*beyond[-1:], *before[:1]]) or "no tensor was given"
        raise OutOfBoundsError(f"{kernel}, {line()}: {bad.sum()} of {first.size} lanes out of bounds: {near}")


def install(monkeypatch: Any, interpreter: Any) -> None:
    """Checks all launches from now on; `interpreter` is triton.runtime.interpreter."""
    executor, builder = interpreter.GridExecutor, interpreter.InterpreterBuilder
    prepare, load, store = executor._init_args_hst, builder.create_masked_load, builder.create_masked_store
    launch: dict[str, Any] = {"owned": np.zeros((0, 2), np.int64), "kernel": "?"}

    def prepared(self: Any, arguments: Any, named: Any) -> Any:
        result = prepare(self, arguments, named)
        launch.update(owned=ranges((*result[0], *result[1].values())), kernel=self.fn.__name__)
        return result

    def checked(pointers: Any, mask: Any) -> None:
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        check(pointers.data, mask.data, size, launch["owned"], launch["kernel"])

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        checked(pointers, mask)
        return load(self, pointers, mask, *rest)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        checked(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(executor, "_init_args_hst", prepared)
    monkeypatch.setattr(builder, "create_masked_load", checked_load)
    monkeypatch.setattr(builder, "create_masked_store", checked_store)
