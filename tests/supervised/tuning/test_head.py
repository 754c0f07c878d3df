"""A head predicts what its probe does before its first step, and what it predicts does not depend on padding."""

import numpy as np
import pandas
import pytest
import torch

from protlm.supervised.features import LAYER, blocks_of
from protlm.supervised.fit import fit_probe
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.labels import read_labels
from protlm.supervised.tuning.head import POOLINGS, TunedHead
from tests.supervised.proteins import proteins, variants


def learned(model, level: str):
    """A probe of each kind: of classes, of values, of residues."""
    sequences, labels = proteins(60)
    if level == "values":
        labels = [sequence.count("K") / 7 for sequence in sequences]
    if level == "residues":
        labels = ["".join("+" if one in "KR" else "o" for one in sequence) for sequence in sequences]
    if level == "variants":
        sequences, labels = variants(60)
    table = pandas.DataFrame({"sequence": sequences, "label": labels, "split": ["train", "train", "test"] * 20})
    labelled = read_labels(table)
    found = fit_probe(labelled, model, FitOptions(relatives=False))
    rows = labelled.targets[0].of(found.partition.final.train)
    return found.learned[0], labelled.targets[0].y[rows]


@pytest.mark.parametrize("level", ["classes", "values", "residues", "variants"])
def test_it_starts_as_its_probe(tiny_model, level):
    probe, y = learned(tiny_model, level)
    head = TunedHead.of(probe, y, 16, 2).eval()
    sequences = variants(2, seed=1)[0] if level == "variants" else ["MKTAYIAKQR", "EEEEKTWYC"]
    for own, whole in zip(
        blocks_of(sequences, probe.head.inputs, probe.head.per_residue, tiny_model),
        blocks_of(sequences, head.inputs, True, tiny_model),
        strict=True,
    ):
        np.testing.assert_allclose(head.answers(whole), probe.head.answers(own), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("per_residue", [False, True])
def test_padding_and_other_proteins_do_not_matter(pooling, per_residue):
    """The network is given weights, since at 0 it could not differ."""
    torch.manual_seed(0)
    head = TunedHead("x", "classification", per_residue, ("a", "b"), (f"{LAYER}1",), 8, 8, 2, pooling=pooling).eval()
    torch.nn.init.normal_(head.branch.leave.weight)
    torch.nn.init.normal_(head.weight)
    x = torch.randn(2, 30, 8)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[0, 1:29], mask[1, 1:12] = True, True
    x[~mask] = 1e6
    both = head({1: x, 2: x}, mask, {})
    alone = x[1:, 1:12]
    single = head({1: alone, 2: alone}, torch.ones(1, 11, dtype=torch.bool), {})
    found = both[1:, 1:12] if per_residue else both[1:]
    torch.testing.assert_close(found, single, rtol=1e-5, atol=1e-5)


def test_a_description_makes_an_equal_head():
    head = TunedHead("x", "regression", False, (), (f"{LAYER}1", "composition"), 29, 8, 2, hidden=5, pooling="mean")
    other = TunedHead.from_description(head.described)
    assert other.described == head.described
    other.load_state_dict(head.state_dict())
    assert (other.layers, other.inputs) == ([1, 2], [f"{LAYER}1", f"{LAYER}2", "composition"])
