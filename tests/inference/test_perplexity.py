import math

import numpy as np
import pytest
import torch

from protlm.batching.masking import Masking
from protlm.errors import UserError
from protlm.inference.engine import Computer
from protlm.inference.perplexity import perplexities, pseudo_perplexity, write_perplexities
from protlm.inference.probabilities import masked_own, unmasked_own
from protlm.inference.sequences import InputSequences
from protlm.performer import Performer
from protlm.sequence.alphabet import INDEX, MASK, STANDARD, encode, with_ends
from protlm.sequence.fasta import FastaFile
from tests.inference.toys import random_table, table_model

SEQUENCES = ["MKTAYIAKQR", "M", "GAVLIMCFYWGAVLIMCFYW", "MKXBAZ"]
TWENTY = [INDEX[letter] for letter in STANDARD]


@torch.inference_mode()
def log_p(model: Performer, tokens: np.ndarray) -> np.ndarray:
    return model(torch.from_numpy(tokens).long()[None])[0].double().log_softmax(-1).numpy()


def slow(model: Performer, sequence: str) -> float:
    """One mask at a time, one protein at a time."""
    own = []
    for i, letter in enumerate(sequence, start=1):
        if letter in STANDARD:
            tokens = with_ends(encode(sequence))
            if model.config.causal:
                own.append(log_p(model, tokens[:i])[-1, INDEX[letter]])
            else:
                tokens[i] = MASK
                own.append(log_p(model, tokens)[i, INDEX[letter]])
    return math.exp(-sum(own) / len(own))


def test_perplexity_follows_the_definition_at_any_batch_size(tiny_model: Performer, causal_model: Performer) -> None:
    for model in (tiny_model, causal_model):
        expected = [slow(model, sequence) for sequence in SEQUENCES]
        assert len(set(np.round(expected, 3))) == len(expected)
        for token_budget in (1, 40, 16_384):
            found = pseudo_perplexity(model, SEQUENCES, token_budget=token_budget)
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_masked_position_is_the_scored_one() -> None:
    by_place, by_token = random_table(22), random_table(33)
    sequence = SEQUENCES[2]
    own = [by_place[i, INDEX[letter]] for i, letter in enumerate(sequence, start=1)]
    value = pseudo_perplexity(table_model(by_place, "place"), [sequence])
    assert value[0] == pytest.approx(math.exp(-np.mean(own)), rel=1e-5)
    own = [by_token[MASK, INDEX[letter]] for letter in sequence]
    value = pseudo_perplexity(table_model(by_token, "token"), [sequence])
    assert value[0] == pytest.approx(math.exp(-np.mean(own)), rel=1e-5)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    for causal in (False, True):
        model = table_model(np.full((33, 33), -math.log(33)), "token", causal)
        np.testing.assert_allclose(pseudo_perplexity(model, SEQUENCES), 33, rtol=1e-5)


@pytest.mark.parametrize(("keep", "random"), [(0.1, 0.1), (0.1, 0.8), (0.05, 0.15), (0.0, 0.2), (0.0, 0.0)])
def test_one_pass_is_exact_for_a_model_that_follows_bayes_rule(keep: float, random: float) -> None:
    """A mask gives q; a visible residue gives q weighted by how often it would be shown."""
    q = np.random.default_rng(2).dirichlet(np.ones(20))
    table = np.full((33, 33), -50.0)
    table[MASK, TWENTY] = np.log(q)
    for a, token in enumerate(TWENTY):
        # P(shown a | true b): kept if b is a, or replaced by a
        shown = np.where(np.arange(20) == a, keep, 0) + random / 20
        posterior = q * shown if shown.any() else q
        table[token, TWENTY] = np.log(np.maximum(posterior / posterior.sum(), 1e-300)).clip(-50)
    model = table_model(table, "token")
    masking = Masking(0.15, 1 - keep - random, random, keep)
    exact = pseudo_perplexity(model, SEQUENCES)
    np.testing.assert_allclose(pseudo_perplexity(model, SEQUENCES, False, masking=masking), exact, rtol=1e-3)
    if keep:
        other = Masking(0.15, 0.2, 0.1, 0.7)
        assert not np.allclose(pseudo_perplexity(model, SEQUENCES, False, masking=other), exact, rtol=0.05)


def test_one_pass_requires_replaced_residues_in_training(tiny_model: Performer) -> None:
    with pytest.raises(UserError, match="trained with randomly replaced residues"):
        pseudo_perplexity(tiny_model, ["MKT"], exact=False, masking=Masking(0.15, 0.9, 0.0, 0.1))


def test_nonstandard_letters_are_context_only(tiny_model: Performer) -> None:
    proteins = [encode("MXKB")]
    for own in (masked_own(Computer(tiny_model), proteins), unmasked_own(Computer(tiny_model), proteins, Masking())):
        assert np.isnan(own[0]).tolist() == [False, True, False, True]
    known, unknown = pseudo_perplexity(tiny_model, ["MKAAK", "MKXAK"])
    assert known != unknown
    assert np.isnan(pseudo_perplexity(tiny_model, ["XXB"])).all()


def test_order_is_kept(tiny_model: Performer) -> None:
    for exact in (True, False):
        forward = pseudo_perplexity(tiny_model, SEQUENCES, exact, token_budget=30)
        backward = pseudo_perplexity(tiny_model, SEQUENCES[::-1], exact, token_budget=30)
        np.testing.assert_allclose(forward, backward[::-1], rtol=1e-5)


def test_proteins_are_streamed_and_written_in_order(
    tiny_model: Performer, write_fasta, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fasta = write_fasta([("a", "MKTAY"), ("b", "XX"), ("a", "mkt-lli"), ("c", "GAVLIMCFYW")])
    monkeypatch.setattr("protlm.inference.engine.WINDOW_RESIDUES", 6)
    output = tmp_path / "table.tsv"
    summary = write_perplexities(Computer(tiny_model), InputSequences(FastaFile(fasta)), output)
    header, *lines = [line.split("\t") for line in output.read_text().splitlines()]
    assert header == ["id", "length", "pseudo_perplexity"]
    assert [(name, length) for name, length, _ in lines] == [("a", "5"), ("b", "2"), ("a", "6"), ("c", "10")]
    expected = perplexities(Computer(tiny_model), [encode(s) for s in ("MKTAY", "XX", "MKTLLI", "GAVLIMCFYW")])
    np.testing.assert_allclose([float(value) for *_, value in lines], expected, atol=1e-4)
    assert summary[0] == "4 proteins, 23 residues"
    assert any("nan for 1 protein without any of the twenty" in line for line in summary)
    assert any("gap removed" in line for line in summary)


def test_an_unreadable_record_leaves_no_file(
    tiny_model: Performer, write_fasta, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protlm.inference.engine._MOST", 1)
    fasta = write_fasta([("a", "MKTAY"), ("b", "MK1")])
    with pytest.raises(UserError, match=r"record 2 \(b\)"):
        write_perplexities(Computer(tiny_model), InputSequences(FastaFile(fasta)), tmp_path / "table.tsv")
    assert not [path for path in tmp_path.iterdir() if "table" in path.name]


def test_output_that_is_not_finite_is_refused(tiny_model: Performer, causal_model: Performer) -> None:
    for model in (tiny_model, causal_model):
        with torch.no_grad():
            model.head.bias.fill_(torch.nan)
        with pytest.raises(UserError, match="not finite"):
            pseudo_perplexity(model, ["MKT"])


def test_records_without_a_sequence_are_refused(tiny_model: Performer) -> None:
    with pytest.raises(UserError, match="at least one protein"):
        write_perplexities(Computer(tiny_model), InputSequences([]), None)
