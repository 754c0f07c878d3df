import math
import re

import numpy as np
import pytest
import torch
from scipy import stats

from protlm.errors import UserError
from protlm.inference.generate import Generated, choices_of, draw, generate
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import EOS, INDEX, STANDARD, encode, with_ends
from protlm.sequence.fasta import FastaFile

CHOICES = choices_of()


@pytest.fixture(params=["relu", "softmax", "exact"])
def model(request: pytest.FixtureRequest) -> Performer:
    """A causal model with random weights that prefers some residues and sometimes ends a protein."""
    return random_model(request.param)


def random_model(attention: str = "relu", **options: object) -> Performer:
    sizes = {"layers": 2, "heads": 2, "width": 16, "feed_forward": 32, "num_features": 16, "max_length": 256}
    config = PerformerConfig(33, 1, **{**sizes, "attention": attention, "causal": True, "dropout": 0.1, **options})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Performer(config).eval()
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    with torch.no_grad():
        network.head.bias[EOS] += 1
    return network


def constant_model(probabilities: dict[str, float]) -> Performer:
    """Predicts the same at every position."""
    network = random_model()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(-1e4)
        for token, p in probabilities.items():
            network.head.bias[INDEX[token]] = math.log(p)
    return network


def parallel_log_likelihood(network: Performer, protein: Generated, prefix: str = "") -> float:
    tokens = torch.from_numpy(with_ends(encode(protein.sequence), network.config.start_id)).long()[None]
    tokens = tokens if protein.ended else tokens[:, :-1]
    with torch.inference_mode():
        log_p = network(tokens[:, :-1]).double().log_softmax(-1).gather(2, tokens[:, 1:, None])[0, :, 0]
    return float(log_p[len(prefix) :].sum())


@pytest.mark.parametrize("prefix", ["", "MKTAYX"])
def test_the_log_likelihood_equals_that_of_the_parallel_forward(model: Performer, prefix: str) -> None:
    proteins = list(generate(model, 12, prefix, max_length=40, seed=3))
    assert {protein.ended for protein in proteins} == {True, False}
    for protein in proteins:
        expected = parallel_log_likelihood(model, protein, prefix)
        assert protein.log_likelihood == pytest.approx(expected, abs=1e-3)
        assert protein.drawn == len(protein.sequence) - len(prefix) + protein.ended
        assert protein.perplexity == pytest.approx(math.exp(-expected / protein.drawn), rel=1e-4)


def test_temperature_zero_takes_the_most_probable_token_of_the_parallel_forward(model: Performer) -> None:
    (protein,) = generate(model, 1, "MK", temperature=0, max_length=30, min_length=30)
    tokens = torch.from_numpy(with_ends(encode(protein.sequence))).long()[None, :-2]
    with torch.inference_mode():
        best = model(tokens)[0, 2:, CHOICES[:-1]].argmax(-1)
    assert "".join(STANDARD[i] for i in best) == protein.sequence[2:]


def test_proteins_do_not_depend_on_the_batch_size(model: Performer) -> None:
    options = {"max_length": 30, "seed": 5}
    together = list(generate(model, 7, **options))
    assert [protein.number for protein in together] == [1, 2, 3, 4, 5, 6, 7]
    assert len({protein.sequence for protein in together}) == 7
    for batch_size in (1, 3):
        for n in (4, 7):
            found = list(generate(model, n, batch_size=batch_size, **options))
            assert [one.sequence for one in found] == [one.sequence for one in together[:n]]
            assert [one.log_likelihood for one in found] == pytest.approx(
                [one.log_likelihood for one in together[:n]], abs=1e-4
            )


def test_proteins_depend_on_the_seed() -> None:
    def sequences(seed: int) -> list[str]:
        return [protein.sequence for protein in generate(random_model(), 3, max_length=20, seed=seed)]

    assert sequences(1) == sequences(1) != sequences(2)


def test_finished_proteins_are_not_computed_further(monkeypatch: pytest.MonkeyPatch) -> None:
    network, rows = random_model(), []
    step = network.step
    monkeypatch.setattr(network, "step", lambda tokens, state=None: (rows.append(len(tokens)), step(tokens, state))[1])
    proteins = list(generate(network, 8, max_length=40))
    assert rows[0] == 1  # the start, computed once for all proteins
    # one row per token of a protein, except `<eos>` and the last residue of one that was cut
    assert sum(rows[1:]) == sum(len(protein.sequence) - (not protein.ended) for protein in proteins)


def test_prefixes_and_length_limits_are_respected(model: Performer) -> None:
    for protein in generate(model, 10, "mktwx", max_length=12, min_length=9):
        assert protein.sequence.startswith("MKTWX")
        assert 9 <= len(protein.sequence) <= 12
        assert set(protein.sequence[5:]) <= set(STANDARD)
        assert protein.ended or len(protein.sequence) == 12


def test_a_residue_with_probability_one_is_always_drawn() -> None:
    (protein,) = generate(constant_model({"W": 1.0}), prefix="MK", max_length=20)
    assert protein == Generated(1, "MK" + 18 * "W", pytest.approx(0), 18, ended=False)


def test_a_certain_end_waits_for_the_minimum_length() -> None:
    proteins = list(generate(constant_model({"<eos>": 1.0, "C": 1e-9}), 3, min_length=4, max_length=9))
    assert [(one.sequence, one.ended, one.drawn) for one in proteins] == 3 * [("CCCC", True, 5)]
    assert proteins[0].log_likelihood == pytest.approx(4 * math.log(1e-9))  # as the model has it


def test_other_tokens_are_never_drawn_but_count() -> None:
    (protein,) = generate(constant_model({"<cls>": 0.5, "X": 0.4, "A": 0.1}), max_length=5)
    assert protein.sequence == "AAAAA"
    assert protein.log_likelihood == pytest.approx(5 * math.log(0.1))


def test_a_model_trained_on_blocks_starts_from_eos() -> None:
    network = random_model(start_id=EOS)
    proteins = list(generate(network, 4, max_length=20))
    for protein in proteins:
        assert protein.log_likelihood == pytest.approx(parallel_log_likelihood(network, protein), abs=1e-3)
    assert proteins != list(generate(random_model(), 4, max_length=20))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7)])
def test_draws_follow_the_formula(temperature: float, top_p: float) -> None:
    network, n = random_model(), 3_000
    with torch.inference_mode():
        logits = network(torch.zeros(1, 1, dtype=torch.long))[0, 0].double().numpy()
    p = np.exp(logits[CHOICES[:-1]] / temperature)  # the minimum length is 1: no end
    p /= p.sum()
    kept = np.argsort(-p)
    kept = kept[: 1 + int((p[kept].cumsum() < top_p).sum())]
    expected = np.zeros_like(p)
    expected[kept] = p[kept] / p[kept].sum()
    found = generate(network, n, temperature=temperature, top_p=top_p, max_length=1, batch_size=n)
    counts = np.array([[one.sequence == letter for letter in STANDARD] for one in found]).sum(0)
    assert (counts[expected == 0] == 0).all()
    assert stats.chisquare(counts[expected > 0], n * expected[expected > 0]).pvalue > 0.01


def test_a_small_nucleus_or_temperature_takes_the_most_probable_token(model: Performer) -> None:
    def sequences(**options: float) -> list[str]:
        return [protein.sequence for protein in generate(model, 3, max_length=20, **options)]

    assert sequences(top_p=1e-9) == sequences(temperature=0) == sequences(temperature=1e-300)
    assert len(set(sequences(temperature=0))) == 1


def test_a_draw_is_where_the_random_number_falls() -> None:
    log_p = np.log([[0.5, 0.2, 0.3]])

    def drawn(uniform: float, top_p: float = 1.0) -> int:
        return int(draw(log_p, np.array([uniform]), 1.0, top_p)[0])

    assert [drawn(u) for u in (0, 0.49, 0.51, 0.69, 0.71, 1 - 2**-53)] == [0, 0, 1, 1, 2, 2]
    assert [drawn(u, top_p=0.79) for u in (0.62, 0.63, 1 - 2**-53)] == [0, 2, 2]  # 0.5 / 0.8 = 0.625
    assert [drawn(u, top_p=0.5) for u in (0, 1 - 2**-53)] == [0, 0]


def test_records_are_read_again(tmp_path) -> None:
    proteins = list(generate(random_model(), 5, max_length=150, min_length=61))
    path = tmp_path / "drawn.fasta"
    path.write_text("".join(protein.fasta(seed=0) for protein in proteins))
    assert max(map(len, path.read_text().splitlines())) <= 120
    for record, protein in zip(FastaFile(path), proteins, strict=True):
        assert (record.id, record.sequence) == (f"generated_{protein.number}", protein.sequence)
        entries = dict(entry.split("=") for entry in record.description.split())
        assert entries["seed"] == "0"
        assert int(entries["length"]) == len(protein.sequence)
        assert float(entries["log_likelihood"]) == pytest.approx(protein.log_likelihood, abs=1e-4)
        assert float(entries["perplexity"]) == pytest.approx(protein.perplexity, abs=1e-4)
        assert entries["ended"] == ("yes" if protein.ended else "no")


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    list(generate(random_model(), 5, "MK", max_length=20, batch_size=2, progress=lambda *done: seen.append(done)))
    assert seen == sorted(seen)
    assert seen[-1] == (5 * 18, 5 * 18)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n": 0}, "n 0: expected an integer of at least 1"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"temperature": -0.1}, "temperature -0.1: expected a number of at least 0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"temperature": math.inf}, "temperature inf"),
        ({"top_p": 0.0}, "top_p 0.0: expected a number above 0, at most 1"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"top_p": math.nan}, "top_p nan"),
        ({"seed": -1}, "seed -1"),
        ({"prefix": "MK1"}, "prefix: '1' at position 3"),
        ({"prefix": "MK<mask>"}, "prefix: '<mask>' at position 3"),
        ({"prefix": "MK\u0131"}, "prefix: .* at position 3"),
        ({"prefix": "MKT", "max_length": 3}, "max_length 3: expected more than the 3 residues of the prefix"),
        ({"max_length": 0}, "max_length 0"),
        ({"min_length": 0}, "min_length 0"),
        ({"min_length": 9, "max_length": 8}, "min_length 9: expected at most max_length, 8"),
    ],
)
def test_invalid_values_are_refused_at_the_call(options: dict, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        generate(random_model(), **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"causal": False}, "bidirectional"),
        ({"zeroed_id": 32}, "zeroed_id"),
        ({"attention": "reformer"}, "reformer attention cannot run token by token"),
    ],
)
def test_unsuitable_models_are_refused(options: dict, match: str) -> None:
    with pytest.raises(UserError, match=match):
        generate(random_model(**options))


def test_a_model_that_is_not_finite_is_refused() -> None:
    network = random_model()
    with torch.no_grad():
        network.head.bias[7] = math.nan
    with pytest.raises(UserError, match="not finite"):
        list(generate(network))


def read_bytes(fasta: str) -> bytes:
    """The bytes of a record, as the guide reads them."""
    joined = "".join(line.strip() for line in fasta.splitlines() if not line.startswith(">"))
    return re.sub(rb"<0x(..)>", lambda token: bytes.fromhex(token[1].decode()), joined.encode("latin-1"))


@pytest.mark.parametrize(
    "letters",
    [bytes(range(256)), b"word " * 40, b">" * 130, b" <0x0A>< 0x\n" * 20, b"a" * 57 + b"\x1d" * 30, b" "],
)
def test_bytes_are_read_back_from_fasta(letters: bytes) -> None:
    fasta = Generated(1, "", 0.0, 1, ended=True, letters=letters).fasta()
    assert read_bytes(fasta) == letters
    assert max(map(len, fasta.splitlines()[1:])) <= 65


def test_proteins_have_sixty_residues_a_line() -> None:
    assert Generated(1, "MK" * 40, 0.0, 1, ended=True).fasta().splitlines()[1:] == ["MK" * 30, "MK" * 10]
