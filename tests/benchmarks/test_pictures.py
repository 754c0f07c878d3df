"""Crops of photographs, from wheels made for the test."""

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.pictures import HELD_OUT, PHOTOGRAPHS, squares, write_pictures
from protlm.corpus.ingest import Selection
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SplitRule, read_ids
from protlm.errors import UserError
from protlm.sequence.alphabets import alphabet_of

WIDTH = 64
"""Of a band."""


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A wheel with all photographs, each of four bands of one colour."""
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "scikit.whl", "w") as wheel:
        for number, (member, _) in enumerate(PHOTOGRAPHS.values()):
            content = BytesIO()
            picture = Image.new("RGB", (4 * WIDTH + 1, 64))
            for band in range(4):
                picture.paste((10 * number, 60 * band, 255), (band * WIDTH, 0, (band + 1) * WIDTH, 64))
            picture.save(content, "PNG")
            wheel.writestr(member, content.getvalue())
    return tmp_path / "wheels"


def test_squares_are_parts_of_the_photograph_and_of_its_halves() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    found = squares(pixels)
    assert found.shape == (3, 64, 64, 3)
    assert np.array_equal(found[1], pixels[:, 32:96])
    halved = squares(np.repeat(np.repeat(pixels, 2, 0), 2, 1))
    assert np.array_equal(halved[-3:], found)


def test_a_corpus_keeps_bands_and_held_out_photographs_apart(wheels: Path, tmp_path: Path) -> None:
    counts = write_pictures(wheels, tmp_path / "raw", side=32)
    assert counts == dict.fromkeys(PHOTOGRAPHS, 4 * (9 + 1))
    rule = SplitRule(0.2, 0.2, tmp_path / "raw" / "clusters.tsv", True, read_ids(tmp_path / "raw" / "held_out.txt"))
    selection = Selection(alphabet=alphabet_of("bytes"), cut=32 * 32 * 3)
    prepare_corpus(sorted((tmp_path / "raw").glob("*.raw")), tmp_path / "pictures.h5", rule, selection)
    corpus = Corpus(tmp_path / "pictures.h5")
    assert set(corpus.lengths.tolist()) == {32 * 32 * 3}
    ids, found = corpus.ids(), {}
    for split in ("train", "valid", "test", "ood"):
        for i in corpus.members(split):
            name, _, place = ids[i].partition(".raw:")
            found.setdefault((name, (int(place.partition("-")[0]) - 1) // (10 * 32 * 32 * 3)), set()).add(split)
    assert len(found) == 4 * len(PHOTOGRAPHS)
    assert {splits == {"ood"} for (name, _), splits in found.items() if name in HELD_OUT} == {True}
    assert {frozenset(splits) for (name, _), splits in found.items() if name not in HELD_OUT} == {
        frozenset({split}) for split in ("train", "valid", "test")
    }


def test_what_is_missing_or_damaged_is_named(wheels: Path, tmp_path: Path) -> None:
    (wheels / "scikit.whl").write_bytes((wheels / "scikit.whl").read_bytes()[:50])
    with pytest.raises(UserError, match="damaged"):
        write_pictures(wheels, tmp_path)
    (wheels / "scikit.whl").unlink()
    with pytest.raises(UserError, match="no wheel has skimage/data/astronaut.png"):
        write_pictures(wheels, tmp_path)
