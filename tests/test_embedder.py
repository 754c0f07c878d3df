import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import protlm
from protlm import embedder, model_api
from protlm.checkpoint import export
from protlm.errors import UserError
from protlm.performer import Performer
from tests.test_engines import RECORDS

SEQUENCES = RECORDS["sequence"]


@pytest.fixture(autouse=True)
def fresh_process() -> None:
    embedder._loaded.cache_clear()


@pytest.mark.parametrize("kind", ["lists", "arrays", "pandas", "table", "record batch"])
def test_a_batch_gets_a_column_and_keeps_the_others(model_folder: Path, kind: str) -> None:
    batch = {
        "lists": RECORDS,
        "arrays": {name: np.array(values, dtype=object) for name, values in RECORDS.items()},
        "pandas": pd.DataFrame(RECORDS, index=[7, 8, 9]),
        "table": pa.table(RECORDS),
        "record batch": pa.RecordBatch.from_pydict(RECORDS),
    }[kind]
    found = protlm.Embedder(model_folder, device="cpu")(batch)
    assert list(found) == ["id", "organism", "sequence", "embedding"]
    for name, values in RECORDS.items():
        assert list(found[name]) == values
    expected = protlm.load(model_folder).embed(SEQUENCES)
    np.testing.assert_array_equal(found["embedding"], expected)


def test_options_are_those_of_embed(model_folder: Path) -> None:
    options = {"pool": "max", "layers": (0, -1), "token_budget": 20}
    found = protlm.Embedder(model_folder, "s", "e", device="cpu", **options)({"s": SEQUENCES})["e"]
    np.testing.assert_array_equal(found, protlm.load(model_folder).embed(SEQUENCES, **options))


def test_no_records_give_no_rows(model_folder: Path) -> None:
    assert protlm.Embedder(model_folder)({"sequence": []})["embedding"].shape == (0, 16)


def test_the_model_is_loaded_once_in_each_process_and_again_if_it_changed(
    model_folder: Path, tiny_model: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], model_api.load
    monkeypatch.setattr(model_api, "load", lambda *given: (loaded.append(given), load(*given))[1])
    one = protlm.Embedder(model_folder, device="cpu")
    sent = pickle.dumps(one)
    assert len(sent) < 2_000
    assert loaded == []
    for _ in range(3):
        first = pickle.loads(sent)(RECORDS)["embedding"]
    assert len(loaded) == 1
    tiny_model.norm.bias.data += 1
    shutil.rmtree(model_folder)
    export(tiny_model, model_folder)
    assert not np.array_equal(one(RECORDS)["embedding"], first)
    assert len(loaded) == 2


def test_a_relative_path_holds_in_another_folder(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_folder.parent)
    one = protlm.Embedder(model_folder.name)
    monkeypatch.chdir("/")
    assert len(one(RECORDS)["embedding"]) == 3


def test_map_pandas_is_what_spark_calls(model_folder: Path) -> None:
    frames = [pd.DataFrame(RECORDS), pd.DataFrame({name: values[:1] for name, values in RECORDS.items()})]
    found = list(protlm.Embedder(model_folder, device="cpu").map_pandas(iter(frames)))
    assert [len(frame) for frame in found] == [3, 1]
    assert list(found[0]) == ["id", "organism", "sequence", "embedding"]
    assert isinstance(found[0]["embedding"][0], list)  # Spark's array<float>
    np.testing.assert_allclose(np.stack(found[0]["embedding"]), protlm.load(model_folder).embed(SEQUENCES), atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"seq": ["MKT"]}, "no column 'sequence'; the batch has 'seq'"),
        ({}, "the batch has none"),
        ({"sequence": ["MKT"], "embedding": [1]}, "has a column 'embedding' already"),
        ({"sequence": ["MKT", None], "id": ["a", "b"]}, "protein b: expected a sequence, got None"),
        ({"sequence": ["MKT", ""]}, "protein 2: expected a sequence, got ''"),
        ({"sequence": ["MKT", float("nan")]}, "protein 2: expected a sequence, got nan"),
        ({"sequence": "MKT"}, "the column 'sequence' is a string; expected a list"),
        ({"sequence": ["MKT", "MK"], "id": ["a"]}, "2 sequences and 1 in the column 'id'"),
        (["MKT"], "a batch of type list: expected a dictionary of columns"),
    ],
)
def test_a_batch_that_cannot_be_used_is_refused(model_folder: Path, batch: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        protlm.Embedder(model_folder)(batch)


def test_columns_are_found_in_any_case(model_folder: Path) -> None:
    embedder = protlm.Embedder(model_folder)
    lower, upper = (embedder(columns)["embedding"] for columns in ({"sequence": ["MKT"]}, {"Sequence": ["MKT"]}))
    assert (lower == upper).all()
    with pytest.raises(UserError, match="protein b: expected a sequence"):
        embedder({"ID": ["b"], "SEQUENCE": [""]})
    both = {"Sequence": ["GGG"], "sequence": ["MKT"]}  # the exact name, if there is one
    assert (embedder(both)["embedding"] == lower).all()
    with pytest.raises(UserError, match="no column 'sequence'; the batch has 'Sequence', 'SEQUENCE'"):
        embedder({"Sequence": ["MKT"], "SEQUENCE": ["MKT"]})


def test_a_model_that_does_not_exist_is_refused_before_it_is_sent() -> None:
    with pytest.raises(UserError, match="absent: no such model"):
        protlm.Embedder("absent")


def test_an_object_in_place_of_a_path_is_refused(tiny_model: Performer) -> None:
    with pytest.raises(UserError, match="expected the path of a model, which each process loads itself, got Performer"):
        protlm.Embedder(tiny_model)
    with pytest.raises(UserError, match="expected the path of a model, got Performer"):
        protlm.load(tiny_model)


@pytest.mark.slow
def test_an_embedder_is_made_without_torch(model_folder: Path) -> None:
    code = f"import sys, protlm; protlm.Embedder({str(model_folder)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
