"""Classes of other packages, imported by name, from Python's path and never from the folder of a model."""

import importlib.util
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def imported_class(what: str, path: str) -> Any:
    """The class MODULE.CLASS; `what` names it in messages.

    Raises:
        ValueError: if it cannot be imported.
    """
    module, _, name = path.rpartition(".")
    return imported(what, module, lambda: getattr(import_module(module), name))


def imported(what: str, module: str, load: Callable[[], Any]) -> Any:
    """What `load` returns, provided that its module is neither Python's own nor a file of a model folder."""
    root = module.partition(".")[0]
    spec = None if root in sys.stdlib_module_names else importlib.util.find_spec(root)
    places = [*(spec.submodule_search_locations or []), spec.origin or ""] if spec else []
    if any((folder / "model.safetensors").exists() for place in places for folder in Path(place).parents[:2]):
        raise ValueError(f"{what}: {places[-1]} is in a model folder, whose code is not executed")
    try:
        if spec is None:
            raise ImportError(f"no module named {root!r} is installed")
        return load()
    except (ImportError, AttributeError) as error:
        message = f"{what}: cannot import it from module {module!r} ({error})"
        raise ValueError(f"{message}; install the module, or add its folder to PYTHONPATH") from error
