import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protlm.errors import UserError
from protlm.inference.engine import Computer, batches, check_finite, encoded
from protlm.performer import Performer

SEQUENCES = ["MKT" * 9, "M", "GAVLIMCFYW" * 5, "MKTAYIAKQRQISFVKSHFSRQ", "W" * 40, "MKT", "MKV", "MKR"]


def hidden(computer: Computer, skip: int = 0) -> dict[int, np.ndarray]:
    rows, found = encoded(computer.model, SEQUENCES), {}

    def read(batch, _):
        return batch.split(batch.hidden(computer.model).float().numpy())

    for batch, result in computer(rows, read, skip):
        for index, row in zip(batch.tolist(), result, strict=True):
            assert index not in found
            found[index] = row
    return found


@given(st.lists(st.integers(3, 500), max_size=60), st.integers(1, 5_000))
def test_each_row_is_in_one_batch_within_the_budget(lengths: list[int], token_budget: int) -> None:
    groups = batches(np.array(lengths, dtype=np.int64), token_budget)
    assert sorted(index for group in groups for index in group.tolist()) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= token_budget
    longest = [max(lengths[i] for i in group) for group in groups]
    assert longest == sorted(longest, reverse=True)


def test_batches_have_little_padding() -> None:
    lengths = np.random.default_rng(1).gamma(2, 180, 700).astype(np.int64) + 20
    padded = sum(len(group) * lengths[group].max() for group in batches(lengths, 16_384))
    assert padded < 1.06 * lengths.sum()


@pytest.mark.parametrize("most", [60, 130])
def test_out_of_memory_halves_the_batches_and_changes_nothing_else(
    tiny_model: Performer, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    expected = hidden(Computer(tiny_model))
    real, refused = tiny_model.hidden, []

    def scarce(tokens, *others):
        if tokens.numel() > most:
            refused.append(tokens.shape)
            raise torch.OutOfMemoryError("out of memory")
        return real(tokens, *others)

    monkeypatch.setattr(tiny_model, "hidden", scarce)
    computer = Computer(tiny_model)
    found = hidden(computer)
    assert refused
    assert computer.token_budget < 16_384
    assert sorted(found) == list(range(len(SEQUENCES)))
    for index, rows in found.items():
        np.testing.assert_allclose(rows, expected[index], atol=1e-5)


def test_a_protein_too_large_for_the_memory_is_named_by_its_length(tiny_model: Performer, monkeypatch) -> None:
    def scarce(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(tiny_model, "hidden", scarce)
    with pytest.raises(UserError, match="out of memory on cpu for a protein of 50 residues"):
        hidden(Computer(tiny_model))


def test_other_errors_are_not_mistaken_for_out_of_memory(tiny_model: Performer, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(tiny_model, "hidden", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        hidden(Computer(tiny_model))


def test_finished_batches_are_skipped(tiny_model: Performer) -> None:
    whole = hidden(Computer(tiny_model, 64))
    rest = hidden(Computer(tiny_model, 64), skip=2)
    assert 0 < len(rest) < len(whole)
    for index, rows in rest.items():
        np.testing.assert_array_equal(rows, whole[index])


def test_only_the_time_in_the_model_counts(tiny_model: Performer) -> None:
    computer, started = Computer(tiny_model, 40), time.perf_counter()
    for _ in computer([np.full(9, 5, np.uint8)] * 12, lambda batch, _: batch.logits(tiny_model)):
        time.sleep(0.1)  # as for writing
    assert 0 < computer.seconds <= time.perf_counter() - started - 0.3


def test_bfloat16_is_close_to_float32_but_not_equal(tiny_model: Performer) -> None:
    exact, rough = hidden(Computer(tiny_model)), hidden(Computer(tiny_model, precision="bfloat16"))
    worst = max(np.abs(exact[index] - rough[index]).max() for index in exact)
    assert 1e-6 < worst < 0.1
    with pytest.raises(UserError, match="precision 'float8'"):
        Computer(tiny_model, precision="float8")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_is_refused_with_its_source(value: float) -> None:
    check_finite(np.array([1.0, -2.0], dtype=np.float32))
    with pytest.raises(UserError, match="^protein P1: the model's output is not finite"):
        check_finite(np.array([1.0, value], dtype=np.float32), "protein P1")
    with pytest.raises(UserError, match="^the model's output is not finite"):
        check_finite(np.array([[value]]))
