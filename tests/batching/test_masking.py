import numpy as np
import pytest

from protlm.batching.masking import IGNORE, Masking, next_token
from protlm.errors import UserError
from protlm.sequence.alphabet import EOS, INDEX, MASK, SCORED, STANDARD, TOKENS, encode, with_ends

BERT = Masking()
PAPER_CODE = Masking(mask=0.1, random=0.8, keep=0.1)
EVERYTHING = with_ends(np.tile(np.arange(len(TOKENS), dtype=np.uint8), 20))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def protein(length: int, seed: int = 0) -> np.ndarray:
    return with_ends(encode("".join(generator(seed).choice(list(STANDARD), length))))


@pytest.mark.parametrize("masking", [Masking(share=1), Masking(share=1, mask=0, random=0.5, keep=0.5), BERT])
def test_special_tokens_and_ambiguous_letters_are_never_selected(masking: Masking) -> None:
    for seed in range(20):
        inputs, targets, scored = masking(EVERYTHING, generator(seed))
        untouched = ~SCORED[EVERYTHING]
        assert (targets[untouched] == IGNORE).all()
        assert (inputs[untouched] == EVERYTHING[untouched]).all()
        assert not scored[untouched].any()
        assert (targets[~untouched] != IGNORE).any()


@pytest.mark.parametrize("length", [4, 7, 500])
@pytest.mark.parametrize("masking", [BERT, PAPER_CODE, Masking(0.4, 0.5, 0.0, 0.5)])
def test_shares_converge_to_those_configured(masking: Masking, length: int) -> None:
    selected = masked = kept = 0
    draws = 50_000 // length
    chance = generator()
    tokens = protein(length)
    for _ in range(draws):
        inputs, targets, _scored = masking(tokens, chance)
        chosen = targets != IGNORE
        selected += chosen.sum()
        masked += (inputs == MASK).sum()
        kept += (inputs[chosen] == tokens[chosen]).sum()
    assert selected / (draws * length) == pytest.approx(masking.share, rel=0.03)
    assert masked / selected == pytest.approx(masking.mask, abs=0.015)
    # an exchange draws the same residue again one time in twenty
    assert kept / selected == pytest.approx(masking.keep + masking.random / 20, abs=0.015)


def test_every_residue_is_selected_equally_often() -> None:
    chance, tokens = generator(), protein(40)
    times = sum((BERT(tokens, chance)[1] != IGNORE).astype(int) for _ in range(4_000))
    assert times[[0, -1]].tolist() == [0, 0]
    assert times[1:-1] / 4_000 == pytest.approx(0.15, abs=0.03)


def test_replaced_residues_are_any_of_the_twenty() -> None:
    tokens = protein(20_000)
    inputs, targets, scored = Masking(1, 0, 1, 0)(tokens, generator())
    assert not scored.any()
    counts = np.bincount(inputs[targets != IGNORE], minlength=33)
    assert counts[[INDEX[letter] for letter in STANDARD]] == pytest.approx(1_000, abs=200)
    assert counts.sum() == 20_000


@pytest.mark.parametrize("masking", [BERT, PAPER_CODE])
def test_targets_are_the_tokens_and_masked_positions_are_scored(masking: Masking) -> None:
    tokens = protein(300)
    inputs, targets, scored = masking(tokens, generator())
    chosen = targets != IGNORE
    assert (targets[chosen] == tokens[chosen]).all()
    assert (inputs[~chosen] == tokens[~chosen]).all()
    assert (scored == (inputs == MASK)).all()
    assert inputs.dtype == targets.dtype == np.int64
    assert scored.dtype == bool


@pytest.mark.parametrize("masking", [BERT, PAPER_CODE])
def test_evaluation_masks_the_whole_selection(masking: Masking) -> None:
    tokens = protein(300)
    _, in_training, _ = masking(tokens, generator(5))
    inputs, targets, scored = masking.for_evaluation()(tokens, generator(5))
    assert (targets == in_training).all()
    assert ((targets != IGNORE) == scored).all()
    assert (inputs[scored] == MASK).all()
    assert scored.any()


def test_masking_depends_on_the_generator_only() -> None:
    tokens = protein(300)
    before = tokens.copy()
    first, again, other = (BERT(tokens, generator(seed)) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[0] != other[0]).any()
    assert (tokens == before).all()


def test_a_sequence_without_residues_is_left_alone() -> None:
    inputs, targets, scored = Masking(share=1)(with_ends(encode("XXBZ")), generator())
    assert MASK not in inputs
    assert set(targets) == {IGNORE}
    assert not scored.any()


@pytest.mark.parametrize(
    "shares",
    [
        (0.15, 0.8, 0.1, 0.2),
        (0.15, 0.8, 0.1, 0.0),
        (0.15, 1.2, -0.1, -0.1),
        (0, 0.8, 0.1, 0.1),
        (1.1, 0.8, 0.1, 0.1),
        (float("nan"), 0.8, 0.1, 0.1),
        (0.15, float("nan"), 0.1, 0.1),
    ],
)
def test_invalid_shares_are_refused(shares: tuple[float, float, float, float]) -> None:
    with pytest.raises(UserError, match="sum to 1"):
        Masking(*shares)


def test_the_next_token_is_the_target_and_the_end_is_learned_but_not_scored() -> None:
    tokens = with_ends(encode("MKXT"))
    inputs, targets, scored = next_token(tokens)
    assert inputs.tolist() == tokens[:-1].tolist()
    assert targets.tolist() == [INDEX["M"], INDEX["K"], IGNORE, INDEX["T"], EOS]
    assert scored.tolist() == [True, True, False, True, False]
    assert inputs.dtype == targets.dtype == np.int64
