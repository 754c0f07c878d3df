"""Batches without padding give the results of padded ones."""

import numpy as np
import pytest
import torch

from protlm.batching.batches import Batch, collate
from protlm.inference.packing import pack
from protlm.performer import Performer, PerformerConfig

LENGTHS = [5, 9, 1]


def padded(segments: bool = False) -> Batch:
    chance = np.random.default_rng(0)
    samples = [
        (chance.integers(4, 24, n), np.where(chance.random(n) < 0.5, chance.integers(4, 24, n), -100), np.ones(n, bool))
        for n in LENGTHS
    ]
    batch = collate(samples)
    if not segments:
        return batch
    return batch._replace(segments=torch.arange(9).expand(3, 9) // 4)


def test_sequences_follow_one_another_without_padding():
    batch = padded()
    packed = pack(batch._replace(key=np.zeros((3, 2), np.int64)))
    assert packed.segments.cu_seqlens.tolist() == [0, 5, 14, 15]
    assert packed.segments.cu_seqlens.dtype == torch.int32
    assert packed.segments.max_length == 9
    assert packed.inputs.shape == packed.targets.shape == packed.scored.shape == (1, 15)
    assert packed.key_mask.all()
    assert torch.equal(packed.inputs[0, 5:14], batch.inputs[1])
    assert len(packed.key) == 3


def test_segments_of_rows_become_sequences():
    assert pack(padded(segments=True)).segments.cu_seqlens.tolist() == [0, 4, 5, 9, 13, 14, 15]


@pytest.mark.parametrize("kind", ["relu", "softmax", "exact", "window"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("segments", [False, True])
def test_the_loss_and_its_gradients_are_the_same(kind, causal, segments):
    torch.manual_seed(0)
    config = PerformerConfig(33, 1, 2, 2, 16, 16, kind, causal, positions="both", max_length=8, dropout=0.0)
    model, results = Performer(config), []
    for batch in (padded(segments), pack(padded(segments))):
        loss = model.loss(model(batch.inputs, batch.key_mask, batch.segments), batch.targets)
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
