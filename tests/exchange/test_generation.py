"""`generate` of transformers on exported causal models: with the cache as without it, and as protlm generates."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline, set_seed

from protlm.errors import UserError
from protlm.exchange.huggingface import export_huggingface
from protlm.inference.generate import generate
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import EOS, PAD
from tests.exchange.exported import KINDS, SIZES, Exported, build, load

CAUSAL = [kind for kind in KINDS if kind.startswith("causal")]
PROMPTS = ["MKT", "MKTAYIAK", "GAV", ""]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "top_p": 0.9, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
    "sampled beams": {"num_beams": 2, "do_sample": True},
}


def loaded(exported: Exported, kind: str) -> tuple[Any, Any]:
    return load(AutoModelForCausalLM, exported[kind]), load(AutoTokenizer, exported[kind])


@pytest.mark.parametrize(("kind", "way"), [*((kind, "greedy") for kind in CAUSAL), *(("causal relu", w) for w in WAYS)])
def test_the_cache_changes_nothing(exported: Exported, kind: str, way: str) -> None:
    model, tokenizer = loaded(exported, kind)
    inputs, found = tokenizer(PROMPTS, padding=True, return_tensors="pt"), []
    for use_cache in (True, False):
        set_seed(1)
        found.append(model.generate(**inputs, max_new_tokens=15, use_cache=use_cache, **WAYS[way]))
    assert torch.equal(*found)
    assert len(set(map(tuple, found[0].tolist()))) > 1


def test_rows_without_padding_may_end_before_others(exported: Exported) -> None:
    model, tokenizer = loaded(exported, "causal relu")
    inputs = tokenizer(["MKTAY", "GAVLI"], add_special_tokens=False, return_tensors="pt")
    options, found = {"do_sample": True, "num_return_sequences": 6, "max_new_tokens": 30}, []
    for use_cache in (True, False):
        set_seed(1)
        found.append(model.generate(**inputs, **options, use_cache=use_cache))
    assert torch.equal(*found)
    assert 0 < (found[0][:, -1] == PAD).sum() < 12


@pytest.mark.parametrize("kind", CAUSAL)
def test_greedy_generation_equals_that_of_protlm(exported: Exported, kind: str) -> None:
    model, tokenizer = loaded(exported, kind)
    inputs = tokenizer(PROMPTS[:3], padding=True, return_tensors="pt")
    new = 12
    rows = model.generate(**inputs, max_new_tokens=new)
    assert rows.shape[1] == inputs["input_ids"].shape[1] + new
    for prompt, row in zip(PROMPTS, rows, strict=False):
        ours = next(generate(build(kind), prefix=prompt, temperature=0, max_length=len(prompt) + new))
        assert tokenizer.decode(row, skip_special_tokens=True).replace(" ", "") == ours.sequence


def test_only_amino_acids_and_the_end_are_drawn(exported: Exported) -> None:
    model, tokenizer = loaded(exported, "causal relu")
    inputs = tokenizer("MKT", return_tensors="pt")
    set_seed(0)
    options = {"do_sample": True, "temperature": 9.0, "num_return_sequences": 30, "max_new_tokens": 20}
    rows = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    assert set(rows.unique().tolist()) == {*range(4, 24), EOS, PAD}


@pytest.mark.parametrize("kind", CAUSAL)
def test_steps_with_the_cache_give_the_logits_of_the_whole(exported: Exported, kind: str) -> None:
    """Also several tokens at once, after left padding."""
    model, tokenizer = loaded(exported, kind)
    inputs = tokenizer(["MKTAYIAKQR", "GAVLI", "MKTAY"], padding=True, return_tensors="pt")
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.inference_mode():
        whole = model(**inputs).logits
        cache, parts = None, []
        for piece in (slice(0, 8), slice(8, 9), slice(9, 12)):
            output = model(tokens[:, piece], mask[:, : piece.stop], past_key_values=cache, use_cache=True)
            cache, parts = output.past_key_values, [*parts, output.logits]
    assert cache is not None
    assert cache.get_seq_length() == 12 == tokens.shape[1]
    real = mask.bool()
    torch.testing.assert_close(torch.cat(parts, 1)[real], whole[real], atol=1e-4, rtol=1e-4)


def test_the_state_has_a_constant_size_with_linear_attention(exported: Exported) -> None:
    sizes = {}
    for kind in ("causal relu", "causal exact"):
        model, tokenizer = loaded(exported, kind)
        inputs = tokenizer("MKTAY", return_tensors="pt", add_special_tokens=False)
        cache = model(**inputs, use_cache=True).past_key_values
        sizes[kind] = [sum(x.numel() for layer in cache.groups[0].state.layers for x in layer)]
        for _ in range(3):
            model(torch.tensor([[5]]), past_key_values=cache)
        sizes[kind].append(sum(x.numel() for layer in cache.groups[0].state.layers for x in layer))
    assert sizes["causal relu"][0] == sizes["causal relu"][1]
    assert sizes["causal exact"][1] == sizes["causal exact"][0] * 8 // 5


@pytest.mark.parametrize("kind", CAUSAL)
def test_padding_at_either_side_changes_nothing(exported: Exported, kind: str) -> None:
    model, tokenizer = loaded(exported, kind)
    rows = {}
    for side in ("left", "right"):
        inputs = tokenizer(PROMPTS, padding=True, padding_side=side, return_tensors="pt")
        rows[side] = model.generate(**inputs, max_new_tokens=9)
        assert torch.equal(model.generate(inputs["input_ids"], max_new_tokens=9), rows[side])
    assert torch.equal(rows["left"], rows["right"])
    for prompt, row in zip(PROMPTS, rows["right"], strict=True):
        alone = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=9)[0]
        assert tokenizer.decode(row, skip_special_tokens=True) == tokenizer.decode(alone, skip_special_tokens=True)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prompts", [["MKT"], ["MKTAY", "GAVLI"], ["MKT", "GAVLI"]], ids="-".join)
def test_embeddings_as_a_prompt(exported: Exported, prompts: list[str], way: str, use_cache: bool) -> None:
    model, tokenizer = loaded(exported, "causal softmax")
    options = {"max_new_tokens": 9, **WAYS[way]}
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    tokens, mask = inputs["input_ids"][:, :-1], inputs["attention_mask"][:, :-1]  # without <eos>
    more = {"inputs_embeds": model.get_input_embeddings()(tokens), "use_cache": use_cache, **options}
    masks = [{"attention_mask": mask}, *([{}] if mask.all() else [])]
    found = []
    for arguments in ({"input_ids": tokens, "attention_mask": mask, **options}, *({**more, **m} for m in masks)):
        set_seed(1)
        found.append(model.generate(**arguments))
    assert all(torch.equal(rows, found[0][:, tokens.shape[1] :]) for rows in found[1:])
    set_seed(1)
    assert torch.equal(model.generate(tokens, **more, attention_mask=mask), found[0])  # tokens for the result only


def test_embeddings_padded_at_the_right(exported: Exported) -> None:
    model, tokenizer = loaded(exported, "causal relu")
    rows = []
    for side in ("left", "right"):
        inputs = tokenizer(["MKT", "GAVLI"], padding=True, padding_side=side, return_tensors="pt")
        embeddings = model.get_input_embeddings()(inputs["input_ids"])
        rows.append(model.generate(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"], max_new_tokens=9))
    assert torch.equal(*rows)


def test_a_model_without_steps_generates_without_a_cache(tmp_path) -> None:
    torch.manual_seed(0)
    config = PerformerConfig(33, PAD, **SIZES, causal=True, zeroed_id=32)
    model = Performer(config).eval()
    with pytest.raises(UserError, match="zeroed_id"):
        generate(model)
    export_huggingface(model, tmp_path / "hf")
    theirs = load(AutoModelForCausalLM, tmp_path / "hf")
    assert theirs(torch.tensor([[0, 5, 6]]), use_cache=True).past_key_values is None
    expected = torch.tensor([[0, 20, 15]])
    for _ in range(5):
        logits = model(expected)[:, -1]
        logits[:, theirs.generation_config.suppress_tokens] = -torch.inf
        expected = torch.cat((expected, logits.argmax(-1, keepdim=True)), 1)
    prompt = torch.tensor([[0, 20, 15]])
    assert torch.equal(theirs.generate(prompt, max_new_tokens=5), expected)
    embeddings = theirs.get_input_embeddings()(prompt)
    assert torch.equal(theirs.generate(inputs_embeds=embeddings, max_new_tokens=5), expected[:, 3:])


def test_what_the_cache_refuses(exported: Exported) -> None:
    model, _ = loaded(exported, "causal relu")
    tokens = torch.tensor([[0, 20, 15], [0, 20, 15]])
    cache = model(tokens, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="cannot be padding"):
        model(tokens[:, :1], torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]), past_key_values=cache)
    with pytest.raises(ValueError, match="cannot be used with labels"):
        model(tokens[:, :1], past_key_values=cache, output_hidden_states=True)
    padded = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert model(tokens, padded, use_cache=True).past_key_values is None  # padding at the right
    assert model.train()(tokens, use_cache=True).past_key_values is None
    with pytest.raises(ValueError, match="(?i)assisted generation is not supported with stateful models"):
        model.eval().generate(tokens[:1], prompt_lookup_num_tokens=2, max_new_tokens=4)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


def test_hidden_states_and_attentions_of_generation(exported: Exported) -> None:
    model, tokenizer = loaded(exported, "causal relu")
    inputs = tokenizer("MKT", return_tensors="pt")
    options = {"return_dict_in_generate": True, "output_hidden_states": True, "output_attentions": True}
    found = model.generate(**inputs, max_new_tokens=4, **options)
    assert torch.equal(found.sequences, model.generate(**inputs, max_new_tokens=4))
    assert len(found.hidden_states) == len(found.attentions) == 4
    assert found.attentions[0][0].shape == (1, 2, 5, 5)  # padding in place of <eos>


def test_the_pipeline_continues_a_prompt(exported: Exported) -> None:
    model, tokenizer = loaded(exported, "causal softmax")
    run = pipeline("text-generation", model=model, tokenizer=tokenizer)
    (found,) = run("MKTAY", max_new_tokens=10, do_sample=False)  # by default, it samples
    ours = next(generate(build("causal softmax"), prefix="MKTAY", temperature=0, max_length=15))
    assert found["generated_text"].replace(" ", "") == ours.sequence
