"""Batches of labelled proteins: each protein once per epoch, labels beside their residues, also in crops."""

import numpy as np
import pandas

from protlm.sequence.alphabet import CLS, EOS, PAD, encode
from protlm.supervised.labels import read_labels
from protlm.supervised.tuning.batches import MISSING, LabelledBatches
from tests.supervised.proteins import proteins


def batches(labels, sequences, max_length=None, blocks=(), **options) -> LabelledBatches:
    labelled = read_labels(pandas.DataFrame({"sequence": sequences, "label": labels}))
    numbers = np.arange(len(sequences))
    return LabelledBatches(labelled, numbers, CLS, blocks, 200, 1, max_length, **options)


def test_each_protein_comes_once_per_epoch_in_another_order():
    sequences, labels = proteins(40)
    made = batches(labels, sequences)
    for epoch in (0, 1):
        keys = np.concatenate(list(made.plan(epoch)))
        assert sorted(keys[:, 1].tolist()) == list(range(40))
    orders = [np.concatenate(list(made.plan(epoch)))[:, 1].tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert len(list(made.plan(0))) == made.count()[0]
    for key in made.plan(0):
        batch = made[key]
        assert batch.inputs.numel() <= 200
        assert [("acidic", "basic")[label] for label in batch.labels[0].tolist()] == [labels[n] for n in key[:, 1]]


def test_labels_of_residues_stay_beside_them_in_crops():
    """Each residue's label is a letter that follows from it."""
    sequences, _ = proteins(30, length=50)
    letters = ["".join("x" if one in "AC" else "-" if one == "W" else "y" for one in s) for s in sequences]
    made = batches(letters, sequences, max_length=20, blocks=("window",))
    for key in made.plan(0):
        batch = made[key]
        assert batch.inputs.shape[1] == 22
        assert (batch.inputs[:, 0] == CLS).all()
        assert (batch.residues.sum(1) == 20).all()
        tokens, labels = batch.inputs[batch.residues].numpy(), batch.labels[0][batch.residues].numpy()
        expected = np.where(np.isin(tokens, encode("AC")), 0, np.where(tokens == encode("W")[0], MISSING, 1))
        np.testing.assert_array_equal(labels, expected)
        assert (batch.labels[0][~batch.residues] == MISSING).all()
        centre = batch.blocks["window"][batch.residues].reshape(-1, 15, 21)[:, 7].argmax(1).numpy()
        letter = np.array(list("ACDEFGHIKLMNPQRSTVWY"))[centre]
        np.testing.assert_array_equal(np.array([encode(one)[0] for one in letter]), tokens)


def test_padding_missing_labels_and_stored_representations():
    sequences, values = ["MKT", "MKTAYIAKQR", "MKTAY"] * 4, [1.5, None, 3.0] * 4
    stored = [np.full((2, len(sequence), 3), number, dtype=np.float16) for number, sequence in enumerate(sequences)]
    made = batches(values, sequences, stored=stored)
    (key,) = made.plan(0)
    batch = made[key]
    assert (batch.inputs == PAD).sum() == sum(10 - len(sequence) for sequence in sequences)
    assert batch.labels[0].isnan().sum() == 4
    for row, number in enumerate(key[:, 1]):
        own = batch.stored[row][:, batch.residues[row]]
        assert own.shape == (2, len(sequences[number]), 3)
        assert (own == number).all()
        assert batch.inputs[row, len(sequences[number]) + 1] == EOS
    unscored = made[~key]
    assert unscored.labels[0].isnan().all()
