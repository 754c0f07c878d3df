"""The kinds of attention that a configuration can name, and their descriptions in JSON."""

from dataclasses import asdict
from typing import Any

from protlm.performer.baselines import Exact, Identity
from protlm.performer.features import FEATURE_MAPS, FeatureMap
from protlm.performer.features import describe as describe_map
from protlm.performer.features import from_description as map_from_description
from protlm.performer.kind import Kind
from protlm.performer.linformer import Linformer
from protlm.performer.lsh import Lsh
from protlm.performer.window import Window

KINDS: dict[str, Kind] = {
    "exact": Exact(),
    "opt": Identity(),
    "linformer": Linformer(),
    "reformer": Lsh(),
    "window": Window(),
}
"""All but FAVOR+, each with its defaults."""
ATTENTION: dict[str, Kind | FeatureMap] = {**KINDS, **FEATURE_MAPS}


def describe(attention: str | Kind | FeatureMap) -> str | dict[str, Any]:
    """A name of ATTENTION, or else the name of the class and its fields; ready for JSON."""
    if isinstance(attention, str):
        return attention
    if isinstance(attention, FeatureMap):
        return describe_map(attention)
    for name, known in KINDS.items():
        if known == attention:
            return name
    return {"kind": type(attention).__name__, **asdict(attention)}


def from_description(description: str | dict[str, Any]) -> str | Kind | FeatureMap:
    """The reverse of `describe`; a name stays as it is.

    Raises:
        ValueError: for a class or fields that are unknown.
    """
    if isinstance(description, str):
        return description
    if "kind" not in description:
        return map_from_description(description)
    fields = dict(description)
    name = fields.pop("kind")
    kinds = {type(kind).__name__: type(kind) for kind in KINDS.values()}
    if name not in kinds:
        raise ValueError(f"attention {name!r}: expected one of {', '.join(kinds)}")
    try:
        return kinds[name](**fields)
    except TypeError as error:
        raise ValueError(f"attention {name}: {error}") from error
