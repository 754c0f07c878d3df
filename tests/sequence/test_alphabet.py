from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protlm.sequence import alphabet
from protlm.sequence.alphabet import (
    INDEX,
    LETTERS,
    NOT_A_TOKEN,
    SCORED,
    TOKENS,
    ResidueError,
    clean,
    decode,
    encode,
    normalise,
    normalise_masked,
    translate,
    with_ends,
)
from protlm.sequence.alphabets import PROTEIN

residues = st.text(LETTERS)


def test_the_tokens_and_their_order_are_those_of_esm() -> None:
    esm = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>"
    assert list(TOKENS) == esm.split()
    assert (alphabet.CLS, alphabet.PAD, alphabet.EOS, alphabet.MASK) == (0, 1, 2, 32)


def test_scored_are_the_22_encoded_amino_acids() -> None:
    assert {token for token, scored in zip(TOKENS, SCORED, strict=True) if scored} == set("ACDEFGHIKLMNPQRSTVWYUO")


@given(residues)
def test_letters_round_trip_through_tokens(sequence: str) -> None:
    tokens = encode(sequence)
    assert tokens.dtype == np.uint8
    assert decode(tokens) == sequence
    assert decode(with_ends(tokens)) == f"<cls>{sequence}<eos>"


@given(st.lists(st.sampled_from([*LETTERS, "<mask>"])))
def test_masked_sequences_round_trip_through_tokens(tokens: list[str]) -> None:
    text = "".join(tokens)
    assert decode(PROTEIN.encode_masked(text.encode())) == text


@given(residues)
def test_normalising_is_idempotent_and_gives_letters_with_tokens(sequence: str) -> None:
    assert normalise(sequence) == (sequence, Counter())


@given(st.text("ACDEFGHIJKLMNOPQRSTUVWXYZacdefghijklmnopqrstuvwxyz-.*"))
def test_normalising_leaves_only_letters_with_tokens(found: str) -> None:
    sequence, changes = normalise(found)
    assert decode(encode(sequence)) == sequence
    assert normalise(sequence) == (sequence, Counter())
    assert len(found) - len(sequence) == changes["gap removed"] + changes["final stop removed"]
    assert changes["lower case made upper case"] == sum(letter.islower() for letter in found)


@pytest.mark.parametrize(
    ("found", "sequence", "changes"),
    [
        ("mkT", "MKT", {"lower case made upper case": 2}),
        ("M-K.T--", "MKT", {"gap removed": 4}),
        ("MKT*", "MKT", {"final stop removed": 1}),
        ("MKT*-", "MKT", {"gap removed": 1, "final stop removed": 1}),
        ("M*K", "MXK", {"inner stop replaced by X": 1}),
        ("M*KT**", "MXKT", {"final stop removed": 2, "inner stop replaced by X": 1}),
        ("MJjT", "MXXT", {"lower case made upper case": 1, "J replaced by X": 2}),
        ("*", "", {"final stop removed": 1}),
        ("MBZUOX", "MBZUOX", {}),
    ],
)
def test_changes_are_counted(found: str, sequence: str, changes: dict[str, int]) -> None:
    assert normalise(found) == (sequence, Counter(changes))


@pytest.mark.parametrize("character", ["1", "\0", "é", "\ufffd", ">", " ", "\t", "?", "_", "\x7f", "\U0001f9ec"])
@pytest.mark.parametrize("before", ["", "MKT", "mk-T*"])
def test_anything_else_is_refused_with_its_position(before: str, character: str) -> None:
    with pytest.raises(ResidueError) as caught:
        normalise(f"{before}{character}LLI1")
    assert (caught.value.position, caught.value.character) == (len(before), character)
    assert f"position {len(before) + 1} " in str(caught.value)


@given(st.text())
def test_encode_accepts_its_letters_or_names_the_first_other_character(text: str) -> None:
    odd = [position for position, character in enumerate(text) if character not in LETTERS]
    if odd:
        with pytest.raises(ResidueError) as caught:
            encode(text)
        assert caught.value.position == odd[0]
    else:
        assert decode(encode(text)) == text


@given(st.binary())
def test_bytes_are_tokens_where_they_are_upper_case_letters_of_the_alphabet(found: bytes) -> None:
    expected = [INDEX[chr(byte)] if chr(byte) in LETTERS else NOT_A_TOKEN for byte in found]
    assert translate(found).tolist() == expected
    assert NOT_A_TOKEN not in INDEX.values()


@pytest.mark.parametrize("text", ["MK<nope>T", "MK<mask", "MK1", "MKé", "<MASK>", "<cls>M"])
def test_typed_text_outside_the_alphabet_is_refused(text: str) -> None:
    for masked in (False, True):
        with pytest.raises(ResidueError, match="is not a residue"):
            clean(text, masked)


def test_typed_text_may_be_lower_case_and_wrapped() -> None:
    assert clean("mk t\n<mask>j**", masked=True) == "MKT<mask>X"
    assert clean(" mk\tt\r\nj*a.-*") == "MKTXXA"


def test_gaps_are_refused_where_positions_count() -> None:
    assert clean("mkt*", gaps=False) == "MKT"
    for text, position in (("-MK", 1), ("MK.", 3), ("M-K-", 2)):
        with pytest.raises(ResidueError, match=f"at position {position} .* no gaps, which would shift"):
            clean(text, gaps=False)


@given(st.lists(st.text("MKjx*-.", max_size=5), min_size=1, max_size=4))
def test_masks_are_kept_and_do_not_affect_their_surroundings(pieces: list[str]) -> None:
    masked, changes = normalise_masked("<mask>".join(pieces))
    plain, expected = normalise("W".join(pieces))
    assert masked.replace("<mask>", "W") == plain
    assert changes == expected


def test_an_invalid_character_after_masks_is_located() -> None:
    with pytest.raises(ResidueError, match="'1' at position 5") as caught:
        normalise_masked("M<mask><mask>K1")
    assert (caught.value.position, caught.value.offset) == (4, 14)
