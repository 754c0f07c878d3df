"""Pages load nothing, and what they are given cannot become code."""

import json
import re

import pytest

from protlm.plots.inline_svg import ACCENT, INK, inline_svg
from protlm.plots.page import page_of

NASTY = '</script><b>&"$x'


def test_data_and_titles_are_escaped():
    page = page_of(NASTY, "<p>$body</p>", "p { color: red; }", "let a = `${1}`;", {"name": NASTY})
    assert page.count("<script") == page.count("</script>") == 2
    assert "<title>&lt;/script&gt;&lt;b&gt;&amp;&quot;$x</title>" in page
    assert json.loads(re.search(r'id="data">(.*?)</script>', page)[1]) == {"name": NASTY}
    assert page.index("let a = `${1}`;") > page.index("<p>$body</p>") > page.index("p { color: red; }")
    assert "<script" not in page_of("t", "b")


@pytest.fixture
def chart() -> str:
    def draw(figure) -> None:
        axes = figure.add_subplot()
        axes.scatter(range(1000), range(1000), rasterized=True)
        axes.plot([0, 1], [0, 1], color=ACCENT)
        axes.set_title("a < b")

    return inline_svg(4, 3, NASTY, draw)


def test_charts_refer_only_to_themselves_and_have_colours_of_the_page(chart):
    assert chart.startswith("<svg role=")
    assert not re.search(r"https?:|<style|<metadata", chart)
    assert all(one.startswith(("#", "data:image/png")) for one in re.findall(r'href="\s*([^"]*)', chart))
    assert "var(--accent)" in chart
    assert "var(--ink)" in chart
    assert not re.search(f"{ACCENT}|{INK}", chart)
    assert "a &lt; b" in chart
    assert NASTY not in chart
    assert len(chart) < 100_000


def test_the_same_chart_is_the_same_text_and_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    one, other = (inline_svg(2, 2, "x", lambda figure: figure.add_subplot().plot([0, 1], "o")) for _ in range(2))
    assert one == other
    assert dict(matplotlib.rcParams) == before
