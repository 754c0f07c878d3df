"""The registry of attention: names in a configuration, and descriptions in JSON."""

from dataclasses import asdict
from importlib.metadata import entry_points
from typing import Any

from protlm.imported_class import imported, imported_class
from protlm.performer.baselines import Exact, Identity
from protlm.performer.favor import Favor
from protlm.performer.features import FEATURE_MAPS, FeatureMap
from protlm.performer.hybrid import Hybrid
from protlm.performer.kind import Kind
from protlm.performer.linformer import Linformer
from protlm.performer.lsh import Lsh
from protlm.performer.window import Window

ATTENTION: dict[str, Kind] = {
    "exact": Exact(),
    "opt": Identity(),
    "linformer": Linformer(),
    "reformer": Lsh(),
    "window": Window(),
    "hybrid": Hybrid(),
    **{name: Favor(feature_map) for name, feature_map in FEATURE_MAPS.items()},
}
"""The built-in kinds of attention, each with its defaults."""
ENTRY_POINTS: dict[str, type] = {"protlm.attention": Kind, "protlm.feature_maps": FeatureMap}
"""Groups of entry points by which other packages register classes, and what these must derive from."""


def kind_of(attention: str | Kind | FeatureMap) -> Kind:
    """The kind of attention that a configuration names.

    Args:
        attention: a name in ATTENTION or of an installed entry point, a kind, or a feature map of FAVOR+.
    """
    if isinstance(attention, Kind):
        return attention
    if isinstance(attention, FeatureMap):
        return Favor(attention)
    if isinstance(attention, str):
        if attention in ATTENTION:
            return ATTENTION[attention]
        for group, base in ENTRY_POINTS.items():
            for entry in entry_points(group=group, name=attention):
                found = imported(f"attention {attention}", entry.module, entry.load)
                return kind_of(_checked(attention, found, base)())
    registered = (entry.name for group in ENTRY_POINTS for entry in entry_points(group=group))
    known = ", ".join([*ATTENTION, *registered])
    raise ValueError(f"attention {attention!r}: expected one of {known}, or a name that an installed package registers")


def implementation(kind: Kind) -> type:
    """The class that defines a kind of attention: that of the feature map for FAVOR+."""
    return type(kind.feature_map if isinstance(kind, Favor) else kind)


def describe(attention: str | Kind) -> str | dict[str, Any]:
    """A name, or else the class and its fields, ready for JSON: {"map": ...} for FAVOR+, {"kind": ...} for the others.

    Built-in classes are described by their names, others by module and name.
    """
    if isinstance(attention, str):
        return attention
    for name, known in ATTENTION.items():
        if known == attention:
            return name
    cls = implementation(attention)
    name = cls.__name__ if built_in_classes().get(cls.__name__) is cls else _path(cls)
    if isinstance(attention, Favor):
        return {"map": name, **asdict(attention.feature_map)}
    return {"kind": name, **asdict(attention)}


def from_description(description: str | dict[str, Any]) -> str | Kind:
    """The reverse of `describe`; a name is returned unchanged.

    A class of another package is imported from Python's path, never from a model's folder.

    Raises:
        ValueError: for an unknown class, one that cannot be imported, or unknown fields.
    """
    if isinstance(description, str):
        return description
    if not isinstance(description, dict):
        raise ValueError(f"attention {description!r}: expected a name, or a class and its fields")
    fields = dict(description)
    base = Kind if "kind" in fields else FeatureMap
    name = fields.pop("kind", None) or fields.pop("map", None)
    try:
        return kind_of(_class(name, base)(**fields))
    except TypeError as error:
        raise ValueError(f"attention {name}: {error}") from error


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def built_in_classes() -> dict[str, type]:
    """Name -> class of the feature maps and kinds of protlm."""
    return {implementation(kind).__name__: implementation(kind) for kind in ATTENTION.values()}


def _derived(base: type) -> list[type]:
    """All subclasses, in the order of their definition within each class."""
    return [cls for child in base.__subclasses__() for cls in (child, *_derived(child))]


def _class(name: Any, base: type) -> type:
    """The subclass of `base` of a description: built in, already imported, or to be imported."""
    built_in = {known: cls for known, cls in built_in_classes().items() if issubclass(cls, base)}
    known = {key: cls for cls in _derived(base) for key in (cls.__name__, _path(cls))} | built_in
    if name in known:
        return known[name]
    if not isinstance(name, str) or "." not in name.strip("."):
        raise ValueError(f"attention {name!r}: expected one of {', '.join(built_in)}, or MODULE.CLASS")
    return _checked(name, imported_class(f"attention {name}", name), base)


def _checked(name: str, found: Any, base: type) -> type:
    if not isinstance(found, type) or not issubclass(found, base):
        raise ValueError(f"attention {name}: expected a class derived from {base.__name__}, got {found!r}")
    return found
