from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from protlm.embedding.in_memory import embed
from protlm.errors import UserError
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import encode, with_ends
from protlm.sequence.fasta import FastaFile

# shorter than, as long as, and longer than the positions of the tiny model
SEQUENCES = ["MKT", "M", "GAVLIMCFYWHKRQNEDSTPXBZUO" * 5, "MKTAYIAKQRQISFVKSHFSRQ", "W" * 62, "MKT"]


@pytest.mark.parametrize("token_budget", [1, 64, 150, 100_000])
@pytest.mark.parametrize("pool", [None, "mean", "bos", "max"])
def test_batches_and_order_change_nothing(tiny_model: Performer, token_budget: int, pool: str | None) -> None:
    for order in (list(range(6)), [5, 2, 0, 4, 1, 3]):
        together = list(embed(tiny_model, [SEQUENCES[i] for i in order], token_budget, (0, -1), pool))
        for i, rows in zip(order, together, strict=True):
            (alone,) = embed(tiny_model, [SEQUENCES[i]], layers=(0, -1), pool=pool)
            assert rows.dtype == np.float32
            assert rows.shape == ((2, 16) if pool else (2, len(SEQUENCES[i]), 16))
            np.testing.assert_allclose(rows, alone, atol=1e-5)


@pytest.mark.parametrize("attention", ["relu", "softmax", "exact"])
def test_real_proteins_alone_and_in_batches(sample: Path, attention: str) -> None:
    """In any order, with one thread and with two."""
    proteins = [record.sequence for record in islice(FastaFile(sample), 0, 2000, 50)]
    torch.manual_seed(0)
    model = Performer(PerformerConfig(33, 1, 2, 2, 32, 64, attention=attention, num_features=16, positions="rotary"))
    model.eval()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [next(embed(model, [protein])) for protein in proteins]
        assert len(alone) == 40
        for count in (1, 2):
            torch.set_num_threads(count)
            for order in (np.arange(40), np.random.default_rng(count).permutation(40)):
                together = embed(model, [proteins[i] for i in order], 3_000)
                for i, rows in zip(order, together, strict=True):
                    np.testing.assert_allclose(rows, alone[i], atol=1e-5)
    finally:
        torch.set_num_threads(threads)


def test_rows_are_the_residues_of_the_last_norm(tiny_model: Performer) -> None:
    (rows,) = embed(tiny_model, ["MKTAYIAK"])
    with torch.inference_mode():
        hidden = tiny_model.hidden(torch.from_numpy(with_ends(encode("MKTAYIAK"))).long()[None])[0]
    np.testing.assert_allclose(rows, hidden[1:-1], atol=1e-6)
    assert np.abs(np.diff(rows, axis=0)).max() > 0.1  # and not all equal


@pytest.mark.parametrize("layers", [(-1,), (1,), (0, 1, 2), (2, -3)])
def test_layers_and_poolings(tiny_model: Performer, layers: tuple[int, ...]) -> None:
    tokens = torch.from_numpy(with_ends(encode("MKTAYIAK"))).long()[None]
    with torch.inference_mode():
        every = tiny_model.representations(tokens, {0, 1, 2})
    expected = torch.stack([every[layer % 3][0] for layer in layers])
    for pool, values in (
        ("mean", expected[:, 1:-1].mean(1)),
        ("max", expected[:, 1:-1].amax(1)),
        ("bos", expected[:, 0]),
        (None, expected[:, 1:-1]),
    ):
        found, _ = embed(tiny_model, ["MKTAYIAK", "MKTAYIAKQRQISF"], layers=layers, pool=pool)
        np.testing.assert_allclose(found, values[0] if len(layers) == 1 else values, atol=1e-5)


def test_windows_change_nothing(tiny_model: Performer, monkeypatch) -> None:
    whole = list(embed(tiny_model, iter(SEQUENCES)))
    monkeypatch.setattr("protlm.inference.engine.WINDOW_RESIDUES", 20)
    for one, other in zip(whole, embed(tiny_model, iter(SEQUENCES)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_no_sequences_give_no_embeddings(tiny_model: Performer) -> None:
    assert list(embed(tiny_model, [])) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": (3,)}, "layer 3: expected 0"),
        ({"layers": (-4,)}, "layer -4"),
        ({"layers": (2, -1)}, "each once"),
        ({"layers": ()}, "at least one"),
        ({"pool": "sum"}, "pool 'sum'"),
        ({"precision": "half"}, "precision 'half'"),
    ],
)
def test_unknown_options_are_refused_at_once(tiny_model: Performer, options, words: str) -> None:
    with pytest.raises(UserError, match=words):
        embed(tiny_model, SEQUENCES, **options)


def test_an_invalid_sequence_is_refused_with_its_number(tiny_model: Performer) -> None:
    with pytest.raises(UserError, match="sequence 2 is empty"):
        list(embed(tiny_model, ["MKT", ""]))
    with pytest.raises(UserError, match="sequence 1: '1'"):
        list(embed(tiny_model, ["M1"]))
