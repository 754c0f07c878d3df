from itertools import pairwise

import numpy as np
import pytest
import torch

from protlm.errors import UserError
from protlm.inference.engine import Computer
from protlm.performer import Performer
from protlm.sequence.alphabet import EOS, INDEX, MASK, STANDARD, encode, with_ends
from protlm.variants.notation import all_singles, parse
from protlm.variants.score import METHODS, score, score_matrix, score_variants
from tests.inference.toys import random_table, table_model

SEQUENCE = "MKTAYIAKQRQS"
VARIANTS = ["M1L", "S12A", "K2R:Y5F", "Y5W:A7G:Q11T", "A4A", "WT", "Y5F:K2R"]
MASKED = METHODS[:3]


def token(letter: str) -> int:
    return INDEX[letter]


@torch.inference_mode()
def log_p(model: Performer, tokens: np.ndarray) -> np.ndarray:
    """(L + 2, 33) of one framed protein, computed directly."""
    return model(torch.from_numpy(tokens).long()[None])[0].double().log_softmax(-1).numpy()


def pseudo_log_likelihood(model: Performer, sequence: str) -> float:
    total = 0.0
    for i, letter in enumerate(sequence):
        tokens = with_ends(encode(sequence))
        tokens[1 + i] = MASK
        total += log_p(model, tokens)[1 + i, token(letter)]
    return total


def slow_score(model: Performer, method: str, mutations: list[tuple[str, int, str]]) -> float:
    """Of (wild type, position from 1, variant), one after the other, from the definition."""
    mutated = list(SEQUENCE)
    for before, position, after in mutations:
        assert mutated[position - 1] == before
        mutated[position - 1] = after
    other = "".join(mutated)
    if method == "pseudo-log-likelihood":
        return pseudo_log_likelihood(model, other) - pseudo_log_likelihood(model, SEQUENCE)
    if method == "likelihood":
        ways = []
        for sequence in (other, SEQUENCE):
            tokens = with_ends(encode(sequence))
            ways.append(sum(log_p(model, tokens[:i])[-1, tokens[i]] for i in range(1, len(tokens))))
        return ways[0] - ways[1]
    total = 0.0
    for before, position, after in mutations:
        tokens = with_ends(encode(SEQUENCE))
        if method == "masked-marginals":
            tokens[position] = MASK
        row = log_p(model, tokens)[position]
        total += row[token(after)] - row[token(before)]
    return total


@pytest.mark.parametrize("method", METHODS)
def test_scores_follow_the_definition_at_any_batch_size(
    tiny_model: Performer, causal_model: Performer, method: str
) -> None:
    model = causal_model if method == "likelihood" else tiny_model
    mutations = [[(m[0], int(m[1:-1]), m[-1]) for m in name.split(":") if m != "WT"] for name in VARIANTS]
    expected = [slow_score(model, method, each) for each in mutations]
    assert np.abs(expected[:4]).min() > 1e-3
    for token_budget in (1, 100, 16_384):
        scores = score(model, SEQUENCE, VARIANTS, method, token_budget)
        np.testing.assert_allclose(scores, expected, atol=2e-5)
        assert scores[2] == scores[6]


@pytest.mark.parametrize("method", MASKED)
def test_scores_use_the_named_position(method: str) -> None:
    """A model whose output depends on the position only, counted from <cls> = 0, so that residue i is at i."""
    table = random_table(len(SEQUENCE) + 2)
    model = table_model(table, "place")
    for i, letter in enumerate(SEQUENCE, start=1):
        expected = [table[i, token(other)] - table[i, token(letter)] for other in STANDARD if other != letter]
        names = [f"{letter}{i}{other}" for other in STANDARD if other != letter]
        np.testing.assert_allclose(score(model, SEQUENCE, names, method), expected, atol=1e-5)


def test_the_named_position_is_masked() -> None:
    """A model whose output depends on the token only: at <mask>, all positions have the same output."""
    table = random_table(33)
    model = table_model(table, "token")
    for i, letter in enumerate(SEQUENCE, start=1):
        name = f"{letter}{i}{'W' if letter != 'W' else 'G'}"
        for method, row in (("masked-marginals", table[MASK]), ("wt-marginals", table[token(letter)])):
            expected = row[token(name[-1])] - row[token(letter)]
            assert score(model, SEQUENCE, [name], method)[0] == pytest.approx(expected, abs=1e-5)
        expected = table[MASK, token(name[-1])] - table[MASK, token(letter)]
        assert score(model, SEQUENCE, [name], "pseudo-log-likelihood")[0] == pytest.approx(expected, abs=1e-5)


def test_the_likelihood_covers_every_residue_and_the_end() -> None:
    """The model is a table of pairs: p(next | this)."""
    table = random_table(33)
    model = table_model(table, "token", causal=True)

    def likelihood(sequence: str) -> float:
        tokens = with_ends(encode(sequence))
        assert tokens[-1] == EOS
        return sum(table[a, b] for a, b in pairwise(tokens))

    for name, other in (("M1L", "LKT"), ("T3A", "MKA"), ("M1L:K2R:T3A", "LRA")):
        expected = likelihood(other) - likelihood("MKT")
        assert score(model, "MKT", [name])[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", MASKED)
def test_the_matrix_has_all_single_substitutions(tiny_model: Performer, method: str) -> None:
    sequence = "MKXTU"
    values = score_matrix(tiny_model, sequence, method)
    assert values.shape == (5, 20)
    assert np.isnan(values).all(axis=1).tolist() == [False, False, True, False, True]
    variants = all_singles(sequence)
    np.testing.assert_array_equal(
        values[variants.position, variants.mutant], score_variants(Computer(tiny_model), variants, method)
    )
    for i in (0, 1, 3):
        assert values[i, STANDARD.index(sequence[i])] == 0
        assert np.count_nonzero(values[i]) == 19


def test_marginals_add_up(tiny_model: Performer) -> None:
    for method in MASKED[:2]:
        single = score(tiny_model, SEQUENCE, ["K2R", "Y5F"], method)
        assert score(tiny_model, SEQUENCE, ["K2R:Y5F"], method)[0] == pytest.approx(single.sum())


def test_a_long_protein_is_computed_whole(tiny_model: Performer) -> None:
    sequence = SEQUENCE * 20
    last = f"{sequence[-1]}{len(sequence)}W"
    with_end = score(tiny_model, sequence, [last], "wt-marginals")
    without = score(tiny_model, "G" * 100 + sequence[100:], [last], "wt-marginals")
    assert abs(with_end[0] - without[0]) > 1e-6


def test_the_default_method_fits_the_model(tiny_model: Performer, causal_model: Performer) -> None:
    np.testing.assert_array_equal(score(tiny_model, "MKT", ["K2R"]), score(tiny_model, "MKT", ["K2R"], METHODS[0]))
    np.testing.assert_array_equal(score(causal_model, "MKT", ["K2R"]), score(causal_model, "MKT", ["K2R"], METHODS[3]))


def test_methods_that_do_not_fit_are_refused(tiny_model: Performer, causal_model: Performer) -> None:
    for method in MASKED:
        with pytest.raises(UserError, match="requires a bidirectional model; expected likelihood"):
            score(causal_model, "MKT", ["K2R"], method)
    with pytest.raises(UserError, match="likelihood requires a causal model"):
        score(tiny_model, "MKT", ["K2R"], "likelihood")
    with pytest.raises(UserError, match="method 'marginals': expected one of masked-marginals"):
        score(tiny_model, "MKT", ["K2R"], "marginals")


def test_lower_case_is_accepted(tiny_model: Performer) -> None:
    np.testing.assert_array_equal(score(tiny_model, "mkt", ["K2R"]), score(tiny_model, "MKT", ["K2R"]))
    for sequence in ("", "MK-T", "MK1"):
        with pytest.raises(UserError, match="the wild type"):
            score(tiny_model, sequence, ["K2R"])


def test_output_that_is_not_finite_is_refused(tiny_model: Performer) -> None:
    with torch.no_grad():
        tiny_model.head.bias.fill_(torch.nan)
    for method in MASKED:
        with pytest.raises(UserError, match="not finite"):
            score(tiny_model, "MKT", ["K2R"], method)


def test_progress_reaches_the_end(tiny_model: Performer, causal_model: Performer) -> None:
    for model, method in ((tiny_model, METHODS[0]), (tiny_model, METHODS[2]), (causal_model, METHODS[3])):
        seen = []
        variants = parse(SEQUENCE, VARIANTS)
        score_variants(Computer(model, 50), variants, method, lambda done, total, seen=seen: seen.append((done, total)))
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] > 0
