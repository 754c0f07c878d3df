import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protlm.embedding import resumable, survey
from protlm.embedding.layouts import LAYOUTS
from protlm.embedding.merge import merge_shards
from protlm.embedding.proteome import EmbedOptions, embed_fasta
from protlm.errors import UserError
from protlm.performer import Performer


@pytest.fixture
def parts(tiny_model: Performer, write_fasta, tmp_path: Path, monkeypatch) -> list[Path]:
    """Three shards of thirty proteins; `embed_fasta` tests their content."""
    monkeypatch.setattr(survey, "WINDOW_TOKENS", 100)
    fasta = write_fasta((f"p{i}", "MKTAYIAKQR"[: i % 9 + 2]) for i in range(30))
    paths = [tmp_path / f"{number}.h5" for number in (1, 2, 3)]
    for number, path in enumerate(paths, start=1):
        embed_fasta(tiny_model, fasta, path, options=EmbedOptions(shard=(number, 3)))
    return paths


def refused(words: str, parts: list[Path], output: Path, **options: bool) -> None:
    names = sorted(output.parent.rglob("*"))
    with pytest.raises(UserError, match=words):
        merge_shards(parts, output, **options)
    assert sorted(output.parent.rglob("*")) == names


def test_shards_that_do_not_belong_together_are_refused(
    tiny_model: Performer, parts: list[Path], write_fasta, tmp_path: Path
) -> None:
    out, (one, two, three) = tmp_path / "out.h5", parts
    refused("1 of 3 shards missing: 2;", [one, three], out)
    refused("/2.h5: given twice; give each shard once", [one, two, two, three], out)
    copy = shutil.copy(two, tmp_path / "copy.h5")
    refused("copy.h5 and .*2.h5: are both shard 2/3", [one, two, Path(copy), three], out)
    refused("absent.h5: no such file", [one, two, tmp_path / "absent.h5"], out)
    refused("proteins.fasta: not embeddings", [one, two, tmp_path / "proteins.fasta"], out)
    refused("is one of the shards", parts, two)
    fasta = tmp_path / "proteins.fasta"
    embed_fasta(tiny_model, fasta, tmp_path / "max.h5", options=EmbedOptions(pools=("max",), shard=(3, 3)))
    refused("max.h5: does not belong to .*pool: max instead of mean", [one, two, tmp_path / "max.h5"], out)
    embed_fasta(tiny_model, fasta, tmp_path / "four.h5", options=EmbedOptions(shard=(3, 4)))
    refused("is shard 3/4, but .* is shard 1/3", [one, two, tmp_path / "four.h5"], out)
    other = write_fasta([("a", "MKT")], "other.fasta")
    embed_fasta(tiny_model, other, tmp_path / "other.h5", options=EmbedOptions(shard=(3, 3)))
    refused("source: ", [one, two, tmp_path / "other.h5"], out)
    (tmp_path / ".late.h5.partial").mkdir()
    refused("late.h5: is unfinished", [one, two, tmp_path / "late.h5"], out)
    refused("there is no folder", parts, tmp_path / "nowhere" / "out.h5")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("per_residue", [False, True])
def test_an_identifier_in_two_shards_is_refused(
    tiny_model: Performer, write_fasta, tmp_path: Path, monkeypatch, layout: str, per_residue: bool
) -> None:
    """Which needs shards that claim the same source without having it."""
    monkeypatch.setattr(survey, "WINDOW_TOKENS", 10)
    description = survey.survey
    source = {"name": "x.fasta", "bytes": 1, "xxh3_128": "0"}
    monkeypatch.setattr(resumable, "survey", lambda *x: replace(description(*x), source=source))
    parts = [tmp_path / "one", tmp_path / "two"]
    for number, (part, names) in enumerate(zip(parts, (["a", "b"], ["c", "a"]), strict=True), start=1):
        fasta = write_fasta([(f'{name},"x', "MKTAY") for name in names], "x.fasta")
        options = EmbedOptions(layout=layout, identifier="header", shard=(number, 2))
        files = (None, part) if per_residue else (part, None)
        monkeypatch.setattr(survey.Survey, "shard", lambda self, *_: np.array([0, len(self.lengths)]))
        embed_fasta(tiny_model, fasta, *files, options=options)
    refused("two: identifier 'a,\"x' is also in an earlier shard", parts, tmp_path / "out")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_existing_output_is_replaced_only_on_request(
    tiny_model: Performer, write_fasta, tmp_path: Path, layout: str
) -> None:
    fasta, part, out = write_fasta([("a", "MKT")]), tmp_path / "part", tmp_path / "out"
    embed_fasta(tiny_model, fasta, part, options=EmbedOptions(layout=layout))
    assert merge_shards([part], out)["proteins"] == 1  # the only shard
    refused("already exists; choose another output, or set overwrite", [part], out)
    before = out.stat().st_ino
    merge_shards([part], out, overwrite=True)
    assert out.stat().st_ino != before
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    refused("folder", [part], tmp_path / "folder", overwrite=True)
    beside = ["out.json", "part.json"] if layout == "csv" else []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["folder", "out", "part", fasta.name, *beside])
