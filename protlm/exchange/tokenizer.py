"""Tokenisers of transformers: EsmTokenizer for proteins, and a tokenizer.json for models of other alphabets.

Source: the file format of Hugging Face's tokenizers 0.22.
"""

from pathlib import Path
from typing import Any

from protlm.performer import PerformerConfig
from protlm.sequence.alphabets import PROTEIN, alphabet_of
from protlm.sequence.letters import Alphabet
from protlm.strict_json import dumps

_ONE = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def write_tokenizer(config: PerformerConfig, folder: Path) -> None:
    """Writes the tokeniser of a model into its folder."""
    alphabet, about = alphabet_of(config.alphabet), tokenizer_config(config)
    if alphabet == PROTEIN:
        (folder / "vocab.txt").write_text("\n".join(alphabet.tokens))
    else:
        _write_json(folder / "tokenizer.json", tokenizer(config))
    _write_json(folder / "tokenizer_config.json", about)


def tokenizer_config(config: PerformerConfig) -> dict[str, Any]:
    """The content of tokenizer_config.json; the tokeniser puts `cls_token` before a sequence."""
    alphabet = alphabet_of(config.alphabet)
    special = {"cls_token": alphabet.tokens[config.start_id], "pad_token": "<pad>", "eos_token": "<eos>"}
    if "<unk>" in alphabet.index:
        special["unk_token"] = "<unk>"
    return {
        "tokenizer_class": "EsmTokenizer" if alphabet == PROTEIN else "PreTrainedTokenizerFast",
        **special,
        "mask_token": "<mask>",
        "padding_side": "left" if config.causal else "right",  # `generate` continues from the right end
    }


def tokenizer(config: PerformerConfig) -> dict[str, Any]:
    """The content of tokenizer.json: a token for each letter, folded as the alphabet does; bytes are those of UTF-8."""
    alphabet = alphabet_of(config.alphabet)
    special = [i for i in range(alphabet.size) if not alphabet.is_letter[i]]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    of_bytes = len(alphabet.letters) == 256
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": alphabet.tokens[i], **flags} for i in special],
        "normalizer": _normalizer(alphabet),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_BYTES, _ONE]} if of_bytes else _ONE,
        "post_processor": _ends(alphabet, config.start_id),
        "decoder": _BYTES if of_bytes else {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": _vocabulary(alphabet, of_bytes),
            "unk_token": "<unk>" if "<unk>" in alphabet.index else "<pad>",
        },
    }


def _normalizer(alphabet: Alphabet) -> dict[str, Any]:
    """Folds and removes characters as files of the alphabet are read."""
    pairs = {**alphabet.folded, **dict.fromkeys(alphabet.removed, "")}
    steps = [{"type": "Replace", "pattern": {"String": given}, "content": letter} for given, letter in pairs.items()]
    return {"type": "Sequence", "normalizers": steps}


def _ends(alphabet: Alphabet, start: int) -> dict[str, Any]:
    """Puts the first token before a sequence and `<eos>` after it."""
    ends = {alphabet.tokens[i]: i for i in (start, alphabet.eos)}
    first, last = ({"SpecialToken": {"id": alphabet.tokens[i], "type_id": 0}} for i in (start, alphabet.eos))
    one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokens = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in ends.items()}
    return {
        "type": "TemplateProcessing",
        "single": [first, one, last],
        "pair": [first, one, last, other, last],
        "special_tokens": tokens,
    }


def _vocabulary(alphabet: Alphabet, of_bytes: bool) -> dict[str, int]:
    """Token -> number; of bytes, with the characters by which ByteLevel writes them (as GPT-2 does)."""
    shown = {token: number for number, token in enumerate(alphabet.tokens) if not alphabet.is_letter[number]}
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    written = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    for letter in alphabet.letters:
        token = int(alphabet.translate(letter.encode("latin-1"))[0])
        shown[written[ord(letter)] if of_bytes else letter] = token
    return shown


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(dumps(content, indent=2) + "\n")
