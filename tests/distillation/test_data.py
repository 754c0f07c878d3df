"""The batches of a distillation: long proteins at first, then all."""

import itertools

import numpy as np
import pytest

from protlm.batching.samplers import EndlessBatches
from protlm.distillation.data import DistillationData, StagedBatches
from protlm.errors import UserError


@pytest.fixture
def data(write_fasta, proteins, monkeypatch) -> DistillationData:
    """Of which the first seven batches are matched, with blocks of 20."""
    path = write_fasta(proteins)
    monkeypatch.chdir(path.parent)
    made = DistillationData(match=7, block=20, fasta=str(path), max_length=60, token_budget=400)
    made.prepare_data()
    return made


def keys(samples: StagedBatches, count: int, start=None) -> list[list[list[int]]]:
    return [key.tolist() for key in itertools.islice(EndlessBatches(samples, start=start), count)]


def test_the_first_batches_have_long_proteins_and_later_ones_all(data: DistillationData, capsys) -> None:
    samples = data._endless_batches()
    assert "leaves out" in capsys.readouterr().out
    found = keys(samples, 60)
    lengths = [samples.corpora.lengths_of(np.array(key)[:, 1]) + 2 for key in found]
    assert min(map(min, lengths[:7])) > 40
    per_epoch = data.epoch_batches()
    drawn = sorted(protein for key in found[7 : 7 + per_epoch] for _, protein in key)
    assert drawn == sorted(samples.draws(0, 0, samples.draws.size)[1].tolist())
    assert samples[np.array(found[0])].inputs.shape[1] > 40


def test_a_resumed_run_gets_the_remaining_batches(data: DistillationData) -> None:
    samples, used = data._endless_batches(), 0
    sampler = EndlessBatches(samples, consumed=lambda: used)
    taken = [key.tolist() for key in itertools.islice(sampler, 40)]
    for used in (3, 7, 8, 30):
        place = sampler.position()
        assert keys(samples, 5, place) == taken[used : used + 5]


def test_without_a_first_stage_nothing_is_left_out(data: DistillationData, capsys) -> None:
    data.match = 0
    assert keys(data._endless_batches(), 30) == keys(data._training_batches(), 30)
    assert capsys.readouterr().out == ""


def test_only_short_proteins_are_refused(data: DistillationData) -> None:
    data.max_length = 200
    data.block = 60
    with pytest.raises(UserError, match="no training protein has more than 118 residues, two blocks"):
        data._endless_batches()
    with pytest.raises(UserError, match="max_length 60: at most two blocks of 30"):
        DistillationData(match=1, block=30, corpus="any.h5", max_length=60)
