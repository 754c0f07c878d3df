"""Models of DNA and bytes exported for transformers, with their tokenisers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from protlm import checkpoint
from protlm.exchange.huggingface import export_huggingface
from protlm.exchange.pretrained import load_pretrained
from protlm.inference.generate import generate
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabets import ALPHABETS
from tests.exchange.exported import load

SIZES = {"layers": 1, "width": 16, "heads": 2, "feed_forward": 32, "positions": "rotary"}
TEXTS = {"dna": "acg-uXNNRt", "rna": "ACGT-x", "bytes": "To be,\n  or not \u2014 \xfc \x00 <pa"}


def exported(folder: Path, name: str, causal: bool = False) -> Performer:
    alphabet = ALPHABETS[name]
    torch.manual_seed(1)
    config = PerformerConfig(alphabet.size, alphabet.pad, start_id=alphabet.cls, alphabet=name, causal=causal, **SIZES)
    export_huggingface(model := Performer(config).eval(), folder)
    return model


@pytest.mark.parametrize("name", TEXTS)
def test_the_tokeniser_reads_letters_as_protlm_does(tmp_path, name: str) -> None:
    exported(tmp_path / "hf", name)
    alphabet, tokenizer = ALPHABETS[name], load(AutoTokenizer, tmp_path / "hf")
    tokens = alphabet.encode(TEXTS[name].encode())
    assert tokenizer(TEXTS[name])["input_ids"] == alphabet.with_ends(tokens).tolist()
    assert tokenizer.decode(tokens.tolist()).encode() == alphabet.letters_of(tokens)
    masked = tokenizer("AC<mask>G", add_special_tokens=False)["input_ids"]
    assert masked == [*alphabet.encode(b"AC"), alphabet.mask, *alphabet.encode(b"G")]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (alphabet.pad, alphabet.eos)


@pytest.mark.parametrize("name", ["dna", "bytes"])
def test_logits_are_the_same_and_the_way_back(tmp_path, name: str) -> None:
    ours = exported(tmp_path / "hf", name)
    theirs, tokenizer = (load(auto, tmp_path / "hf") for auto in (AutoModelForMaskedLM, AutoTokenizer))
    inputs = tokenizer(["ACGTTGCA", "AC<mask>"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(theirs(**inputs).logits, ours(inputs["input_ids"]))
    again = load_pretrained(tmp_path / "hf").model
    assert checkpoint.fingerprint(again) == checkpoint.fingerprint(ours)


def test_transformers_generates_the_same_bytes(tmp_path) -> None:
    ours = exported(tmp_path / "hf", "bytes", causal=True)
    theirs, tokenizer = (load(auto, tmp_path / "hf") for auto in (AutoModelForCausalLM, AutoTokenizer))
    found = theirs.generate(**tokenizer("The ", return_tensors="pt"), do_sample=False, max_new_tokens=20)
    expected = next(generate(ours, prefix="The ", temperature=0, max_length=24))
    letters = [token for token in found[0].tolist() if token < 256]
    assert bytes(letters) == expected.letters
    assert 'tokenizer("text"' in (tmp_path / "hf/README.md").read_text()
