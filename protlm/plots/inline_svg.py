"""Charts as SVG inside a page, in the colours of its style sheet, so that they follow a light or dark theme."""

import html
import io
import re
from collections.abc import Callable
from typing import Any

INK, SOFT, LINE, ACCENT = "#1c2330", "#5d6878", "#b9c0ca", "#0d9488"
"""Colours to draw in; in the page, those of its theme."""
_THEME = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--none)", ACCENT: "var(--accent)"}
_DRAWN: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), SOFT),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "protlm",
}
_LEFT_OUT = re.compile(
    r'<metadata>.*?</metadata>|<style.*?</style>| xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', re.DOTALL
)


def inline_svg(width: float, height: float, text: str, draw: Callable[[Any], None]) -> str:
    """An element `svg` for `page_of`.

    Args:
        width, height: in inches, of 96 pixels.
        text: what it shows, for those who do not see it.
        draw: gets a matplotlib `Figure`. Artists of many points should be rasterized.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    written = io.StringIO()
    with rc_context(_DRAWN):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(written, format="svg", transparent=True, dpi=200)
    svg = _LEFT_OUT.sub("", written.getvalue()[written.getvalue().index("<svg") :])
    for colour, name in _THEME.items():
        svg = svg.replace(colour, name)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(text)}"', 1).strip()
