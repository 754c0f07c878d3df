"""The page of a scan: self-contained, escaped, and, where there is a browser, working."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from protlm.homology.alignment import Alignment
from protlm.sequence.fasta import Record
from protlm.variants.scan import Scan
from protlm.variants.sources import Sources

SEQUENCE = "MKTAYIAKQR"
NASTY = '<script>alert("x")</script>&amp;'
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Elements(HTMLParser):
    """Collects the elements of a page, with their attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1][2].append(data)

    def text(self, tag: str, **attributes: str) -> str:
        return "".join(
            "".join(text) for name, attrs, text in self.found if name == tag and attributes.items() <= attrs.items()
        )


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Of a table with an indel, a stop and cells that look like HTML; numbered from 24."""
    (tmp_path / "v.csv").write_text(
        f'mutant,note\nK25R,"{NASTY.replace(chr(34), chr(34) * 2)}"\nA27del,\nY28*,\nT26S:K25E,\n'
    )
    alignment = Alignment(SEQUENCE, ["query", "a", "b"], [SEQUENCE, "MRTAYIAKQR", "MKSA-IAKQK"])
    scan = Scan([Record(f"id{NASTY}", NASTY, SEQUENCE)], "x.fasta", tmp_path / "v.csv", offset=23)
    scan.assess(lambda _: Sources(alignment)).write_page(tmp_path / "scan.html")
    return tmp_path / "scan.html"


def test_the_page_loads_nothing_and_escapes_everything(page: Path) -> None:
    text = page.read_text()
    elements = Elements(text)
    tags = [tag for tag, _, _ in elements.found]
    assert tags.count("script") == 2
    assert not {"link", "img", "iframe", "object", "embed", "audio", "video", "base"} & set(tags)
    for _, attributes, _ in elements.found:
        assert not {"src", "href", "srcset", "action", "data"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|innerHTML|import\(", text)
    policy = next(a["content"] for t, a, _ in elements.found if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert NASTY not in text
    assert elements.text("h1").strip() == f"id{NASTY}"
    assert html.escape(NASTY) in text


def test_the_page_has_the_scan_as_json(page: Path) -> None:
    data = json.loads(Elements(page.read_text()).text("script", id="data"))
    assert (data["sequence"], data["offset"]) == (SEQUENCE, 23)
    assert [len(data["matrix"]), *{len(row) for row in data["matrix"]}] == [10, 20]
    assert [row[data["letters"].index(letter)] for row, letter in zip(data["matrix"], SEQUENCE, strict=True)] == [
        None
    ] * 10
    names = [column["name"] for column in data["columns"]]
    assert names[:3] == ["mutant", "note", "protlm_score"]
    assert "mutated_sequence" not in names
    rows = {row[0]: dict(zip(names, row, strict=True)) for row in data["rows"]}
    assert rows["K25R"]["note"] == NASTY
    assert rows["Y28*"]["protlm_score"] is None
    assert rows["Y28*"]["reason"] == "stop gained at residue 28"
    assert rows["A27del"]["protlm_score"] is not None
    assert [track["name"] for track in data["tracks"]] == ["mean score", "coverage", "conservation"]
    assert "/" not in data["file"]


SCRIPT = """{
const out = {}, click = (node) => node.dispatchEvent(new MouseEvent("click", {bubbles: true}));
const first = () => [...document.querySelectorAll("tbody tr")].map((row) => row.firstChild.textContent);
out.rows = first();
const heads = [...document.querySelectorAll("th button")];
click(heads.find((button) => button.textContent === "protlm_score"));
out.sorted = first(); out.sort = document.querySelector("th[aria-sort=descending]").textContent;
const search = document.getElementById("search");
search.value = "del"; search.dispatchEvent(new Event("input", {bubbles: true}));
out.found = first(); out.shown = document.getElementById("shown").textContent;
search.value = ""; document.getElementById("position").value = "25"; filter();
out.at = first(); out.csv = csv();
const map = document.getElementById("map");
map.focus(); map.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
out.status = document.getElementById("status").textContent;
out.canvases = map.querySelectorAll("canvas").length;
out.alerts = document.querySelectorAll("script").length;
const result = document.createElement("pre"); result.id = "result"; result.textContent = JSON.stringify(out);
document.body.append(result);
}"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_the_page_works_in_a_browser(page: Path) -> None:
    text = page.read_text().replace("head();\nfilter();\ndraw();", f"head();\nfilter();\ndraw();\n{SCRIPT}")
    assert SCRIPT in text
    page.write_text(text)
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent}/profile"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    out = json.loads(Elements(done.stdout).text("pre", id="result"))
    assert out["rows"] == ["K25R", "A27del", "Y28*", "T26S:K25E"]
    assert out["sort"] == "protlm_score"
    assert out["sorted"][-1] == "Y28*"  # no score
    assert (out["found"], out["shown"]) == (["A27del"], "1 to 1 of 1 (4 in all)")
    assert set(out["at"]) == {"K25R", "T26S:K25E"}
    assert out["csv"].splitlines()[0].startswith("mutant,note,protlm_score")
    assert '"<script>alert(""x"")</script>&amp;"' in out["csv"]
    assert out["status"].startswith("K25A; score ")
    assert (out["canvases"], out["alerts"]) == (1, 2)
