import json
import pickle

import numpy as np
import pytest

from protlm.errors import UserError
from protlm.sequence import alphabet as protein
from protlm.sequence.alphabets import ALPHABETS, PROTEIN, Alphabet, Dna, alphabet_of, describe, name_of

EVERY = pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)


@EVERY
def test_every_letter_has_a_token_of_its_own_that_is_no_special_one(alphabet: Alphabet) -> None:
    letters = alphabet.letters.encode("latin-1")
    tokens = alphabet.encode(letters)
    assert len(set(tokens.tolist())) == len(letters)
    assert len(set(alphabet.tokens)) == alphabet.size
    assert not {alphabet.cls, alphabet.pad, alphabet.eos, alphabet.mask} & set(tokens.tolist())
    assert alphabet.is_letter.sum() == len(letters)
    assert alphabet.count(tokens).sum() == len(letters)


@EVERY
def test_what_is_drawn_is_scored_and_is_a_letter(alphabet: Alphabet) -> None:
    assert alphabet.scored[alphabet.drawn].all()
    assert (alphabet.scored <= alphabet.is_letter).all()


@EVERY
def test_a_description_gives_the_alphabet_back_also_in_another_process(alphabet: Alphabet) -> None:
    assert alphabet_of(json.loads(json.dumps(describe(alphabet)))) == alphabet
    assert pickle.loads(pickle.dumps(alphabet)).tokens == alphabet.tokens


def test_proteins_have_the_tokens_they_always_had() -> None:
    assert PROTEIN.tokens == protein.TOKENS
    special = (PROTEIN.cls, PROTEIN.pad, PROTEIN.eos, PROTEIN.mask)
    assert special == (protein.CLS, protein.PAD, protein.EOS, protein.MASK)
    assert PROTEIN.drawn.tolist() == protein.STANDARD_TOKENS.tolist()
    assert PROTEIN.scored.tolist() == protein.SCORED.tolist()
    tokens = protein.encode("MKTX")
    assert PROTEIN.with_ends(tokens).tolist() == protein.with_ends(tokens).tolist()
    assert PROTEIN.with_ends(tokens).dtype == np.uint8


@pytest.mark.parametrize("name", ["dna", "rna"])
def test_the_reverse_complement_of_the_reverse_complement_is_the_sequence(name: str) -> None:
    alphabet = ALPHABETS[name]
    tokens = alphabet.encode(alphabet.letters.encode())
    assert alphabet.reverse_complement(alphabet.reverse_complement(tokens)).tolist() == tokens.tolist()


def test_an_ambiguous_base_is_complemented_base_by_base() -> None:
    """IUPAC's codes, each as the set of its bases (NC-IUB 1984)."""
    bases = {"A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC"}
    bases |= {"B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"}
    assert set(bases) == set(Dna().letters)
    for code, possible in bases.items():
        expected = {Dna().complement[base] for base in possible}
        assert set(bases[Dna().complement[code]]) == expected, code


def test_dna_reads_lower_case_and_u_and_leaves_out_gaps() -> None:
    dna = ALPHABETS["dna"]
    assert dna.decode(dna.encode(b"ac-gU.xR")) == "ACGTNR"
    with pytest.raises(UserError, match="'L' at position 3 is not a base: expected one of ACGT"):
        dna.encode(b"ACL")


def test_a_byte_is_its_own_token() -> None:
    assert ALPHABETS["bytes"].encode(bytes(range(256))).tolist() == list(range(256))
    assert ALPHABETS["bytes"].with_ends(np.array([255], dtype=np.uint8)).tolist() == [256, 255, 258]


def test_without_complements_there_is_no_reverse_complement() -> None:
    with pytest.raises(UserError, match="residues have no complements"):
        _ = PROTEIN.complements


OWN = """
from dataclasses import dataclass
from protlm.sequence.alphabets import Alphabet

@dataclass(frozen=True)
class Coarse(Alphabet):
    unit = "element"
    letters = definite = "HEC"
    strict: bool = True

class Wrong(Alphabet):
    letters = "HEC"
    definite = "X"
"""


def test_an_alphabet_of_ones_own_is_named_by_its_class(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_alphabet.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = alphabet_of({"_target_": "own_alphabet.Coarse", "strict": False})
    assert describe(own) == {"_target_": "own_alphabet.Coarse", "strict": False}
    assert name_of(own) == "own_alphabet.Coarse"
    assert own.tokens == ("<cls>", "<pad>", "<eos>", "<unk>", "H", "E", "C", "<mask>")
    assert alphabet_of("own_alphabet.Coarse") != own
    with pytest.raises(UserError, match="'definite' to be some of the letters"):
        alphabet_of("own_alphabet.Wrong")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("codons", "expected protein, dna, rna, bytes, or MODULE.CLASS"),
        ("no_such_module.Class", "install the module"),
        ("pathlib.Path", "cannot import it"),
        ("protlm.errors.UserError", "expected a class derived from protlm.sequence.letters.Alphabet"),
        ({"_target_": "protlm.sequence.alphabets.Dna", "strand": 1}, "strand"),
        (None, "expected protein, dna"),
    ],
)
def test_an_unknown_alphabet_is_refused(given: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        alphabet_of(given)
