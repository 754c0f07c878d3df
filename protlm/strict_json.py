"""JSON as every parser accepts it."""

import json
import math
from typing import Any


def dumps(value: Any, **options: Any) -> str:
    """`json.dumps`, with null for NaN and infinities, which JSON does not have.

    >>> dumps({"accuracy": float("nan"), "rows": [(1, 0.5)]})
    '{"accuracy": null, "rows": [[1, 0.5]]}'
    """
    return json.dumps(_defined(value), allow_nan=False, **options)


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _defined(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
