"""Scorers and their common interface, on synthetic families."""

import numpy as np
import pytest
from scipy.stats import spearmanr

import protlm
from protlm.errors import UserError
from protlm.homology.alignment import Alignment
from protlm.homology.couplings import Couplings
from protlm.homology.hmm import forward_log_odds
from protlm.homology.profile import Profile, substitution_scores
from protlm.inference.engine import Computer
from protlm.inference.probabilities import causal_own, masked_own, one_pass
from protlm.performer import Performer
from protlm.sequence.alphabet import STANDARD, encode
from protlm.variants.assessment import NOT_SCORED, TOO_LONG, assess, least_at, percentiles
from protlm.variants.notation import Variants, all_singles, parse
from protlm.variants.score import METHODS, score_variants
from protlm.variants.scorers.blend import BlendScorer
from protlm.variants.scorers.blosum62 import Blosum62Scorer
from protlm.variants.scorers.language_model import ModelScorer
from protlm.variants.scorers.profile import ProfileScorer
from protlm.variants.sources import Sources, chosen_scorer
from tests.homology.families import QUERY

WILD_TYPE = QUERY[:40]
VARIANTS = ["I3A", "H5G:R7K", "WT", "A9del", "A9_L10insGG", "F6*", "F6F"]


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Amino acid probabilities (L, 20) of a synthetic family, concentrated on the query."""
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.full(20, 0.3), len(WILD_TYPE))
    p[np.arange(len(WILD_TYPE)), [STANDARD.index(letter) for letter in WILD_TYPE]] += 0.5
    return p / p.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def family(truth: np.ndarray) -> Alignment:
    """60 homologs drawn from these probabilities, with a gap at residue 9 in most of them."""
    generator = np.random.default_rng(1)
    rows = [WILD_TYPE]
    for _ in range(60):
        letters = [STANDARD[generator.choice(20, p=site)] for site in truth]
        if generator.random() < 0.8:
            letters[8] = "-"
        rows.append("".join(letters))
    return Alignment(WILD_TYPE, [f"s{i}" for i in range(len(rows))], rows)


class Known:
    """In place of a model: scores of substitutions (L, 20) that are given."""

    additive = True

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores

    def score(self, variants: Variants) -> np.ndarray:
        gains = self._scores[variants.position, variants.mutant] - self._scores[variants.position, variants.wild_type]
        return np.bincount(variants.variant, gains, minlength=len(variants))


def test_profiles_add_up_and_weigh_sites(family: Alignment) -> None:
    variants = parse(WILD_TYPE, VARIANTS)
    odds = Profile(family).log_odds
    scores = ProfileScorer().fit(WILD_TYPE, family).score(variants)
    one, two = (odds[site, STANDARD.index(letter)] for site, letter in ((4, "G"), (6, "K")))
    np.testing.assert_allclose(scores[:3], [odds[2, STANDARD.index("A")], one + two, 0])
    assert scores[6] == 0
    own, gap, insertion = forward_log_odds(family, [WILD_TYPE, *list(variants.sequences())[3:5]])
    np.testing.assert_allclose(scores[3:5], [gap - own, insertion - own])
    assert np.isnan(scores[5])
    weights = np.linspace(0, 1, len(WILD_TYPE))
    weighted = ProfileScorer(weights).fit(WILD_TYPE, family).score(variants)
    np.testing.assert_allclose(weighted[1], weights[4] * one + weights[6] * two)


def test_a_deletion_that_homologs_have_scores_above_others(family: Alignment) -> None:
    names = [f"{letter}{number}del" for number, letter in enumerate(WILD_TYPE, 1) if 4 < number < 36]
    result = assess(parse(WILD_TYPE, names), Sources(family))
    assert names[int(result.values.argmax())] in ("A9del", "V8del")  # next to each other, of equal cost or nearly so
    assert (result.values < 0).sum() > len(names) - 4


def test_a_blend_without_a_model_is_profile_and_couplings(family: Alignment) -> None:
    scorer = BlendScorer(ProfileScorer()).fit(WILD_TYPE, family)
    couplings = Couplings(family)
    log_p = Profile(family).log_p + couplings.field
    expected = substitution_scores(log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True), WILD_TYPE)
    singles = all_singles(WILD_TYPE)
    np.testing.assert_allclose(scorer.score(singles), expected[singles.position, singles.mutant], atol=1e-6)
    double, first, second = scorer.score(parse(WILD_TYPE, ["H5G:R7K", "H5G", "R7K"]))
    assert double != pytest.approx(first + second, abs=1e-9)  # the pair has couplings
    alone = Alignment(WILD_TYPE, ["query"], [WILD_TYPE])
    blend, profile = BlendScorer(ProfileScorer()), ProfileScorer()
    np.testing.assert_allclose(blend.fit(WILD_TYPE, alone).score(singles), profile.fit(WILD_TYPE, alone).score(singles))


def test_a_model_counts_as_far_as_it_agrees_with_the_family(family: Alignment, truth: np.ndarray) -> None:
    singles, plain = all_singles(WILD_TYPE), BlendScorer(ProfileScorer()).fit(WILD_TYPE, family)
    x, target = plain.score(singles), np.log(truth)
    wild_type = [STANDARD.index(letter) for letter in WILD_TYPE]
    target = (target - target[np.arange(len(target)), wild_type, None])[singles.position, singles.mutant]

    def blended(scores: np.ndarray) -> tuple[BlendScorer, np.ndarray]:
        scorer = BlendScorer(ProfileScorer(), Known(scores)).fit(WILD_TYPE, family)
        return scorer, scorer.score(singles)

    for scores in (-np.log(truth), np.zeros_like(truth)):
        scorer, values = blended(scores)
        assert scorer.agreement == 0
        np.testing.assert_array_equal(values, x)
    for scale in (1, 100):  # the scale of a model does not matter
        scorer, values = blended(scale * np.log(truth))
        m = scale * target
        r = spearmanr(x, m).statistic
        assert scorer.agreement == pytest.approx(r)
        np.testing.assert_allclose(values, x + r * x.std() / m.std() * m)
        assert spearmanr(values, target).statistic > spearmanr(x, target).statistic
    noise, _ = blended(np.random.default_rng(2).normal(size=truth.shape))
    assert noise.agreement < 0.1


def test_a_model_does_not_drown_what_homologs_tell_of_an_indel(family: Alignment, truth: np.ndarray) -> None:
    class Loud(Known):
        """A model to which every insertion and deletion is worth the same number of nats."""

        nats = 0.0

        def score(self, variants: Variants) -> np.ndarray:
            scores = super().score(variants).astype(float)
            scores[sorted(variants.indels)] = self.nats
            return scores

    variants = parse(WILD_TYPE, ["A9del", f"{WILD_TYPE[11]}12del"])
    alone = BlendScorer(ProfileScorer()).fit(WILD_TYPE, family).score(variants)
    model = Loud(np.log(truth))
    blend = BlendScorer(ProfileScorer(), model).fit(WILD_TYPE, family)
    assert 0 < blend.agreement < 1
    found = []
    for model.nats in (-1e6, -1e-3, 0.0, 1e-3, 1e6):
        found.append(blend.score(variants))
    assert (np.diff(found, axis=0) > 0).all()
    np.testing.assert_allclose(found[2], alone)
    np.testing.assert_allclose(found[0], alone - blend.agreement * np.abs(alone))
    np.testing.assert_allclose(found[-1], alone + blend.agreement * np.abs(alone))


def test_a_blend_rises_with_both_parts(family: Alignment, truth: np.ndarray) -> None:
    variants = parse(WILD_TYPE, ["I3A", "H5G:R7K", "A9del"])
    scores = np.log(truth)
    before = BlendScorer(ProfileScorer(), Known(scores)).fit(WILD_TYPE, family)
    low = before.score(variants)
    before.model = Known(scores * (1 - 1e-3))  # after fitting: all scores below the wild type rise
    assert (before.score(variants)[:2] != low[:2]).all()
    assert (
        np.sign(before.score(variants)[:2] - low[:2]).tolist() == np.sign(-Known(scores).score(variants)[:2]).tolist()
    )


def test_blosum62_has_no_score_for_indels() -> None:
    scores = Blosum62Scorer().fit(WILD_TYPE).score(parse(WILD_TYPE, VARIANTS))
    np.testing.assert_array_equal(scores, [-1, 0, 0, np.nan, np.nan, np.nan, 0])


@pytest.mark.parametrize("method", METHODS)
def test_a_model_scores_as_its_methods_do(tiny_model: Performer, causal_model: Performer, method: str) -> None:
    computer = Computer(causal_model if method == "likelihood" else tiny_model)
    variants = parse(WILD_TYPE, VARIANTS)
    scores = ModelScorer(computer, method).fit(WILD_TYPE).score(variants)
    np.testing.assert_allclose(scores, score_variants(computer, variants, method), atol=1e-5)
    assert np.isnan(scores).tolist() == [False] * 5 + [True, False]
    lengths, totals = [], []
    for sequence in (WILD_TYPE, WILD_TYPE[:8] + WILD_TYPE[9:], WILD_TYPE[:9] + "GG" + WILD_TYPE[9:]):
        tokens = encode(sequence)
        if method == "likelihood":
            (own,) = causal_own(computer, [tokens])
        elif method == "wt-marginals":
            own = one_pass(computer, tokens)[np.arange(len(tokens)), tokens]
        else:
            (own,) = masked_own(computer, [tokens])
        lengths.append(len(own))
        totals.append(own.sum())
    per_residue = np.array(totals) / lengths
    np.testing.assert_allclose(scores[3:5], lengths[0] * (per_residue[1:] - per_residue[0]), atol=1e-4)


def test_the_scorer_is_the_one_that_uses_what_there_is(family: Alignment, tiny_model: Performer) -> None:
    assert chosen_scorer("auto", False, False) == "blosum62"
    assert chosen_scorer("auto", False, True) == "model"
    assert chosen_scorer("auto", True, True) == chosen_scorer("auto", True, False) == "blend"
    with pytest.raises(UserError, match="scorer 'best': expected auto or one of blosum62, profile, model, blend"):
        chosen_scorer("best", True, True)
    with pytest.raises(UserError, match="scorer model: requires a model"):
        chosen_scorer("model", True, False)
    variants = parse(WILD_TYPE, VARIANTS)
    alone = Alignment(WILD_TYPE, ["query"], [WILD_TYPE])
    found = {
        "blend": assess(variants, Sources(family)),
        "blosum62": assess(variants, Sources(alone)),
        "model": assess(variants, Sources(alone, Computer(tiny_model))),
    }
    for name, result in found.items():
        assert result.chosen == name
        assert f"scorer: {name}" in result.summary()
    assert "60 homologs (effective sequences per residue: median" in found["blend"].summary()
    assert "no homologs found" in found["blosum62"].summary()
    for sources in (Sources(family), Sources(alone, Computer(tiny_model))):
        assert "the requested scorer" in assess(variants, sources, "blosum62").summary()
    assert set(found["model"].scores) == {"blosum62", "profile", "model", "blend"}
    assert found["blosum62"].reasons[3] == NOT_SCORED


def test_indels_of_proteins_beyond_the_hmm_have_a_reason(monkeypatch: pytest.MonkeyPatch, family: Alignment) -> None:
    monkeypatch.setattr("protlm.variants.scorers.profile.LONGEST", 39)
    result = assess(parse(WILD_TYPE, VARIANTS), Sources(family))
    assert np.isnan(result.values).tolist() == [False, False, False, True, True, True, False]
    assert result.reasons[3] == TOO_LONG


def test_what_a_score_rests_on_is_stated(family: Alignment) -> None:
    rows = [row[:30] + "-" * 10 for row in family.rows[1:]]
    part = Alignment(WILD_TYPE, family.ids, [WILD_TYPE, *rows])
    variants = parse(WILD_TYPE, ["I3A", f"{WILD_TYPE[34]}35W", f"I3A:{WILD_TYPE[34]}35W", "WT", "A9del"])
    result = assess(variants, Sources(part))
    effective = Profile(part).effective
    assert effective[34] < 1.01 < effective[2]
    np.testing.assert_allclose(result.effective, [effective[2], effective[34], effective[34], np.nan, effective[8]])
    assert result.blosum62_only.tolist() == [False, True, True, False, False]
    singles = assess(all_singles(WILD_TYPE), Sources(part))
    np.testing.assert_allclose(singles.percentile.mean(), 50)
    assert np.argmax(singles.values) == np.argmax(singles.percentile)
    plain = assess(parse(WILD_TYPE, VARIANTS), Sources())
    assert plain.blosum62_only.tolist() == [True, True, True, False, False, False, True]
    assert plain.reasons == ["", "", "", NOT_SCORED, NOT_SCORED, "stop gained at residue 6", ""]
    assert np.isnan(plain.effective).all()


def test_percentiles_count_ties_half() -> None:
    generator = np.random.default_rng(0)
    scores, among = generator.integers(0, 9, (2, 50)).astype(float)
    expected = [100 * np.mean((among < score) + (among == score) / 2) for score in scores]
    np.testing.assert_allclose(percentiles(scores, among), expected)
    assert np.isnan(percentiles(scores, np.empty(0))).all()


def test_insertions_rest_on_their_neighbours() -> None:
    values = np.arange(10.0)
    variants = parse("MKTAYIAKQR", ["K2_T3insG", "M1delinsGM", "T3_A4del", "R10delinsRG", "T3A:R10K", "WT"])
    assert least_at(variants, values).tolist()[:5] == [1, 0, 2, 9, 2]
    assert np.isnan(least_at(variants, values)[5])


def test_python_answers_as_the_command_does(family: Alignment, tiny_model: Performer) -> None:
    table = protlm.score(WILD_TYPE, VARIANTS, alignment=family, model=tiny_model)
    result = assess(parse(WILD_TYPE, VARIANTS), Sources(family, Computer(tiny_model)))
    np.testing.assert_array_equal(table["protlm_score"], result.values)
    assert table.attrs["summary"] == result.summary()
    ours = ["protlm_score", "percentile", "effective_sequences", "blosum62_only", "reason"]
    assert list(table)[2:7] == ours
    assert set(list(table)[7:]) == {"blosum62", "profile", "model", "blend"}
    assert len(protlm.score("MKT")) == 57
    for arguments, message in (
        ({"method": "wt-marginals"}, "method: requires a model"),
        ({"invalid": "skip"}, "expected 'error' or 'nan'"),
        ({"alignment": family, "database": "x.fasta"}, "alignment and database: expected one of them"),
        ({"variants": []}, "variants: empty"),
        ({"variants": ["K1L"]}, "position 1 of the wild type is M, not K"),
        ({"alignment": Alignment("MKT", ["q"], ["MKT"])}, "its query is not the wild type"),
    ):
        with pytest.raises(UserError, match=message):
            protlm.score(WILD_TYPE, **arguments)


def test_another_object_is_no_model() -> None:
    with pytest.raises(UserError, match="model: expected a model or the path of one, got int"):
        protlm.score("MKTAYIAK", ["K2R"], model=3)
