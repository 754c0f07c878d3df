import bz2
import gzip
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protlm.errors import UserError
from protlm.sequence.stream import DAMAGED, Source, check_readable

Compress = Callable[[bytes], bytes]
COMPRESSIONS: dict[str, Compress] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
    "zst without size": zstandard.ZstdCompressor(write_content_size=False).compress,
    "zst with checksum": zstandard.ZstdCompressor(write_checksum=True).compress,
}
every_compression = pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
MARK = b"\xef\xbb\xbf"


def content_of(path: Path) -> bytes:
    with Source(path) as source, source.content() as content:
        return content.read()


@given(st.binary(max_size=200), st.sampled_from(sorted(COMPRESSIONS)), st.integers(1, 3))
def test_compressed_content_round_trips_with_any_members(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str, members: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "packed"
    path.write_bytes(COMPRESSIONS[name](content) * members)
    assert content_of(path) == (content * members).removeprefix(MARK)


@every_compression
def test_large_content_round_trips(tmp_path: Path, compress: Compress) -> None:
    content = bytes(range(256)) * 2_000
    (tmp_path / "packed").write_bytes(compress(content) + compress(b"") + compress(content))
    assert content_of(tmp_path / "packed") == 2 * content


@pytest.mark.parametrize("compress", [bytes, *COMPRESSIONS.values()])
def test_only_one_byte_order_mark_is_removed(tmp_path: Path, compress: Compress) -> None:
    (tmp_path / "marked").write_bytes(compress(MARK + MARK + b">a"))
    assert content_of(tmp_path / "marked") == MARK + b">a"


@every_compression
@pytest.mark.parametrize("missing", [1, 5, 40])
def test_truncated_content_is_damaged(tmp_path: Path, compress: Compress, missing: int) -> None:
    packed = compress(bytes(range(256)) * 100)
    (tmp_path / "cut").write_bytes(packed[:-missing])
    with pytest.raises(DAMAGED):
        content_of(tmp_path / "cut")


@every_compression
def test_a_truncated_second_member_is_damaged(tmp_path: Path, compress: Compress) -> None:
    packed = compress(bytes(range(256)) * 100)
    (tmp_path / "cut").write_bytes(packed + packed[: len(packed) // 2])
    with pytest.raises(DAMAGED):
        content_of(tmp_path / "cut")


@pytest.mark.parametrize("compress", [bytes, *COMPRESSIONS.values()])
def test_the_bytes_of_the_file_are_counted_and_hashed(tmp_path: Path, compress: Compress) -> None:
    path = tmp_path / "some.fasta"
    path.write_bytes(compress(b">a\nMKT\n" * 50_000))
    with Source(path) as source:
        assert (source.name, source.size, source.position) == ("some.fasta", path.stat().st_size, 0)
        with source.content() as content:
            content.read()
        assert source.position == source.size
        assert source.checksum == xxhash.xxh3_128_hexdigest(path.read_bytes())


def test_the_count_covers_the_bytes_read_so_far(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"A" * 1_000_000)
    with Source(tmp_path / "long") as source:
        read = source.read(10_000)
        assert source.position == len(read) == 10_000
        assert source.checksum == xxhash.xxh3_128_hexdigest(read)


def test_text_that_is_not_utf_8_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"Caf\xe9\r\nM\rK\n")
    with Source(tmp_path / "latin") as source, source.text() as text:
        assert list(text) == ["Caf\ufffd\n", "M\n", "K\n"]


def test_closing_closes_the_file(tmp_path: Path) -> None:
    (tmp_path / "some").write_bytes(gzip.compress(b"MKT"))
    source = Source(tmp_path / "some")
    with source, source.content():
        pass
    assert source.closed
    with pytest.raises(ValueError, match="closed"):
        source.read(1)


def test_unreadable_paths_are_named(tmp_path: Path) -> None:
    for path, match in ((tmp_path / "absent", "no such file"), (tmp_path, "is a folder")):
        for look in (check_readable, Source):
            with pytest.raises(UserError, match=match) as caught:
                look(path)
            assert str(path) in str(caught.value)


def test_a_source_that_was_not_opened_can_be_closed() -> None:
    """Python 3.13 closes the object when its constructor has raised, and would print the error of that as well."""
    Source.__new__(Source).close()


def test_standard_input_always_exists() -> None:
    check_readable("-")


@pytest.mark.slow
def test_standard_input_is_read_from_the_pipe_and_left_open() -> None:
    script = (
        "import sys\nfrom protlm.sequence.stream import Source\n"
        "with Source('-') as source, source.content() as content:\n"
        "    print(source.name, source.size, content.read(), source.position, source.checksum)\n"
        "print(sys.stdin.closed, sys.stdin.buffer.read())"
    )
    packed = gzip.compress(b">a\nMKT\n")
    done = subprocess.run([sys.executable, "-c", script], input=packed, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [
        f"- 0 {b'>a' + bytes([10]) + b'MKT' + bytes([10])!r} {len(packed)} {xxhash.xxh3_128_hexdigest(packed)}",
        "False b''",
    ]
