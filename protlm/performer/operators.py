"""Registration of PyTorch operators."""

from typing import Any

import torch
from torch import Tensor

NAMESPACE = "protlm" if __package__ == "protlm.performer" else f"protlm_{__name__.encode().hex()}"
"""Namespace of the operators; a copy of this file, as in an exported model, has a different one."""
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def operator(name: str, function: Any, fake: Any, schema: str, shared: tuple[int, ...]) -> Any:
    """Registers an operator. Under vmap, one more batch dimension becomes part of the batch.

    This is what `torch.library.custom_op` does, less its wrapper that keeps torch.compile out of the function: at the
    first call that imports torch._dynamo, which takes seconds that a command without torch.compile can save.

    Args:
        name, schema: as in `torch.library.define`.
        function: computes the results on every device; never called by torch.compile.
        fake: returns empty results of the same shapes.
        shared: indices of the arguments that are directions.
    """
    qualified = f"{NAMESPACE}::{name}"
    torch.library.define(qualified, schema, lib=_LIBRARY, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(qualified, "CompositeExplicitAutograd", function, lib=_LIBRARY)
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    registered: Any = getattr(getattr(torch.ops, NAMESPACE), name).default

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        if any(in_dims[i] is not None for i in shared):
            raise NotImplementedError("vmap over random directions: use the same for all")

        def fold(i: int, x: Any) -> Any:
            if not isinstance(x, Tensor) or i in shared:
                return x
            dim = in_dims[i]
            x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            return x.flatten(0, 1)

        results = registered(*(fold(i, x) for i, x in enumerate(arguments)))
        return tuple(x.unflatten(0, (info.batch_size, -1)) for x in results), (0,) * len(results)

    torch.library.register_vmap(qualified, rule, lib=_LIBRARY)
    return registered
