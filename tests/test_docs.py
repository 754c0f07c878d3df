"""The documentation site builds without warnings, has no dead links, and loads nothing from the network."""

import importlib.util
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
MISSING = [name for name in ("zensical", "mkdocstrings", "griffe") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"the docs extra is not installed: no {', '.join(MISSING)}"),
]


class Page(HTMLParser):
    """What a page defines (anchors) and what it points to (links, resources that a browser loads)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name == "href" and value and tag == "a":
                self.links.append(value)
            elif name in ("href", "src") and value:
                self.resources.append(value)


def build(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Zensical's run in a folder that holds mkdocs.yml, docs and the package."""
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(source)}
    command = [sys.executable, "-m", "zensical", "build", *arguments]
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)


def problems(site: Path) -> list[str]:
    """Links to missing pages, files or anchors, and resources of other hosts, in all pages below a folder."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are relative to wherever the server finds nothing
        name = path.relative_to(site)
        found += [f"{name}: loads {url}" for url in page.resources if urlsplit(url).netloc]
        for url in page.links + page.resources:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{name}: no page or file {url}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: no anchor {url}")
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the site is built from, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("source").resolve()
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("docs", "protlm"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_the_site_builds_without_warnings_or_dead_links(source):
    built = build(source, "--strict")
    assert built.returncode == 0, built.stdout + built.stderr
    assert "warning" not in (built.stdout + built.stderr).lower()
    assert problems(source / "site") == []
    assert not list((source / "site").rglob("*.py"))
    reference = (source / "site/reference/model.html").read_text(encoding="utf-8")
    assert "predict_masked" in reference
    assert "np.ndarray" in reference or "ndarray" in reference  # signatures have types


def test_a_dead_link_fails_the_build(source):
    page = source / "docs/index.md"
    text = page.read_text(encoding="utf-8")
    try:
        page.write_text(text + "\n[gone](nowhere.md)\n", encoding="utf-8")
        assert build(source, "--strict").returncode != 0
    finally:
        page.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="b.html#there">', None),
        ('<a href="c.html">', "a.html: no page or file c.html"),
        ('<img src="x.png">', "a.html: no page or file x.png"),
        ('<a href="b.html#gone">', "a.html: no anchor b.html#gone"),
        ('<script src="https://cdn.example.org/x.js"></script>', "a.html: loads https://cdn.example.org/x.js"),
    ],
)
def test_the_link_check_finds_dead_links(tmp_path, html, problem):
    (tmp_path / "a.html").write_text(html, encoding="utf-8")
    (tmp_path / "b.html").write_text('<h1 id="there">', encoding="utf-8")
    assert problems(tmp_path) == ([problem] if problem else [])


def test_doctests_become_code_blocks():
    specification = importlib.util.spec_from_file_location("doctest_fences", ROOT / "docs/doctest_fences.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    text = "Adds.\n\n>>> 1 + 1\n2\n\nThat is all."
    assert module.fenced(text) == "Adds.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nThat is all."
    assert module.fenced(">>> 1 + 1\n2") == "```pycon\n>>> 1 + 1\n2\n```"
    assert module.fenced("Adds.") == "Adds."
