"""Self-contained HTML pages: one look, light and dark; a page loads nothing."""

import html
from pathlib import Path
from string import Template
from typing import Any

from protlm.strict_json import dumps

PARTS = Path(__file__).parent / "page"


def page_of(title: str, body: str, style: str = "", script: str = "", data: Any = None) -> str:
    """A page.

    Args:
        title: of the window, as text.
        body: HTML.
        style: rules besides those of all pages.
        script: that the page runs at its end.
        data: for the script, JSON in the element `data`.
    """
    scripts = ""
    if script:
        embedded = f'<script type="application/json" id="data">{_inside_script(data)}</script>'
        scripts = f"\n{embedded}\n<script>\n{script.strip()}\n</script>"
    style = f"{_read('page.css')}\n{style}".strip()
    return Template(_read("page.html")).substitute(title=html.escape(title), style=style, body=body.strip() + scripts)


def _read(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8").strip()


def _inside_script(data: Any) -> str:
    """JSON inside a script element: no character ends the element or starts a comment."""
    text = dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
