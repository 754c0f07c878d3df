"""The Python API of `protlm.load`: results of the methods, which equal those of the underlying functions."""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

import protlm
from protlm import UserError
from protlm.checkpoint import export
from protlm.embedding.in_memory import embed
from protlm.errors import ProtlmWarning
from protlm.inference.fill import predict_masked
from protlm.inference.generate import generate
from protlm.inference.perplexity import pseudo_perplexity
from protlm.interpret.attention_maps import attention_matrices
from protlm.model_api import ProteinModel, example
from protlm.performer import Performer
from protlm.sequence.alphabet import STANDARD, encode, with_ends
from protlm.variants.score import score

PROTEINS = ["MKTAYIAKQR", "MKT", "GAVLIMCFYW"]


@pytest.fixture
def model(model_folder: Path) -> ProteinModel:
    return protlm.load(model_folder)


def test_load_returns_the_saved_network(model: ProteinModel, tiny_model: Performer) -> None:
    assert isinstance(model, Performer)
    assert not model.training
    tokens = torch.from_numpy(with_ends(encode("MKTAYIAK"))).long()[None]
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens), tiny_model(tokens), rtol=0, atol=0)


def test_embeddings_are_means_over_the_residues(model: ProteinModel) -> None:
    together = model.embed(PROTEINS)
    assert together.shape == (3, 16)
    assert together.dtype == np.float32
    for row, residues, sequence in zip(together, model.embed_residues(PROTEINS), PROTEINS, strict=True):
        assert residues.shape == (len(sequence), 16)
        np.testing.assert_allclose(row, residues.mean(0), atol=1e-5)
        (expected,) = embed(model, [sequence])
        np.testing.assert_allclose(residues, expected, atol=1e-5)
    both = model.embed(PROTEINS, pool="max", layers=(1, -1))
    assert both.shape == (3, 2, 16)
    np.testing.assert_allclose(both[:, 1], model.embed(PROTEINS, pool="max"), atol=1e-6)
    assert [rows.shape for rows in model.embed_residues(["MKT"], layers=(0, 1))] == [(2, 3, 16)]


def test_layers_are_integers_of_any_kind(model: ProteinModel) -> None:
    """NumPy's too, as from `range` or `np.arange`."""
    expected = model.embed(PROTEINS, layers=(0, 1))
    for layers in (range(2), np.arange(2), [np.int64(0), 1]):
        np.testing.assert_array_equal(model.embed(PROTEINS, layers=layers), expected)
    np.testing.assert_array_equal(model.embed(PROTEINS, layers=np.int64(1)), expected[:, 1])
    for wrong in (True, 1.0, "1", None, [None]):
        with pytest.raises(UserError, match="expected integers such as"):
            model.embed(PROTEINS, layers=wrong)  # type: ignore[arg-type]


def test_lower_case_and_j_are_accepted(model: ProteinModel) -> None:
    np.testing.assert_array_equal(model.embed(["mkj"]), model.embed(["MKX"]))


def test_no_sequences_give_empty_results(model: ProteinModel) -> None:
    assert model.embed([]).shape == (0, 16)
    assert model.embed([], layers=(0, 1)).shape == (0, 2, 16)
    assert model.embed_residues([]) == []


def test_predictions_scores_and_perplexities_are_those_of_the_functions(model: ProteinModel) -> None:
    assert model.predict_masked("MK<mask>LLI", 3) == predict_masked(model, "MK<mask>LLI", 3)
    assert model.probabilities("MKT").shape == (3, 20)
    np.testing.assert_allclose(model.probabilities("MKTLLI").sum(1), 1)
    variants = ["K2R", "M1A:T3G"]
    np.testing.assert_array_equal(model.score("MKTLLI", variants), score(model, "MKTLLI", variants))
    every = model.score("MKTLLI")
    assert every.shape == (6, 20)
    assert every[1, STANDARD.index("R")] == pytest.approx(model.score("MKTLLI", ["K2R"])[0])
    assert every[1, STANDARD.index("K")] == 0
    np.testing.assert_array_equal(model.pseudo_perplexity(PROTEINS), pseudo_perplexity(model, PROTEINS))
    assert not np.allclose(model.pseudo_perplexity(PROTEINS, one_pass=True), model.pseudo_perplexity(PROTEINS))


MANY = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "array": np.array,
    "Bio.Seq": lambda proteins: [Seq(protein) for protein in proteins],
    "SeqRecord": lambda proteins: [SeqRecord(Seq(protein), id="r") for protein in proteins],
    "as found": lambda proteins: [f"{protein.lower()[:2]} -\n{protein[2:]}.**" for protein in proteins],
}
ROWS = {
    "embed": lambda model, proteins: model.embed(proteins),
    "embed layers": lambda model, proteins: model.embed(proteins, layers=(0, -1)),
    "embed_residues": lambda model, proteins: model.embed_residues(proteins, layers=-1),
    "probabilities": lambda model, proteins: model.probabilities(proteins, one_pass=True),
    "predict_masked": lambda model, proteins: [
        [(one.position, *one.probabilities) for one in found] for found in model.predict_masked(proteins)
    ],
    "pseudo_perplexity": lambda model, proteins: model.pseudo_perplexity(proteins),
}


def masked_if_needed(method: str, proteins: list[str]) -> list[str]:
    return [f"{protein}<mask>" for protein in proteins] if method == "predict_masked" else proteins


@pytest.mark.parametrize("container", MANY)
@pytest.mark.parametrize("method", ROWS)
def test_proteins_are_accepted_in_all_containers(model: ProteinModel, method: str, container: str) -> None:
    proteins = masked_if_needed(method, PROTEINS)
    expected, found = ROWS[method](model, proteins), ROWS[method](model, MANY[container](proteins))
    assert type(found) is type(expected)
    assert len(found) == 3
    for row, same in zip(found, expected, strict=True):
        np.testing.assert_array_equal(row, same)


@pytest.mark.parametrize("method", ["embed", "embed layers", "embed_residues", "probabilities", "pseudo_perplexity"])
def test_identifiers_are_kept(model: ProteinModel, method: str) -> None:
    call, names = ROWS[method], ["x", "y", "x"]
    expected = call(model, PROTEINS)
    by_id = call(model, dict(zip("abc", PROTEINS, strict=True)))
    assert list(by_id) == ["a", "b", "c"]
    series = pandas.Series(PROTEINS, index=names)
    frame = pandas.DataFrame({"id": [7, 8, 9], "Sequence": PROTEINS}, index=names)
    for pandas_object in (series, frame):
        found = call(model, pandas_object)
        assert list(found.index) == names
        for row, same, own in zip(range(3), expected, by_id.values(), strict=True):
            np.testing.assert_array_equal(np.reshape(found.iloc[row], np.shape(same)), same)
            np.testing.assert_array_equal(own, same)
    single = call(model, PROTEINS[1])
    np.testing.assert_allclose(single, expected[1], rtol=1e-4, atol=1e-6)
    assert np.shape(single) == np.shape(expected[1])
    if method == "embed layers":
        assert list(found.columns[:2]) == [(0, 0), (0, 1)]
        assert found.columns.names == ["layer", "dimension"]


def test_a_frame_joins_its_embeddings(model: ProteinModel) -> None:
    frame = pandas.DataFrame({"sequence": PROTEINS, "label": [1, 2, 3]})[::-1]
    joined = frame.join(model.embed(frame))
    np.testing.assert_array_equal(joined[list(range(16))], model.embed(PROTEINS)[::-1])
    frame["perplexity"] = model.pseudo_perplexity(frame)
    assert frame["perplexity"].dtype == np.float64
    assert model.embed(frame[:0]).shape == (0, 16)


def test_the_wild_type_and_its_variants_may_be_any_objects(model: ProteinModel) -> None:
    expected = model.score("MKTLLI", ["K2R", "M1A"])
    for wild_type in (Seq("MKTLLI"), SeqRecord(Seq("mktlli*"), id="w"), "MKT LLI"):
        for variants in (pandas.Series(["K2R", "M1A"]), ("K2R", "M1A"), np.array(["K2R", "M1A"]), iter(["K2R", "M1A"])):
            np.testing.assert_array_equal(model.score(wild_type, variants), expected)


LONG = "MKTAYIAKQR" * 30
EVERY_METHOD = {
    "embed": lambda model, protein: model.embed([protein]),
    "embed_residues": lambda model, protein: model.embed_residues([protein]),
    "predict_masked": lambda model, protein: model.predict_masked(f"<mask>{protein}")[0].probabilities,
    "probabilities": lambda model, protein: model.probabilities(protein, one_pass=True),
    "score": lambda model, protein: model.score(protein, ["M1A"]),
    "pseudo_perplexity": lambda model, protein: model.pseudo_perplexity([protein], one_pass=True),
    "attention_matrices": lambda model, protein: attention_matrices(model, protein),
}


@pytest.fixture
def dropping(tiny_model: Performer, tmp_path: Path) -> ProteinModel:
    """A model with dropout, and attention that observes in training."""
    config = dataclasses.replace(tiny_model.config, dropout=0.5, attention="optimal")
    export(Performer(config), tmp_path / "dropping")
    return protlm.load(tmp_path / "dropping")


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_every_method_evaluates_and_restores_the_mode(dropping: ProteinModel, method: str) -> None:
    expected = EVERY_METHOD[method](dropping, PROTEINS[0])
    dropping.train()
    dropping.blocks[1].eval()
    modes = [module.training for module in dropping.modules()]
    state = {name: value.clone() for name, value in dropping.state_dict().items()}
    np.testing.assert_array_equal(EVERY_METHOD[method](dropping, PROTEINS[0]), expected)
    assert [module.training for module in dropping.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in dropping.state_dict().items())
    with torch.no_grad():
        dropping.norm.weight.fill_(torch.nan)
    if method not in ("embed", "embed_residues", "attention_matrices"):  # which return what they find
        with pytest.raises(UserError, match="not finite"):
            EVERY_METHOD[method](dropping, PROTEINS[0])
    assert [module.training for module in dropping.modules()] == modes


def test_the_mode_is_restored_after_an_error_inside_the_model(dropping: ProteinModel) -> None:
    dropping.train()
    dropping.norm.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dropping.embed(["MKT"])
    assert all(module.training for module in dropping.modules())


def test_generation_evaluates_and_restores_the_mode() -> None:
    model = Performer(dataclasses.replace(example(causal=True).config, dropout=0.5))
    expected = list(generate(model.eval(), 2, max_length=12))
    model.train()
    found = []
    for protein in generate(model, 2, max_length=12):
        assert all(module.training for module in model.modules())  # also between two proteins
        found.append(protein)
    assert found == expected


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_every_method_warns_of_extrapolated_positions(model: ProteinModel, method: str) -> None:
    with pytest.warns(ProtlmWarning, match="longer than the 256 positions that this model has learned"):
        EVERY_METHOD[method](model, LONG)
    EVERY_METHOD[method](model, LONG[:250])  # a warning would be an error


def test_generation_warns_of_extrapolated_positions() -> None:
    model = example(causal=True)
    rotary = dataclasses.replace(model.config, max_length=20)
    learned = Performer(dataclasses.replace(rotary, positions="learned"))
    for network, length, warned in ((Performer(rotary), 40, 0), (learned, 20, 0), (learned, 40, 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            list(generate(network, 2, min_length=length, max_length=length))
        assert len(caught) == warned


def test_generation_is_reproducible() -> None:
    model = example(causal=True)
    one, two = model.generate(2, prefix="MKT", max_length=12, seed=3)
    assert one != two
    assert [one, two] == model.generate(2, prefix="MKT", max_length=12, seed=3)
    assert max(len(one), len(two)) <= 12


def test_another_attention_with_the_same_weights(model_folder: Path) -> None:
    model, exact = protlm.load(model_folder), protlm.load(model_folder, attention="exact")
    assert exact.config.attention == "exact"
    assert torch.equal(model.head.weight, exact.head.weight)
    assert not np.allclose(model.embed(PROTEINS), exact.embed(PROTEINS), atol=1e-4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda model: model.score("MKT", "M1A"), "a list of strings"),
        (lambda model: model.embed(["MKT", ""]), "sequence 2 is empty"),
        (
            lambda model: model.embed(["MKT", None]),
            "sequence 2: expected .* got None .a missing value.",
        ),
        (lambda model: model.pseudo_perplexity([1]), "sequence 1: expected a string, Bio.Seq or SeqRecord, got int"),
        (lambda model: model.embed(["MKT", "M1T"]), "sequence 2: '1' at position 2"),
        (lambda model: model.embed(["MKT\u0131"]), "sequence 1"),
        (lambda model: model.embed(["MKT"], pool="median"), "median"),
        (lambda model: model.embed(["MKT"], layers=(3,)), "3"),
        (lambda model: model.embed(["MKT"], layers="-1"), "layers '-1': expected integers"),
        (lambda model: model.embed(7), "expected one protein or a list of them, got int"),
        (lambda model: model.predict_masked(["M<mask>", "MKT"]), "sequence 2: no <mask>"),
        (lambda model: model.score(["MKT"]), "the wild type: expected one protein as a string.*got list"),
        (lambda model: model.score("M-KT", ["K3R"]), "the wild type: '-' at position 2 .*no gaps"),
        (lambda model: model.score("MKT", ["M1A", None]), "variant 2: expected a string such as 'A42G', got None"),
        (lambda model: model.score("MKT", pandas.DataFrame({"mutant": ["M1A"]})), "list of strings.*got DataFrame"),
        (lambda model: model.embed(["MKT"], precision="float8"), "float8"),
        (lambda model: model.predict_masked("MKT"), "<mask>"),
        (lambda model: model.score("MKT", ["A1G"]), "position 1"),
        (lambda model: model.generate(), "generate requires a causal model"),
        (lambda model: example(causal=True).predict_masked("MK<mask>"), "bidirectional"),
        (lambda model: model.embed("MKT", token_budget=1e4), "token_budget 10000.0: expected an integer of at least 1"),
        (lambda model: model.pseudo_perplexity("MKT", token_budget="9"), "token_budget '9': expected an integer"),
        (lambda model: model.predict_masked("M<mask>", top=2.5), "top 2.5: expected 1 to 20"),
        (lambda model: model.predict_masked("M<mask>", top=21), "top 21: expected 1 to 20"),
        (lambda model: example(causal=True).generate(n=1.5), "n 1.5: expected an integer of at least 1"),
        (lambda model: example(causal=True).generate(seed=None), "seed None: expected an integer of at least 0"),
        (lambda model: example(causal=True).generate(max_length="9"), "max_length '9': expected an integer"),
        (lambda model: example(causal=True).generate(temperature="hot"), "temperature 'hot': expected a number"),
        (lambda model: example(causal=True).generate(top_p=None), "top_p None: expected a number above 0"),
        (lambda model: example(causal=True).generate(prefix=None), "prefix: expected one protein .*got None"),
    ],
)
def test_a_user_error_is_one_line(model: ProteinModel, call, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_an_unknown_device_is_refused(model_folder: Path) -> None:
    with pytest.raises(UserError, match="device abacus"):
        protlm.load(model_folder, device="abacus")
    assert next(protlm.load(model_folder, device="auto").parameters()).isfinite().all()


def test_a_model_without_start_id_starts_with_cls(model_folder: Path, tiny_model: Performer, tmp_path: Path) -> None:
    """Models trained on blocks start with `<eos>`; models of earlier versions have no `start_id`."""
    about = json.loads((model_folder / "config.json").read_text())
    del about["model"]["start_id"]
    (model_folder / "config.json").write_text(json.dumps(about))
    assert protlm.load(model_folder).config.start_id == 0
    tiny_model.config = dataclasses.replace(tiny_model.config, start_id=2)
    export(tiny_model, tmp_path / "blocks")
    assert not np.allclose(protlm.load(tmp_path / "blocks").embed(["MKT"]), protlm.load(model_folder).embed(["MKT"]))
