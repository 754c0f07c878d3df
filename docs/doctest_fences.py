"""Puts the doctests of docstrings into code blocks, for the API reference (an extension of mkdocstrings)."""

from griffe import Extension, Object


def fenced(docstring: str) -> str:
    """The docstring with each doctest, from `>>>` to a blank line, in a fenced code block."""
    lines, inside = [], False
    for line in docstring.split("\n"):
        if not inside and line.lstrip().startswith(">>>"):
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)


class DoctestFences(Extension):
    """Applies `fenced` to every docstring before it is parsed."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
