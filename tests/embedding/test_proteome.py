import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from protlm.embedding import proteome, survey
from protlm.embedding.in_memory import embed
from protlm.embedding.layouts import LAYOUTS, read_description
from protlm.embedding.merge import merge_shards
from protlm.embedding.proteome import EmbedOptions, embed_fasta
from protlm.embedding.representations import PartialOutput
from protlm.embedding.resumable import ResumableInterrupt
from protlm.errors import UserError
from protlm.files import BusyError
from protlm.performer import Performer

LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
TABLES = ("npz", "csv", "parquet")
"""Layouts in which "/" need not be replaced in an identifier."""
SEQUENCES = ["MKT", "M", "GAVLIMCFYWHKRQNEDSTPXBZUO" * 5, "MKTAYIAKQRQISFVKSHFSRQ", "W" * 62, "MKT"]


@pytest.fixture
def fasta(write_fasta) -> Path:
    """Two hundred proteins, some of them identical; 9,900 tokens."""
    chance = random.Random(0)
    sequences = ["".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=chance.randint(1, 90))) for _ in range(180)]
    return write_fasta((f"p{i}", chance.choice(sequences) if i % 10 == 9 else sequences[i % 180]) for i in range(200))


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing all files of the machine takes seconds while other processes write."""
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "WINDOW_TOKENS", 1_000)


def content(path: Path) -> dict[str, Any]:
    """Protein -> its values, in order, from any layout; residues are the last axis but one, except in "packed"."""
    if path.is_dir():
        return {file.stem: torch.load(file, weights_only=True) for file in sorted(path.glob("*.pt"))}
    start = path.read_bytes()[:4]
    if start == b"PAR1":
        return parquet_content(path)
    if start == b"PK\x03\x04":
        with np.load(path) as file:
            return packed_content(dict(file))
    if start != b"\x89HDF":
        return csv_content(path)
    with h5py.File(path) as file:
        if "embeddings" not in file:
            return {name: dataset[:] for name, dataset in file.items()}
        return packed_content({name: file[name][:] for name in file})


def packed_content(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [name if isinstance(name, str) else name.decode() for name in arrays["ids"].tolist()]
    matrix = arrays["embeddings"]
    if "pointers" not in arrays:
        return dict(zip(names, matrix, strict=True))
    return {name: matrix[start : start + count] for name, (start, count) in zip(names, arrays["pointers"], strict=True)}


def parquet_content(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    vectors = [name for name in table.column_names if name not in ("id", "original_id", "length")]
    shape = (len(about(path)["pool"]), len(about(path)["layers"]))
    found = {}
    for row in table.to_pylist():
        values = np.array([row[name] for name in vectors], dtype=about(path)["dtype"])  # (P x K, [L,] D)
        values = values.reshape(*(size for size in shape if size > 1), *values.shape[1:])
        if "residues" in about(path)["pool"]:
            assert row["length"] == values.shape[-2]
        found[row["id"]] = values
    return found


def csv_content(path: Path) -> dict[str, np.ndarray]:
    table = pd.read_csv(path, dtype={"id": str}, keep_default_na=False)
    description = about(path)
    numbers = [name for name in table.columns if name not in ("id", "original_id", "length", "position")]
    shape = tuple(size for size in (len(description["pool"]), len(description["layers"])) if size > 1)
    found = {}
    for name, rows in table.groupby("id", sort=False):
        values = rows[numbers].to_numpy().astype(description["dtype"]).reshape(len(rows), *shape, -1)
        found[str(name)] = values if "position" in table else values[0]
    return found


def assert_same(one: Path, other: Path) -> None:
    """Equal bit for bit, including order and attributes."""
    first, second = content(one), content(other)
    assert list(first) == list(second)
    for name, values in first.items():
        if isinstance(values, dict):
            assert str(values) == str(second[name])
            for key in set(values) - {"label"}:
                for layer, tensor in values[key].items():
                    assert torch.equal(tensor, second[name][key][layer])
        else:
            assert values.dtype == second[name].dtype
            assert values.tobytes() == second[name].tobytes()
    assert about(one) == about(other)


def assert_near(one: Path, other: Path) -> None:
    """Equal up to rounding, since batches differ; order and attributes are the same."""
    first, second = content(one), content(other)
    assert list(first) == list(second)
    for name, values in first.items():
        pairs = [(values, second[name])]
        if isinstance(values, dict):
            assert values["label"] == second[name]["label"]
            pairs = [
                (values[key][layer], second[name][key][layer])
                for key in set(values) - {"label"}
                for layer in values[key]
            ]
        for value, same in pairs:
            np.testing.assert_allclose(value, same, atol=1e-5)
    ours, theirs = about(one), about(other)
    for name in ("table_bytes", "table_xxh3_128"):  # of a CSV file, which rounding changes
        assert (name in ours) == (name in theirs)
        ours.pop(name, None)
        theirs.pop(name, None)
    assert ours == theirs


def about(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return json.loads((path / "protlm.json").read_text())
    return read_description(path) or {}


def listing(folder: Path) -> list[str]:
    """The names in a folder, without the descriptions beside CSV tables."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json")


@pytest.mark.parametrize("token_budget", [1, 64, 150, 100_000])
@pytest.mark.parametrize("dtype", [None, "float32"])
@LAYOUT
def test_all_layouts_hold_the_output_of_embed_in_order(
    tiny_model: Performer, write_fasta, tmp_path: Path, layout: str, token_budget: int, dtype: str | None
) -> None:
    names = ["sp|Q9|A_B", "b", "a/b", "zz", "P1", "c"]
    path = write_fasta(zip(names, SEQUENCES, strict=True))
    proteins, residues = tmp_path / "proteins", tmp_path / "residues"
    options = EmbedOptions(layout=layout, dtype=dtype, layers=(0, -1), pools=("mean", "bos", "max"))
    summary = embed_fasta(tiny_model, path, proteins, residues, options, token_budget)
    pooled, rows = content(proteins), content(residues)
    slash = "a/b" if layout in TABLES else "a_b"
    stored = ["Q9", "b", slash, "zz", "P1", "c"]
    assert list(pooled) == list(rows) == (sorted(stored) if layout == "esm-pt" else stored)
    half = (dtype or LAYOUTS[layout].dtype) == "float16"
    for name, sequence in zip(stored, SEQUENCES, strict=True):
        (expected,) = embed(tiny_model, [sequence], layers=(0, -1))
        vectors = np.stack([next(embed(tiny_model, [sequence], pool=p, layers=(0, -1))) for p in options.pools])
        one, every = pooled[name], rows[name]
        if layout == "esm-pt":
            assert one["label"] == every["label"] == ("a/b" if name == "a_b" else name)
            one = torch.stack([torch.stack(list(one[f"{p}_representations"].values())) for p in options.pools]).numpy()
            every = torch.stack(list(every["representations"].values())).numpy()
        elif LAYOUTS[layout].rows_of_residues:
            every = every.swapaxes(0, 1)
        assert one.dtype == every.dtype == (np.float16 if half else np.float32)
        np.testing.assert_allclose(one, vectors, atol=2e-3 if half else 1e-5)
        np.testing.assert_allclose(every, expected, atol=2e-3 if half else 1e-5)
    assert (summary.proteins, summary.residues) == (6, sum(map(len, SEQUENCES)))
    assert (summary.renamed, summary.copied, summary.beyond_positions) == (layout not in TABLES, 1, 0)
    assert listing(tmp_path) == sorted([path.name, "proteins", "residues"])


def test_single_axes_are_left_out(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    path = write_fasta([("a", "MKTAY"), ("x/y", "MK")])
    for layers, pools, one, every, packed in (
        ((-1,), ("mean",), (16,), (5, 16), (7, 16)),
        ((0, 1, 2), ("mean",), (3, 16), (3, 5, 16), (7, 3, 16)),
        ((1,), ("bos", "max"), (2, 16), (5, 16), (7, 16)),
        ((0, 1, 2), ("mean", "max"), (2, 3, 16), (3, 5, 16), (7, 3, 16)),
    ):
        for layout in ("uniprot", "packed"):
            outputs = [tmp_path / f"{kind}.h5" for kind in ("p", "r")]
            embed_fasta(tiny_model, path, *outputs, EmbedOptions(layers, pools, layout=layout), overwrite=True)
            with h5py.File(outputs[0]) as vectors, h5py.File(outputs[1]) as rows:
                if layout == "uniprot":
                    assert (vectors["a"].shape, rows["a"].shape) == (one, every)
                    assert vectors["x_y"].attrs["original_id"] == rows["x_y"].attrs["original_id"] == "x/y"
                else:
                    assert (vectors["embeddings"].shape, rows["embeddings"].shape) == ((2, *one), packed)
                    assert rows["embeddings"].chunks is None
                    assert vectors["lengths"][:].tolist() == [5, 2]
                    assert vectors["original_ids"][:].tolist() == [b"a", b"x/y"]


def test_one_folder_of_pt_files_may_hold_all(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    options = EmbedOptions(layout="esm-pt", pools=("mean", "bos"))
    embed_fasta(tiny_model, write_fasta([("a", "MKT")]), tmp_path / "out", tmp_path / "out", options)
    found = content(tmp_path / "out")["a"]
    assert list(found) == ["label", "representations", "mean_representations", "bos_representations"]
    assert found["representations"][2].shape == (3, 16)
    torch.testing.assert_close(found["mean_representations"][2], found["representations"][2].mean(0))


def test_the_suffix_of_each_output_chooses_its_format(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("NA/1", "MKT"), ('a,"b"', "MKTAY")])
    outputs = [tmp_path / name for name in ("p.CSV", "r.parquet", "p.npz", "r.h5")]
    for pair in (outputs[:2], outputs[2:]):
        embed_fasta(tiny_model, fasta, *pair)
    assert [about(path)["layout"] for path in outputs] == ["csv", "parquet", "npz", "uniprot"]
    assert [about(path)["dtype"] for path in outputs] == ["float32", "float32", "float16", "float16"]
    table = pd.read_csv(outputs[0], index_col="id", keep_default_na=False)
    assert table.index.tolist() == ["NA/1", 'a,"b"']
    assert table.columns.tolist() == ["length", *(f"embedding_{i}" for i in range(16))]
    (exact,) = embed(tiny_model, ["MKT"], pool="mean")
    np.testing.assert_allclose(table.loc["NA/1"].to_numpy()[1:].astype(np.float32), exact, atol=1e-6)
    rows = pq.read_table(outputs[1])
    assert str(rows.schema.field("embedding").type) == "list<element: fixed_size_list<element: float>[16]>"
    assert (rows["id"].to_pylist(), rows["length"].to_pylist()) == (["NA/1", 'a,"b"'], [3, 5])
    with np.load(outputs[2]) as arrays:
        assert sorted(arrays) == ["about", "embeddings", "ids", "lengths"]
        assert arrays["ids"].tolist() == ["NA/1", 'a,"b"']
    assert list(content(outputs[3])) == ["NA_1", 'a,"b"']


def test_tables_keep_the_identifier_of_renamed_duplicates(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("X", "MKT"), ("X", "MKTAY")])
    for suffix in TABLES:
        embed_fasta(tiny_model, fasta, tmp_path / f"p.{suffix}", options=EmbedOptions(duplicates="suffix"))
    for table in (pd.read_csv(tmp_path / "p.csv"), pd.read_parquet(tmp_path / "p.parquet")):
        assert (table["id"].tolist(), table["original_id"].tolist()) == (["X", "X_2"], ["X", "X"])
    with np.load(tmp_path / "p.npz") as arrays:
        assert (arrays["ids"].tolist(), arrays["original_ids"].tolist()) == (["X", "X_2"], ["X", "X"])


def test_a_csv_table_is_described_beside_it(tiny_model: Performer, fasta: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    beside = tmp_path / "out.csv.json"
    beside.write_text("[1, 2]")
    with pytest.raises(UserError, match=r"out.csv.json: not written by protlm, and would be replaced"):
        embed_fasta(tiny_model, fasta, out)
    assert beside.read_text() == "[1, 2]"
    beside.unlink()
    embed_fasta(tiny_model, fasta, out)
    assert embed_fasta(tiny_model, fasta, out).complete
    out.write_text(out.read_text().replace("p0,", "mine,"))  # an edited table is the user's
    with pytest.raises(UserError, match="holds no embeddings written by protlm"):
        embed_fasta(tiny_model, fasta, out)
    assert "mine," in out.read_text()


def test_parquet_without_pyarrow_is_refused_at_once(tiny_model: Performer, fasta: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "pyarrow.parquet", None)
        with pytest.raises(UserError, match="pip install pyarrow"):
            embed_fasta(tiny_model, fasta, tmp_path / "out.parquet")
    assert listing(tmp_path) == [fasta.name]


def test_several_files_are_like_one(tiny_model: Performer, write_fasta, tmp_path: Path, small_windows) -> None:
    records = [(f"p{i}", "MKTAYIAKQR"[: i % 9 + 2] * (i % 5 + 1)) for i in range(120)]
    whole = write_fasta(records)
    parts = [write_fasta(records[:50], "a.fasta"), write_fasta(records[50:51], "b.fasta")]
    parts.append(write_fasta(records[51:], "c.fasta"))
    one, several = tmp_path / "one.h5", tmp_path / "several.h5"
    embed_fasta(tiny_model, whole, one)
    embed_fasta(tiny_model, parts, several)
    first, second = content(one), content(several)
    assert list(first) == list(second)
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert embed_fasta(tiny_model, parts, several).complete
    with pytest.raises(UserError, match="source: "):
        embed_fasta(tiny_model, parts[::-1], several)
    again = write_fasta([("new", "MKT"), ("p3", "MKT")], "d.fasta")
    with pytest.raises(UserError, match=r"'p3' \(record 4 of .*a.fasta and record 2 of .*d.fasta\)"):
        embed_fasta(tiny_model, [*parts, again], tmp_path / "other.h5")
    with pytest.raises(UserError, match="is given twice"):
        embed_fasta(tiny_model, [whole, whole], tmp_path / "other.h5")
    with pytest.raises(UserError, match="different files"):
        embed_fasta(tiny_model, [whole, again], again, options=EmbedOptions(layout="packed"))


@LAYOUT
def test_identical_sequences_are_computed_once(
    tiny_model: Performer, fasta: Path, tmp_path: Path, small_windows, monkeypatch, layout: str
) -> None:
    computed = []
    real = tiny_model.representations

    def counted(tokens, layers, key_mask, segments):
        computed.append(int(key_mask.sum()) - 2 * len(tokens))
        return real(tokens, layers, key_mask, segments)

    monkeypatch.setattr(tiny_model, "representations", counted)
    summary = embed_fasta(tiny_model, fasta, None, tmp_path / "out", EmbedOptions(layout=layout))
    sequences = [line for line in fasta.read_text().split() if not line.startswith(">")]
    distinct = dict.fromkeys(sequences)
    assert sum(computed) == sum(map(len, distinct)) == summary.computed
    assert summary.copied == len(sequences) - len(distinct) > 10
    found = content(tmp_path / "out")
    for index, sequence in enumerate(sequences):
        first, again = found[f"p{sequences.index(sequence)}"], found[f"p{index}"]
        if layout == "esm-pt":
            first, again = first["representations"][2], again["representations"][2]
        np.testing.assert_array_equal(first, again)
        assert len(again) == len(sequence)
    if layout == "packed":
        with h5py.File(tmp_path / "out") as file:
            assert len(file["embeddings"]) == sum(map(len, distinct))


class StopError(Exception):
    """Ends a run as a bug would."""


def stop_after(calls: int, error: type[BaseException]):
    left = [calls]

    def progress(done: int, total: int) -> None:
        assert 0 < done <= total
        left[0] -= 1
        if left[0] == 0:
            raise error

    return progress


@pytest.mark.parametrize(
    ("layout", "error"),
    [*((layout, KeyboardInterrupt) for layout in LAYOUTS), ("uniprot", SystemExit), ("packed", StopError)],
)
def test_a_stopped_run_is_resumed_with_the_same_result(
    tiny_model: Performer, fasta: Path, tmp_path: Path, small_windows, layout: str, error: type[BaseException]
) -> None:
    options = EmbedOptions(layout=layout)
    whole, parts = ([tmp_path / f"{name}-{kind}" for kind in "pr"] for name in ("whole", "parts"))
    embed_fasta(tiny_model, fasta, *whole, options, 200)
    done = []
    for calls in (20, 35, 20):
        with pytest.raises(error) as stopped:
            embed_fasta(tiny_model, fasta, *parts, options, 200, progress=stop_after(calls, error))
        if error is KeyboardInterrupt:
            assert isinstance(stopped.value, ResumableInterrupt)
            assert "repeat the command to resume" in str(stopped.value)
        assert not parts[0].exists()
        assert (tmp_path / ".parts-p.partial").is_dir()
    summary = embed_fasta(tiny_model, fasta, *parts, options, 200, progress=lambda *at: done.append(at))
    assert summary.resumed > 0
    assert 0 < summary.computed < summary.residues
    assert done[0][0] > done[-1][0] / 8  # not from the start
    assert done[-1][0] == done[-1][1] == summary.residues
    for one, other in zip(whole, parts, strict=True):
        assert_same(one, other)
    assert not list(tmp_path.glob(".*"))


def test_a_run_may_be_resumed_with_another_token_budget(
    tiny_model: Performer, fasta: Path, tmp_path: Path, small_windows
) -> None:
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    embed_fasta(tiny_model, fasta, whole)
    with pytest.raises(StopError):
        embed_fasta(tiny_model, fasta, parts, token_budget=200, progress=stop_after(25, StopError))
    embed_fasta(tiny_model, fasta, parts, token_budget=90)
    for (name, one), (same, other) in zip(content(whole).items(), content(parts).items(), strict=True):
        assert name == same
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_a_run_stopped_before_anything_is_computed_leaves_nothing(
    tiny_model: Performer, fasta: Path, tmp_path: Path, monkeypatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        embed_fasta(tiny_model, fasta, tmp_path / "out.h5", reading=stop)
    assert not isinstance(stopped.value, ResumableInterrupt)
    monkeypatch.setattr(tiny_model, "representations", stop)
    with pytest.raises(KeyboardInterrupt):
        embed_fasta(tiny_model, fasta, tmp_path / "out.h5")
    assert listing(tmp_path) == [fasta.name]


KILLED = Path(__file__).with_name("killed.py")


@pytest.mark.slow
def test_a_run_killed_at_any_time_gives_the_same_result_bit_for_bit(
    model_folder: Path, fasta: Path, tmp_path: Path
) -> None:
    folder, kills = tmp_path / "outputs", 10
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(KILLED), str(model_folder), str(fasta), str(folder), str(kills)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(proteome.__file__).parents[2])},
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == list(LAYOUTS)
    for layout, *ends in lines:
        assert "failed" not in ends
        assert len(ends) - ends.count("done") == kills
        assert len(set(ends)) >= 4 - (layout in ("packed", *TABLES))
        for kind in ("proteins", "residues"):
            for number in range(ends.count("done")):
                assert_same(folder / f"{layout}-whole-{kind}", folder / f"{layout}-killed-{kind}-{number + 1}")
        outputs = [path for path in folder.glob(f"{layout}-*") if path.suffix != ".json"]  # of a CSV file
        assert len(outputs) == 2 + 2 * ends.count("done")
    assert not list(folder.glob(".*"))


@LAYOUT
def test_a_finished_output_is_not_touched(tiny_model: Performer, fasta: Path, tmp_path: Path, layout: str) -> None:
    options, outputs = EmbedOptions(layout=layout), (tmp_path / "p", tmp_path / "r")
    embed_fasta(tiny_model, fasta, *outputs, options)
    before = [(path.stat().st_mtime_ns, path.stat().st_ino) for path in outputs]
    assert embed_fasta(tiny_model, fasta, *outputs, options, token_budget=77).complete
    assert embed_fasta(tiny_model, fasta, *outputs, options, overwrite=True).complete
    assert [(path.stat().st_mtime_ns, path.stat().st_ino) for path in outputs] == before
    assert embed_fasta(tiny_model, fasta, outputs[0], None, options).complete
    (tmp_path / "other").mkdir()
    summary = embed_fasta(tiny_model, fasta, outputs[0], tmp_path / "other" / "r", options)  # only one is missing
    assert not summary.complete
    assert (outputs[0].stat().st_mtime_ns, outputs[0].stat().st_ino) == before[0]
    assert_same(outputs[1], tmp_path / "other" / "r")


def changed(model: Performer) -> Performer:
    """A model that differs in one weight."""
    other = Performer(model.config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.norm.bias[0] += 1e-3
    return other


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": (0, 1)}, "layers: 2 instead of 0, 1"),
        ({"pools": ("max",)}, "pool: mean instead of max"),
        ({"dtype": "float32"}, "dtype: float16 instead of float32"),
        ({"precision": "bfloat16"}, "precision: float32 instead of bfloat16"),
        ({"layout": "packed"}, "layout: uniprot instead of packed"),
        ({"identifier": "word"}, "id: accession instead of word"),
        ({"duplicates": "first"}, "duplicates: error instead of first"),
        ({"shard": (1, 2)}, "shard: 1/1 instead of 1/2"),
        ({}, "model: .* instead of "),
        (None, "source: .* bytes with checksum .* instead of "),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_an_output_made_differently_is_refused_with_the_difference(
    tiny_model: Performer, fasta: Path, tmp_path: Path, options, words: str, finished: bool, small_windows
) -> None:
    out, model = tmp_path / "out.h5", changed(tiny_model) if options == {} else tiny_model
    if finished:
        embed_fasta(tiny_model, fasta, out)
    else:
        with pytest.raises(StopError):
            embed_fasta(tiny_model, fasta, out, token_budget=200, progress=stop_after(25, StopError))
    if options is None:
        fasta.write_text(fasta.read_text() + ">more\nMKT\n")
    changed_options = EmbedOptions(**(options or {}))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=f"out.h5.*{words}.*overwrite"):
        embed_fasta(model, fasta, out, options=changed_options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    embed_fasta(model, fasta, out, options=changed_options, overwrite=True)
    embed_fasta(model, fasta, tmp_path / "new.h5", options=changed_options)
    assert_same(out, tmp_path / "new.h5")
    assert listing(tmp_path) == sorted(["new.h5", "out.h5", fasta.name])


def test_a_file_not_written_by_protlm_is_refused(tiny_model: Performer, fasta: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out.h5", tmp_path / "folder"
    out.write_text("precious")
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(
        UserError, match="holds no embeddings written by protlm; choose another output, or set overwrite"
    ):
        embed_fasta(tiny_model, fasta, out)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="folder"):
            embed_fasta(tiny_model, fasta, folder, None, EmbedOptions(layout="esm-pt"), overwrite=overwrite)
        with pytest.raises(UserError, match="is a folder"):
            embed_fasta(tiny_model, fasta, folder, overwrite=overwrite)
    with pytest.raises(UserError, match="expected the name of a folder"):
        embed_fasta(tiny_model, fasta, out, None, EmbedOptions(layout="esm-pt"), overwrite=True)
    assert out.read_text() == (folder / "thesis.tex").read_text() == "precious"
    assert listing(tmp_path) == ["folder", "out.h5", fasta.name]
    embed_fasta(tiny_model, fasta, out, overwrite=True)
    assert len(content(out)) == 200


@pytest.mark.parametrize(
    ("records", "match"),
    [
        (
            [("a", "MKT"), ("sp|b|X_Y", "MK"), ("c", "M"), ("b", "MKV")],
            "duplicate identifier 'b' .records 2 and 4",
        ),
        ([("a", "MKT"), (".", "MK")], "cannot be the name of an HDF5 dataset"),
        ([("a", "MKT"), ("b", "M1")], r"record 2 \(b\), line 4"),
        ([("a", "ACGT" * 20)], "nucleotides"),
        ([("a", "*")], "no record has a sequence"),
    ],
)
def test_an_unusable_fasta_is_refused_before_anything_is_computed(
    tiny_model: Performer, write_fasta, tmp_path: Path, monkeypatch, records, match: str
) -> None:
    path = write_fasta(records)
    before = listing(tmp_path)
    monkeypatch.setattr(tiny_model, "representations", None)
    with pytest.raises(UserError, match=match):
        embed_fasta(tiny_model, path, tmp_path / "p.h5", tmp_path / "r.h5", token_budget=8)
    assert listing(tmp_path) == before


def test_a_name_too_long_for_a_file_is_refused(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    path = write_fasta([("a", "MKT"), ("b" * 253, "MKT")])
    with pytest.raises(UserError, match="record 2 .*identifier of 253 bytes"):
        embed_fasta(tiny_model, path, tmp_path / "out", None, EmbedOptions(layout="esm-pt"))
    assert listing(tmp_path) == [path.name]


def test_unwritable_outputs_are_refused(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("a", "MKT")])
    text = fasta.read_text()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(fasta)
    before = listing(tmp_path)
    good = tmp_path / "good.h5"
    for outputs in (
        (tmp_path / "absent" / "out.h5", None),
        (tmp_path / "folder", None),
        (fasta, None),
        (tmp_path / "link", None),
        (good, tmp_path / "absent" / "out.h5"),
        (good, tmp_path / "folder"),
        (good, good),
        (good, tmp_path / "folder" / ".." / "good.h5"),
        (None, None),
    ):
        with pytest.raises(UserError):
            embed_fasta(tiny_model, fasta, *outputs, overwrite=True)
        assert listing(tmp_path) == before
    assert fasta.read_text() == text


@pytest.mark.parametrize(
    ("scale", "words"), [(1e5, "maximum of float16 is 65,504"), (float("nan"), "output is not finite")]
)
@pytest.mark.parametrize("per_residue", [True, False])
def test_values_that_cannot_be_stored_are_refused(
    tiny_model: Performer, fasta: Path, tmp_path: Path, scale: float, words: str, per_residue: bool
) -> None:
    with torch.no_grad():
        tiny_model.norm.weight *= scale
    outputs = (None, tmp_path / "out.h5") if per_residue else (tmp_path / "out.h5", None)
    with pytest.raises(UserError, match=rf"protein p\d+: .*{words}"):
        embed_fasta(tiny_model, fasta, *outputs)
    assert listing(tmp_path) == [fasta.name]
    if scale == 1e5:
        embed_fasta(tiny_model, fasta, *outputs, EmbedOptions(dtype="float32"))


def test_two_runs_do_not_write_the_same_output(tiny_model: Performer, fasta: Path, tmp_path: Path) -> None:
    def second(*_: object) -> None:
        with pytest.raises(BusyError, match="r.h5: another process"):
            embed_fasta(tiny_model, fasta, tmp_path / "q.h5", tmp_path / "r.h5")

    embed_fasta(tiny_model, fasta, tmp_path / "p.h5", tmp_path / "r.h5", progress=second)
    assert listing(tmp_path) == ["p.h5", fasta.name, "r.h5"]


@pytest.mark.parametrize(("layout", "parts"), [*((layout, 3) for layout in LAYOUTS), ("packed", 40)])
def test_shards_equal_a_single_run(
    tiny_model: Performer, write_fasta, tmp_path: Path, small_windows, layout: str, parts: int
) -> None:
    chance = random.Random(1)
    path = write_fasta(
        (f"a/{i}" if i % 7 == 0 else f"p{i}", "".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=chance.randint(9, 90))))
        for i in range(150)
    )
    whole = [tmp_path / f"whole-{kind}" for kind in "pr"]
    embed_fasta(tiny_model, path, *whole, EmbedOptions(layout=layout, dtype="float32"))
    shards = [[tmp_path / f"{part}-{kind}" for kind in "pr"] for part in range(1, parts + 1)]
    sizes = [
        embed_fasta(
            tiny_model, path, *shard, EmbedOptions(layout=layout, dtype="float32", shard=(number, parts))
        ).residues
        for number, shard in enumerate(shards, start=1)
    ]
    assert max(sizes) - min(sizes) <= 2 * 92
    for kind in range(2):
        merged = tmp_path / f"merged-{kind}"
        found = merge_shards([shard[kind] for shard in reversed(shards)], merged)
        assert found["proteins"] == 150
        assert_near(whole[kind], merged)
        outputs = (None, merged) if kind else (merged, None)
        assert embed_fasta(tiny_model, path, *outputs, EmbedOptions(layout=layout, dtype="float32")).complete


def test_a_partial_output_of_an_earlier_version_is_removed(tiny_model: Performer, fasta: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.h5.partial"
    left.mkdir()
    (left / "about.json").write_text("{}")
    (left / "protlm.json").write_text("{")
    (left / "data").write_text("half")
    (left / "windows").mkdir()
    (left / "windows" / "0").write_text("half")
    assert embed_fasta(tiny_model, fasta, tmp_path / "out.h5").resumed == 0
    assert listing(tmp_path) == ["out.h5", fasta.name]


def test_a_window_is_on_disk_before_it_counts(
    tiny_model: Performer, fasta: Path, tmp_path: Path, small_windows, monkeypatch
) -> None:
    """After a power failure a file may have its name without its content, unless `fsync` came before the renaming."""
    synced, renamed = [], []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (renamed.append((os.stat(old).st_ino, new)), replace(old, new)))
    embed_fasta(tiny_model, fasta, tmp_path / "out.h5")
    windows = [number for number, target in renamed if Path(target).parent.name == "windows"]
    assert len(windows) > 5
    assert set(windows) <= set(synced)
    assert renamed[-1][0] in synced


def test_leftovers_of_a_run_killed_after_its_last_step_are_removed(
    tiny_model: Performer, fasta: Path, tmp_path: Path, monkeypatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(PartialOutput, "clear", lambda self: None)
        embed_fasta(tiny_model, fasta, tmp_path / "out.h5")
    assert (tmp_path / ".out.h5.partial" / "windows").is_dir()
    assert embed_fasta(tiny_model, fasta, tmp_path / "out.h5").complete
    assert listing(tmp_path) == ["out.h5", fasta.name]


def test_windows_of_another_size_are_computed_again(
    tiny_model: Performer, fasta: Path, tmp_path: Path, small_windows, monkeypatch
) -> None:
    whole, out = tmp_path / "whole.h5", tmp_path / "out.h5"
    with pytest.raises(StopError):
        embed_fasta(tiny_model, fasta, out, token_budget=200, progress=stop_after(25, StopError))
    monkeypatch.setattr(survey, "WINDOW_TOKENS", 1_700)
    embed_fasta(tiny_model, fasta, out, token_budget=200)
    embed_fasta(tiny_model, fasta, whole, token_budget=200)
    assert_same(whole, out)


def test_too_little_disk_space_is_reported_before_anything_is_computed(
    tiny_model: Performer, fasta: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tiny_model, "representations", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 16 * 2 * 2))
    with pytest.raises(UserError, match=r"out.h5: cannot be written \(0.0 GB are needed, half of them temporarily"):
        embed_fasta(tiny_model, fasta, tmp_path / "out.h5", options=EmbedOptions(layout="packed"))
    assert listing(tmp_path) == [fasta.name]


def test_the_file_has_the_permissions_of_any_new_file(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    embed_fasta(tiny_model, write_fasta([("a", "MKT")]), tmp_path / "out.h5")
    (tmp_path / "any").touch()
    assert (tmp_path / "out.h5").stat().st_mode == (tmp_path / "any").stat().st_mode
