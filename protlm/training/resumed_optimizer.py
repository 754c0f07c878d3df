"""Whether the optimizer, scheduler and callbacks of a checkpoint have the options that are configured."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from protlm.errors import UserError
from protlm.training.factories import configured, takes_optimizer

_HOW = ("params", "fused", "foreach", "capturable", "differentiable", "lr", "initial_lr")
_ADVICE = "resume with the same options, or start from its weights with init=CHECKPOINT"
_CYCLED = ("momentum", "betas")
_OF_SCHEDULERS = ("max_lr", "min_lr", "base_momentum", "max_momentum")
"""Options that OneCycleLR and CyclicLR keep in the optimizer."""


def check_resumed(checkpoint: dict[str, Any], optimizer: Optimizer, schedulers: Sequence[Any]) -> None:
    """`check_optimizer`, and `check_scheduler` for each scheduler, of which the checkpoint has to have as many."""
    if len(checkpoint["lr_schedulers"]) != len(schedulers):
        made = "with" if checkpoint["lr_schedulers"] else "without"
        raise UserError(f"the checkpoint was made {made} a schedule; {_ADVICE}")
    check_optimizer(checkpoint, optimizer, bool(schedulers))
    for stored, scheduler in zip(checkpoint["lr_schedulers"], schedulers, strict=True):
        check_scheduler(stored, scheduler)


def check_optimizer(checkpoint: dict[str, Any], optimizer: Optimizer, scheduled: bool) -> None:
    """Refuses an optimizer other than the checkpoint's, or with other options, which a resumed run would not use.

    Args:
        checkpoint: its content.
        optimizer: a new one, as configured, after its schedule was made.
        scheduled: whether there is a schedule; it may change the learning rate.
    """
    stored = checkpoint["optimizer_states"][0]["param_groups"]
    now = optimizer.param_groups
    same = len(stored) == len(now) and all(
        set(one) - set(_HOW) == set(other) - set(_HOW) and len(one["params"]) == len(other["params"])
        for one, other in zip(stored, now, strict=True)
    )
    if not same:
        raise UserError(f"the checkpoint was made with another optimizer than {type(optimizer).__name__}; {_ADVICE}")
    for one, other in zip(stored, now, strict=True):
        rate = "lr" if not scheduled else "initial_lr"
        names = [name for name in other if name not in _HOW and not ("max_momentum" in other and name in _CYCLED)]
        for name in [*names, *([rate] if rate in one and rate in other else [])]:
            before, after = (tuple(x) if isinstance(x, list | tuple) else x for x in (one[name], other[name]))
            if before != after:
                option = "lr" if name == rate else "query_key" if name == "parts" else name
                group = "schedule" if name in _OF_SCHEDULERS else "optimizer"
                raise UserError(f"the checkpoint's {group}.{option} {before} is now {after}; {_ADVICE}")


def check_scheduler(stored: dict[str, Any], scheduler: LRScheduler) -> None:
    """Refuses a scheduler whose options differ from those in the checkpoint, which would be restored instead.

    Args:
        stored: state of the checkpoint's scheduler.
        scheduler: a new one, as configured.
    """
    now = scheduler.state_dict()
    public = [{name for name in state if not name.startswith("_") and name != "verbose"} for state in (stored, now)]
    if public[0] != public[1]:  # except what depends on the version of torch
        raise UserError(f"the checkpoint was made with another schedule than {type(scheduler).__name__}; {_ADVICE}")
    for option in inspect.signature(type(scheduler)).parameters.keys() - {"last_epoch", "schedulers"}:
        for name in (option, f"_{option}", f"{option}s"):  # torch's names for what it keeps of an option
            if name in now and _plain(now[name]) != _plain(stored.get(name)):
                change = f"schedule.{option} {stored.get(name)} is now {now[name]}"
                raise UserError(f"the checkpoint's {change}; {_ADVICE}")
    inner = getattr(scheduler, "_schedulers", ())  # of a SequentialLR or ChainedScheduler
    for before, one in zip(stored.get("_schedulers", ()), inner, strict=True):
        check_scheduler(before, one)


def check_schedule(stored: Mapping[str, Any], schedule: Any) -> None:
    """Refuses a schedule that takes an optimizer with other options than the checkpoint's; others may change.

    Args:
        stored: what `configured` returned for the checkpoint's schedule.
        schedule: as configured now.
    """
    now = configured(schedule) if takes_optimizer(schedule) else {}
    for name in sorted(now.keys() & stored.keys()):
        if now[name] != stored[name]:
            raise UserError(f"the checkpoint's schedule.{name} {stored[name]} is now {now[name]}; {_ADVICE}")


def check_callbacks(stored: Mapping[str, Any], callbacks: Sequence[Callback]) -> None:
    """Refuses another patience of EarlyStopping, which Lightning would restore from the checkpoint."""
    for callback in callbacks:
        before = stored.get(callback.state_key, {}).get("patience") if isinstance(callback, EarlyStopping) else None
        if before is not None and before != callback.patience:  # type: ignore[attr-defined]
            change = f"EarlyStopping: the checkpoint's patience {before} is now {callback.patience}"  # type: ignore[attr-defined]
            raise UserError(f"{change}; {_ADVICE}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
