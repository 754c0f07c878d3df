"""Whether the optimizer of a checkpoint has the options that are configured."""

from typing import Any

from torch.optim import Optimizer

from protlm.errors import UserError

_HOW = ("params", "fused", "foreach", "capturable", "differentiable", "lr", "initial_lr")
_CYCLED = ("momentum", "betas", "base_momentum", "max_momentum")


def check_optimizer(checkpoint: dict[str, Any], optimizer: Optimizer, scheduled: bool) -> None:
    """Refuses an optimizer other than the checkpoint's, or with other options, which a resumed run would not use.

    Args:
        checkpoint: its content.
        optimizer: a new one, as configured, after its schedule was made.
        scheduled: whether there is a schedule; it may change the learning rate.
    """
    advice = "resume with the same options, or start from its weights with init=CHECKPOINT"
    stored = checkpoint["optimizer_states"][0]["param_groups"]
    now = optimizer.param_groups
    same = len(stored) == len(now) and all(
        set(one) - set(_HOW) == set(other) - set(_HOW) and len(one["params"]) == len(other["params"])
        for one, other in zip(stored, now, strict=True)
    )
    if not same:
        raise UserError(f"the checkpoint was made with another optimizer than {type(optimizer).__name__}; {advice}")
    for one, other in zip(stored, now, strict=True):
        rate = "lr" if not scheduled else "initial_lr"
        names = [name for name in other if name not in _HOW and not ("max_momentum" in other and name in _CYCLED)]
        for name in [*names, *([rate] if rate in one and rate in other else [])]:
            before, after = (tuple(x) if isinstance(x, list | tuple) else x for x in (one[name], other[name]))
            if before != after:
                option = "lr" if name == rate else "query_key" if name == "parts" else name
                raise UserError(f"the checkpoint's optimizer.{option} {before} is now {after}; {advice}")
