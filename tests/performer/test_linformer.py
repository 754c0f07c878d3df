"""Linformer attention against its reference, its parameters in models, and sequences that are too long."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from protlm.checkpoint import export, load, switch
from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.inference.engine import Computer, encoded
from protlm.inference.evaluate import evaluate
from protlm.performer import Performer, PerformerConfig
from protlm.performer.cost import flops_per_token
from protlm.performer.linformer import Linformer, LinformerAttention
from protlm.performer.reference import linformer_attention
from protlm.performer.segments import within_segments
from tests.command import Outcome, assert_refused

LONGEST, RANK = 260, 12


def attention() -> LinformerAttention:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return LinformerAttention(LONGEST, RANK).double()


def operands(length: int, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(batch, 3, length, width, generator=generator, dtype=torch.float64).requires_grad_()
        for width in (8, 8, 6)
    ]


def model(**changes) -> Performer:
    sizes = {"layers": 2, "heads": 2, "width": 16, "feed_forward": 32, "max_length": 40, "dropout": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = PerformerConfig(33, 1, **{"attention": Linformer(6), "positions": "rotary", **sizes, **changes})
        return Performer(config).eval()


@pytest.mark.parametrize("length", [1, 63, 257])
@pytest.mark.parametrize("padded", [False, True])
def test_outputs_and_gradients_are_those_of_the_reference(length: int, padded: bool) -> None:
    module, one, other = attention(), operands(length), operands(length)
    weights = [weight.detach().clone().requires_grad_() for weight in (module.keys, module.values)]
    mask = None
    if padded:
        mask = torch.rand(2, length, generator=torch.Generator().manual_seed(0)) < 0.6
        mask[:, 0] = True
    got, expected = module(*one, mask), linformer_attention(*other, *weights, mask)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (got * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for x, y in zip([*one, module.keys, module.values], [*other, *weights], strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    assert module.keys.grad[:, length:].count_nonzero() == 0


def test_padding_and_batch_mates_change_nothing() -> None:
    module = attention()
    q, k, v = (x.detach() for x in operands(100))
    mask = torch.ones(2, 100, dtype=torch.bool)
    mask[1, 41:] = False
    for x in (q, k, v):
        x[1, :, 41:] = 1e30  # values after a protein do not count
    got = module(q, k, v, mask)
    torch.testing.assert_close(got[0], module(q[:1], k[:1], v[:1])[0])
    alone = [x[1:, :, :41] for x in (q, k, v)]
    torch.testing.assert_close(got[1, :, :41], module(*alone)[0])
    nothing = module(q, k, v, torch.zeros_like(mask))
    assert nothing.count_nonzero() == 0


def test_each_segment_is_attended_to_as_if_it_were_alone() -> None:
    module, lengths = attention(), [1, 30, 7, 62]
    q, k, v = (x.detach() for x in operands(100, 1))
    segments = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    parts = zip(*(x.split(lengths, 2) for x in (q, k, v)), strict=True)
    expected = torch.cat([module(*part) for part in parts], 2)
    torch.testing.assert_close(within_segments(module, q, k, v, None, segments), expected)


@pytest.mark.parametrize(("rank", "longest"), [(8, 400), (200, 400), (64, 64)])
def test_projected_keys_have_the_variance_of_keys_at_initialisation(rank: int, longest: int) -> None:
    torch.manual_seed(0)
    module, keys = LinformerAttention(longest, rank), torch.randn(1, 8, longest, 32)
    assert (module.keys @ keys).std().item() == pytest.approx(1.0, rel=0.15)
    assert not torch.equal(module.keys, module.values)


def test_invalid_settings_are_refused() -> None:
    for rank in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"rank {rank}: expected an integer of at least 1"):
            Linformer(rank)
    with pytest.raises(ValueError, match="linformer.*causal.*use relu"):
        PerformerConfig(33, 1, attention="linformer", causal=True)
    with pytest.raises(ValueError, match="up to 260 positions, got 261"):
        attention()(*operands(261))


def test_its_parameters_are_reinitialised_with_all_others() -> None:
    network = model()
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    torch.manual_seed(5)
    network.reset_parameters()
    for layer in network.blocks:
        inner = layer.attention.attention
        for weight in (inner.keys, inner.values):
            assert weight.std().item() == pytest.approx(1 / math.sqrt(40), rel=0.3)
    own = {name for name in before if ".attention.attention." in name}
    assert len(own) == 4
    assert not any(torch.equal(before[name], network.get_parameter(name)) for name in own)


def test_a_switch_adds_and_removes_parameters() -> None:
    network, tokens = model().double(), torch.randint(4, 24, (2, 30))
    names = set(network.state_dict())
    common = {name: weight.clone() for name, weight in network.named_parameters() if "attention.attention" not in name}
    before = network(tokens)
    switch(network, "linformer")
    assert network.blocks[0].attention.attention.keys.shape == (128, 40)
    switch(network, "exact")
    assert set(network.state_dict()) == set(common)
    network.switch_attention(Linformer(6))
    assert set(network.state_dict()) == names
    assert {weight.dtype for weight in network.parameters()} == {torch.float64}
    assert not torch.equal(network(tokens), before)  # they were redrawn
    for name, weight in common.items():
        assert torch.equal(network.get_parameter(name), weight)
    same = network.blocks[1].attention.attention.keys
    network.switch_attention(Linformer(6))
    assert network.blocks[1].attention.attention.keys is same


def test_a_model_folder_keeps_them(tmp_path: Path) -> None:
    network, tokens = model(), torch.randint(4, 24, (2, 30))
    export(network, tmp_path / "model")
    back = load(tmp_path / "model")
    assert back.config == network.config
    assert torch.equal(back(tokens), network(tokens))


def test_a_protein_that_is_too_long_is_refused_in_one_line(corpus_path: Path) -> None:
    network = model()
    rows = encoded(network, ["M" * 38, "MKT"])
    ((_, logits),) = Computer(network)(rows, lambda batch, _: batch.logits(network))
    assert logits.shape == (2 * 40, 33)
    longer = encoded(network, ["MKT", "M" * 39])
    with pytest.raises(UserError, match="41 tokens.*linformer attention takes at most 40"):
        list(Computer(model(attention="linformer"))(longer, lambda batch, _: batch.logits(network)))
    with pytest.raises(UserError, match="50 tokens.*takes at most 40"):
        evaluate(network, Corpus(corpus_path), max_length=50)
    assert evaluate(network, Corpus(corpus_path), ["test"])["test"]["perplexity"] > 1


@pytest.mark.parametrize(
    ("command", "source", "output"),
    [
        (["embed"], None, "out.h5"),
        (["fill"], "M" * 60 + "<mask>", "out.tsv"),
        (["score", "--all"], "M" * 60, "out.tsv"),
        (["score", "--pseudo-perplexity"], None, "out.tsv"),
    ],
)
def test_commands_refuse_a_protein_that_is_too_long_and_write_nothing(
    command: list[str],
    source: str | None,
    output: str,
    protlm: Callable[..., Outcome],
    write_fasta: Callable[..., Path],
    tmp_path: Path,
) -> None:
    export(model(), tmp_path / "model")
    fasta = write_fasta([("short", "MKT"), ("long", "M" * 60)])
    before = set(tmp_path.iterdir())
    outcome = protlm(*command, source or fasta, "--model", tmp_path / "model", "--output", tmp_path / output)
    assert_refused(outcome, "takes at most 40", "62 tokens" if source is None or "<" not in source else "63 tokens")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("length", [10, 40])
def test_operations_follow_the_formula(length: int) -> None:
    """Per head and token: 2 d R each for E K, F V, logits and read-out."""
    config = model().config
    without = dataclasses.replace(config, attention="opt")
    assert flops_per_token(config, length) - flops_per_token(without, length) == 2 * 2 * 4 * 2 * 8 * 6
