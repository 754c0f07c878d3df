import dataclasses
import json

import pytest
import torch

from protlm.performer import Performer, PerformerConfig
from protlm.performer.baselines import ExactAttention, IdentityAttention
from protlm.performer.config import ADDED, POSITIONS
from protlm.performer.favor import Favor
from protlm.performer.features import Generalised, Softmax
from protlm.performer.kind import Kind
from protlm.performer.kinds import ATTENTION
from protlm.performer.linformer import Linformer
from protlm.performer.model import EsmHead
from protlm.performer.positions import extrapolated, rotate, rounded, sinusoids
from protlm.performer.reference import exact_attention
from protlm.performer.segments import Packed
from protlm.performer.window import Window

PAD = 1
KINDS = ["exact", "opt", "linformer", "reformer", "window", "relu", "softmax"]
"""FAVOR+ and all others; tests/performer/test_attention.py has the other feature maps."""
CAUSAL = [kind for kind in KINDS if ATTENTION[kind].unidirectional]
CASES = [
    *((kind, False, "both") for kind in KINDS),
    *((kind, True, "both") for kind in CAUSAL),
    *(("relu", causal, positions) for causal in (False, True) for positions in ("learned", "rotary")),
]
"""Each kind in each direction, and each kind of positions."""
SOME = [case for case in CASES if case[0] != "opt"]


def build(**changes) -> Performer:
    torch.manual_seed(0)
    sizes = {"layers": 2, "heads": 2, "width": 16, "feed_forward": 32, "max_length": 64, "num_features": 24}
    return Performer(PerformerConfig(**{"vocab_size": 33, "pad_id": PAD, **sizes, "dropout": 0.0, **changes})).eval()


def proteins(batch: int, length: int) -> torch.Tensor:
    return torch.randint(4, 24, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("attention", "causal", "positions"), CASES)
def test_padding_and_batch_mates_change_nothing(attention: str, causal: bool, positions: str) -> None:
    model = build(attention=attention, causal=causal, positions=positions)
    batch = proteins(3, 40)
    batch[1, 17:] = PAD
    batch[2, 1:] = PAD
    signed = attention in ("trig", "gelu", "tanh", "cos", "identity")  # denominators near 0 enlarge rounding
    model, tolerance = (model.double(), 1e-9) if signed else (model, 1e-5)
    together = model.hidden(batch)
    for row, length in enumerate((40, 17, 1)):
        alone = model.hidden(batch[row : row + 1, :length])[0]
        torch.testing.assert_close(together[row, :length], alone, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("attention", CAUSAL)
def test_a_causal_model_does_not_see_the_future(attention: str) -> None:
    model, tokens = build(attention=attention, causal=True), proteins(1, 30)
    changed = tokens.clone()
    changed[0, 20:] = 5
    torch.testing.assert_close(model(changed)[:, :20], model(tokens)[:, :20], atol=1e-6, rtol=0)
    two_way = build(attention=attention, causal=False)
    if attention == "opt":  # sees only the position itself
        assert torch.equal(two_way(changed)[:, :20], two_way(tokens)[:, :20])
        return
    assert not torch.allclose(two_way(changed)[:, :20], two_way(tokens)[:, :20], atol=1e-6)


@pytest.mark.parametrize("positions", POSITIONS)
def test_order_matters(positions: str) -> None:
    model, tokens = build(positions=positions), proteins(1, 30)
    model.blocks[0].attention.qkv.weight.data *= 30  # attention that is not uniform
    assert not torch.allclose(model(tokens.flip(1)).flip(1), model(tokens), atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_exact_attention_equals_the_reference(causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 2, 21, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones(2, 21, dtype=torch.bool)
    torch.testing.assert_close(ExactAttention(causal)(q, k, v, mask), exact_attention(q, k, v, causal=causal))
    mask[1, 9:] = False
    torch.testing.assert_close(ExactAttention(causal)(q, k, v, mask), exact_attention(q, k, v, mask, causal))


def test_opt_returns_the_values() -> None:
    q, k, v = torch.randn(3, 2, 2, 21, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(IdentityAttention()(q, k, v, torch.zeros(2, 21, dtype=torch.bool)), v)


def test_rotary_products_depend_on_distance_only() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frequency = 10_000.0 ** -(torch.arange(0, 8, 2, dtype=torch.float64) / 8)

    def turned(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return (i * frequency[None]).cos(), (i * frequency[None]).sin()

    def product(i: int, j: int) -> torch.Tensor:
        return (rotate(q, *turned(i)) * rotate(k, *turned(j))).sum()

    torch.testing.assert_close(product(3, 10), product(103, 110))
    assert not torch.isclose(product(3, 10), product(3, 11))


def test_learned_positions_start_as_sinusoids_and_continue_as_sinusoids() -> None:
    model = build(max_length=10)
    torch.testing.assert_close(model.position.data, sinusoids(10, 16))
    torch.testing.assert_close(extrapolated(model.position, 0, 25), sinusoids(25, 16))
    assert model(proteins(1, 25)).shape == (1, 25, 33)


def test_loss_covers_the_targets_only() -> None:
    model, tokens = build(), proteins(2, 10)
    targets = torch.full_like(tokens, -100)
    targets[0, 3] = tokens[0, 3]
    logits = model(tokens)
    torch.testing.assert_close(model.loss(logits, targets), -logits.log_softmax(-1)[0, 3, tokens[0, 3]])
    assert model.loss(logits, torch.full_like(tokens, -100)) == 0


@pytest.mark.parametrize("attention", ["relu", "exact", "linformer", "reformer", "window"])
def test_every_parameter_learns(attention: str) -> None:
    model, tokens = build(attention=attention, dropout=0.1).train(), proteins(2, 64)
    model.loss(model(tokens), tokens).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("attention", ["relu", "softmax"])
@pytest.mark.parametrize("causal", [False, True])
def test_depth_36_keeps_activations_and_gradients_in_bounds(attention: str, causal: bool) -> None:
    model, tokens = build(attention=attention, causal=causal, layers=36), proteins(2, 64)
    logits = model(tokens)
    model.loss(logits, tokens).backward()
    assert logits.std() < 2
    norms = torch.stack([block.attention.qkv.weight.grad.norm() for block in model.blocks])
    assert norms.max() / norms.min() < 100


@pytest.mark.parametrize("attention", ["relu", "softmax", "linformer", "window"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_nothing_stays_on_the_cpu(attention: str, positions: str) -> None:
    """A tensor made on the CPU inside the model would not mix with those of another device, here "meta"."""
    model = build(attention=attention, positions=positions, max_length=80).to("meta")
    assert model(torch.zeros(2, 80, dtype=torch.long, device="meta")).device.type == "meta"


@pytest.mark.parametrize("attention", ["softmax", "sderf", "reformer"])
def test_redraw_reaches_every_layer_and_layers_differ(attention: str) -> None:
    model = build(attention=attention)
    before = [block.attention.attention.directions.clone() for block in model.blocks]
    assert not torch.equal(*before)
    assert model.draw_number == 0
    model.redraw(3)
    assert model.draw_number == 3
    for block, old in zip(model.blocks, before, strict=True):
        assert not torch.equal(block.attention.attention.directions, old)


@pytest.mark.parametrize(
    "attention", [name for name, kind in ATTENTION.items() if not kind.uses_random_features and not kind.redraw_every]
)
def test_without_directions_there_is_nothing_to_redraw(attention: str) -> None:
    model, tokens = build(attention=attention), proteins(1, 20)
    before = model(tokens)
    model.redraw(3)
    assert model.draw_number == 0
    assert torch.equal(model(tokens), before)


@pytest.mark.parametrize("attention", ["optimal", "sderf"])
def test_every_layer_adapts_in_training_and_saves_its_observations(attention: str) -> None:
    model, tokens = build(attention=attention), proteins(2, 20)
    model(tokens)
    moments = [block.attention.attention.moment for block in model.blocks]
    assert all(moment.count_nonzero() == 0 for moment in moments)
    model.train()(tokens)
    assert all(moment.count_nonzero() > 0 for moment in moments)
    model.redraw(1)
    other = build(attention=attention)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(tokens), other(tokens))


@pytest.mark.parametrize(
    "changes",
    [
        {"directions": "simplex"},
        {"directions": "iid", "norms": "constant"},
        {"attention": "regularised", "norms": "chi"},
        {"attention": Generalised("gelu", epsilon=0.01)},
        {"attention": Generalised("abs", projected=False), "causal": True},
    ],
)
def test_options_reach_the_attention(changes: dict) -> None:
    model = build(**changes)
    attention = model.blocks[1].attention.attention
    chosen = attention.feature_map
    assert model.config.kind == Favor(chosen)
    assert attention.causal == model.config.causal
    constant = "constant" in (chosen.norms, model.config.norms)
    spread = attention.directions.norm(dim=1).std()
    assert (spread < 1e-6) == constant
    assert model(proteins(1, 9)).isfinite().all()


@pytest.mark.parametrize(
    "attention",
    [
        *ATTENTION,
        Generalised("gelu", epsilon=0.01),
        Softmax(),
        Generalised("relu"),
        *(kind for kind in ATTENTION.values() if not kind.uses_random_features),
        Linformer(16),
        Window(size=7),
    ],
)
def test_config_round_trip(attention: str | Kind) -> None:
    config = PerformerConfig(33, 1, attention=attention, norms="constant", directions="simplex")
    values = json.loads(json.dumps(config.to_dict()))
    back = PerformerConfig.from_dict(values)
    assert back.to_dict() == config.to_dict()
    assert back.kind == config.kind
    assert dataclasses.replace(back, attention=attention) == config


def test_fields_missing_from_old_configs_get_their_defaults() -> None:
    values = PerformerConfig(33, 1).to_dict()
    for name in ADDED:
        del values[name]
    assert PerformerConfig.from_dict(values) == PerformerConfig(33, 1)
    for name in ("vocab_size", "layers"):
        with pytest.raises(ValueError, match=name):
            PerformerConfig.from_dict({key: value for key, value in values.items() if key != name})


def test_invalid_configurations_are_refused() -> None:
    config = PerformerConfig(33, 1)
    with pytest.raises(ValueError, match="layrs"):
        PerformerConfig.from_dict({**config.to_dict(), "layrs": 3})
    with pytest.raises(ValueError, match="swish.*relu"):
        PerformerConfig.from_dict({**config.to_dict(), "attention": {"map": "Generalised", "function": "swish"}})
    for described, match in (
        ({"kind": "Nystrom"}, "attention 'Nystrom': expected one of Exact"),
        ({"kind": "Window", "width": 3}, "attention Window: .*width"),
        ({"kind": "Window", "size": 0}, "size 0: expected an integer of at least 1"),
        ({"size": 3}, "attention None"),
    ):
        with pytest.raises(ValueError, match=match):
            PerformerConfig.from_dict({**config.to_dict(), "attention": described})
    for wrong in (
        {"attention": "nystrom"},
        {"attention": {}},
        {"attention": Softmax},
        {"attention": "linformer", "causal": True},
        {"positions": "none"},
        {"directions": "sobol"},
        {"norms": "gamma"},
        {"heads": 7},
        {"heads": 0},
        {"layers": 1.5},
        {"local_window": True},
        {"num_features": "x"},
        {"dropout": 1.0},
        {"layers": 0},
        {"feature_seed": -1},
        {"head": "esm2"},
        {"norm_eps": -1e-5},
        {"norm_eps": 1.0},
        {"norm_eps": float("nan")},
        {"start_id": 33},
        {"start_id": -1},
        {"zeroed_id": 33},
        {"rotary_dtype": "int8"},
    ):
        with pytest.raises(ValueError, match=f"model.*{next(iter(wrong))}"):
            dataclasses.replace(config, **wrong)


LENGTHS = [[1, 7, 20, 3, 9], [40], [20, 20], [2, 37, 1]]
"""Of the proteins of each row of a block."""


def block(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, L) and the numbers of their proteins (B, L)."""
    tokens = torch.randint(4, 24, (len(LENGTHS), 40), generator=torch.Generator().manual_seed(seed))
    rows = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in LENGTHS]
    return tokens, torch.stack(rows)


@pytest.mark.parametrize(("attention", "causal", "positions"), CASES)
def test_a_protein_of_a_block_has_the_logits_it_has_alone(attention: str, causal: bool, positions: str) -> None:
    longest = 40 if attention == "linformer" else 16
    model = build(attention=attention, causal=causal, positions=positions, max_length=longest).double()
    for layer in model.blocks:
        layer.attention.qkv.weight.data *= 10  # attention that is not uniform
    tokens, segments = block()
    together = model(tokens, segments=segments)
    for row, lengths in enumerate(LENGTHS):
        alone = [model(part[None])[0] for part in tokens[row].split(lengths)]
        torch.testing.assert_close(together[row], torch.cat(alone), atol=1e-8, rtol=1e-8)
    if attention != "opt" or positions == "learned":
        assert not torch.allclose(together, model(tokens), atol=1e-6)


@pytest.mark.parametrize(("attention", "causal", "positions"), SOME)
def test_the_gradients_of_a_block_are_those_of_its_proteins(attention: str, causal: bool, positions: str) -> None:
    tokens, segments = block()
    together, apart = (build(attention=attention, causal=causal, positions=positions).double() for _ in range(2))
    (together(tokens, segments=segments).log_softmax(-1) ** 2).sum().backward()
    for row, lengths in enumerate(LENGTHS):
        for part in tokens[row].split(lengths):
            (apart(part[None]).log_softmax(-1) ** 2).sum().backward()
    for (name, one), other in zip(together.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("attention", "causal", "positions"), SOME)
def test_a_residue_changes_nothing_in_the_other_proteins_of_a_block(
    attention: str, causal: bool, positions: str
) -> None:
    model = build(attention=attention, causal=causal, positions=positions).double()
    for layer in model.blocks:
        layer.attention.qkv.weight.data *= 10
    tokens, segments = block()
    changed = tokens.clone()
    changed[0, 8] = (tokens[0, 8] - 3) % 20 + 4  # the first residue of a protein of 20
    difference = (model(changed, segments=segments) - model(tokens, segments=segments)).abs().amax(-1)
    assert difference[0, 8:28].min() > 1e-9
    difference[0, 8:28] = 0
    assert difference.max() < 1e-10


def test_attention_gets_no_mask_with_packed_sequences() -> None:
    """Nothing is padding there, and kernels without a mask need fewer registers."""
    model = Performer(PerformerConfig(33, 1, 2, 2, 16, 16, num_features=8)).eval()
    tokens, edges = torch.randint(4, 24, (1, 9)), torch.tensor([0, 5, 9], dtype=torch.int32)
    masks = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, arguments: masks.append(arguments[1]))
    model.hidden(tokens, tokens != 1, Packed(edges, 5))
    assert masks == [None, None]
    model.hidden(tokens, tokens != 1, Packed(edges, 5).numbers(9))
    assert all(mask.all() for mask in masks[2:])


@pytest.mark.parametrize(("attention", "causal", "positions"), [*SOME, ("opt", False, "both")])
def test_padding_after_a_block_changes_nothing_and_gets_no_gradient(
    attention: str, causal: bool, positions: str
) -> None:
    """Even if it is a segment of its own, as after the last, shorter block of a split."""
    for own in (0, 1):
        model = build(attention=attention, causal=causal, positions=positions).double()
        tokens, segments = block()
        before = model(tokens, segments=segments)
        tokens = torch.nn.functional.pad(tokens, (0, 9), value=PAD)
        segments = torch.cat((segments, (segments[:, -1:] + own).expand(-1, 9)), 1)
        after = model(tokens, segments=segments)
        torch.testing.assert_close(after[:, :40], before)
        targets = tokens.masked_fill(tokens == PAD, -100)
        model.loss(after, targets).backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("attention", ["optimal", "sderf"])
def test_every_protein_of_a_block_has_equal_weight_for_adaptive_kernels(attention: str) -> None:
    tokens, segments = block()
    together, apart = (build(attention=attention).train() for _ in range(2))
    together(tokens, segments=segments)
    for row, lengths in enumerate(LENGTHS):
        for part in tokens[row].split(lengths):
            apart(part[None])
    for one, other in zip(together.blocks, apart.blocks, strict=True):
        assert other.attention.attention.moment.count_nonzero() > 0
        torch.testing.assert_close(one.attention.attention.moment, other.attention.attention.moment)


MASK = 32
ESM = {"attention": "exact", "positions": "rotary", "head": "esm", "zeroed_id": MASK}


def test_the_head_of_esm_is_dense_gelu_norm_and_the_embedding() -> None:
    model, hidden = build(head="esm", norm_eps=0.01), torch.randn(2, 5, 16)
    head = model.head
    assert isinstance(head, EsmHead)
    assert head.bias.count_nonzero() == head.dense.bias.count_nonzero() == 0
    assert head.dense.weight.std().item() == pytest.approx(0.02, rel=0.2)
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.nn.functional.gelu(hidden @ head.dense.weight.T + head.dense.bias)
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 0.01).sqrt()
    x = x * head.norm.weight + head.norm.bias
    torch.testing.assert_close(model.logits(hidden), x @ model.embedding.weight.T + head.bias)


def test_the_epsilon_of_the_norms_is_that_of_the_configuration() -> None:
    norms = [module for module in build(norm_eps=0.03, head="esm").modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 6
    assert {norm.eps for norm in norms} == {0.03}


def test_every_parameter_of_a_model_like_esm_learns() -> None:
    model, tokens = build(**ESM).train(), proteins(2, 64)
    model.loss(model(tokens), tokens).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_embeddings_of_masks_are_zero_and_the_others_are_rescaled() -> None:
    model, tokens = build(**ESM), proteins(2, 20)
    tokens[0, 3:7] = MASK
    tokens[1, 15:] = PAD
    tokens[1, 2] = MASK
    embedded = model.representations(tokens, {0})[0]
    plain = model.embedding(tokens)
    assert embedded[0, 3:7].count_nonzero() == embedded[1, 2].count_nonzero() == 0
    for row, place, share in ((0, 0, 4 / 20), (0, 19, 4 / 20), (1, 0, 1 / 15), (1, 14, 1 / 15)):
        torch.testing.assert_close(embedded[row, place], plain[row, place] * 0.88 / (1 - share))
    no_masks = model.representations(proteins(1, 9), {0})[0]
    torch.testing.assert_close(no_masks, model.embedding(proteins(1, 9)) * 0.88)


def test_a_protein_of_masks_alone_has_finite_logits() -> None:
    assert build(**ESM)(torch.tensor([[MASK, MASK, MASK]])).isfinite().all()


@pytest.mark.parametrize("attention", ["exact", "softmax"])
def test_masks_elsewhere_in_a_batch_or_block_change_nothing(attention: str) -> None:
    model = build(**{**ESM, "attention": attention}).double()
    tokens, segments = block()
    chosen = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(3)) < 0.3
    tokens[chosen] = MASK
    together = model(tokens, segments=segments)
    for row, lengths in enumerate(LENGTHS):
        parts = tokens[row].split(lengths)
        torch.testing.assert_close(together[row], torch.cat([model(part[None])[0] for part in parts]))
        padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=PAD)
        batched = model(padded)[padded != PAD]
        torch.testing.assert_close(together[row], batched)


def test_a_model_with_zeroed_tokens_cannot_be_computed_step_by_step() -> None:
    with pytest.raises(ValueError, match="causal"):
        build(**ESM, causal=True).step(proteins(1, 3))


def test_rotary_frequencies_are_rounded_to_the_configured_dtype() -> None:
    tokens = proteins(1, 4)
    for dtype in ("float32", "float16", "bfloat16"):
        cos, _ = build(positions="rotary", rotary_dtype=dtype)._rotation(tokens, None)
        frequency = (10_000.0 ** -(torch.arange(0, 8, 2) / 8)).to(getattr(torch, dtype)).float()
        assert cos.dtype == torch.float32
        torch.testing.assert_close(cos, (torch.arange(4)[:, None] * frequency).cos(), rtol=0, atol=1e-7)


def test_the_embedding_has_the_scale_of_positions_unless_tied_to_the_head() -> None:
    model = build(positions="learned", max_length=64)
    ratio = model.embedding.weight.square().mean() / model.position.square().mean()
    assert 0.3 < ratio < 1
    assert build(head="esm").embedding.weight.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [2, 16, 20, 64, 128])
def test_frequencies_are_rounded_as_by_a_conversion(dtype: torch.dtype, head_dim: int) -> None:
    frequency = 10_000.0 ** -(torch.arange(0, head_dim, 2) / head_dim)
    assert torch.equal(rounded(frequency, dtype), frequency.to(dtype).float())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor's own imports
def test_compilers_keep_the_rounding() -> None:
    """They remove a conversion there and back, which changed what a compiled ESM-2 computes."""
    frequency = 10_000.0 ** -(torch.arange(0, 64, 2) / 64)
    compiled = torch.compile(lambda x: rounded(x, torch.float16) * 1000)
    torch.testing.assert_close(compiled(frequency), frequency.half().float() * 1000, rtol=1e-7, atol=0)
