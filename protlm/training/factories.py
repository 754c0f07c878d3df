"""Factories of optimizers and schedules, of protlm or others: what they are called with, and their options."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from protlm.errors import UserError


def takes_parameters(optimizer: Any) -> bool:
    """Whether the class or function that makes an optimizer expects parameters, not a model, as its first argument."""
    return _takes(optimizer, Optimizer, "params")


def takes_optimizer(schedule: Any) -> bool:
    """Whether a schedule, or the class or function that makes it, expects an optimizer as its first argument."""
    return _takes(schedule, LRScheduler, "optimizer")


def _takes(factory: Any, kind: type, name: str) -> bool:
    function = factory.func if isinstance(factory, functools.partial) else factory
    if isinstance(function, type) and issubclass(function, kind):
        return True
    return callable(function) and next(iter(parameters_of(function)), "") == name


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function or class; none for a built-in one that does not tell them."""
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}


def checked(name: str, make: Callable[[], Any], kind: type = object) -> Any:
    """Calls `make` with the user's options; raises a `UserError` if they are invalid or the result is of another kind.

    Args:
        name: of the group of the configuration.
        make: returns the object; its own `UserError`s name the option themselves.
        kind: what it has to be.
    """
    try:
        made = make()
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error
    return of_kind(name, made, kind)


def of_kind(name: str, made: Any, kind: type) -> Any:
    """The object that `_target_` of the group `name` makes; a `UserError` if it is not of the kind that is needed."""
    if not isinstance(made, kind):
        got = made.__name__ if isinstance(made, type) else type(made).__qualname__
        raise UserError(f"{name}: expected a {kind.__module__}.{kind.__qualname__}, got {got}; see {name}._target_")
    return made


def configured(factory: Any) -> dict[str, Any]:
    """The options of a class, function or partial, defaults included, in a form that a checkpoint can store.

    >>> configured(functools.partial(sorted, key=len))
    {'key': 'len', 'reverse': False}
    """
    parameters = parameters_of(factory).values()
    options = {one.name: one.default for one in parameters if one.default is not one.empty}
    return {name: _storable(value) for name, value in {**options, **getattr(factory, "keywords", {})}.items()}


def _storable(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _storable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(one) for one in value]
    function = value.func if isinstance(value, functools.partial) else value
    return getattr(function, "__qualname__", type(function).__qualname__)
