"""A protein alone, in a padded batch and in a packed one has the same embeddings, scores and metrics."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SplitRule
from protlm.embedding.in_memory import embed
from protlm.errors import ProtlmWarning
from protlm.inference import packing
from protlm.inference.engine import Computer
from protlm.inference.evaluate import evaluate
from protlm.inference.fill import predict_proteins, probabilities
from protlm.inference.packing import packs
from protlm.inference.perplexity import pseudo_perplexity
from protlm.inference.token_batch import TokenBatch
from protlm.performer import FavorAttention, Performer, PerformerConfig
from protlm.sequence.alphabet import STANDARD
from protlm.sequence.alphabets import PROTEIN
from protlm.sequence.masked_records import TokenRecord
from protlm.variants.score import score

SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQ", "M", "GAVLIMCFYWHKRQNEDSTPX" * 3, "MKT", "W" * 40]
VARIANTS = ["K2R", "M1L:Y5F", "T3A", "Q22E"]
KINDS = ["relu", "softmax", "sderf", "exact", "window", "linformer", "reformer", "opt"]


def model(kind: str = "relu", causal: bool = False, **options: Any) -> Performer:
    torch.manual_seed(0)
    options = {"positions": "both", "max_length": 72, "num_features": 8, "dropout": 0.0, **options}
    return Performer(PerformerConfig(33, 1, 2, 2, 16, 16, kind, causal, **options)).eval()


def compare(network: Performer, answers: Callable[[Performer, int], Any]) -> None:
    """Asserts that a function of a model and a token budget gives the same for proteins alone, padded and packed."""
    network.packed_batches = False
    alone = [np.asarray(answer) for answer in answers(network, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProtlmWarning)  # of attention that takes the sequences apart
        for packed in (False, True):
            network.packed_batches = packed
            for answer, expected in zip(answers(network, 120), alone, strict=True):
                np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings(kind: str) -> None:
    network = model(kind)
    for pool in (None, "mean", "max", "bos"):
        compare(network, lambda m, budget, pool=pool: embed(m, SEQUENCES, budget, (0, 1, -1), pool))


@pytest.mark.parametrize("options", [{"local_heads": 1, "local_window": 8}, {"zeroed_id": 32}])
def test_embeddings_with_local_heads_and_with_rescaled_masks(options: dict[str, int]) -> None:
    compare(model(**options), lambda m, budget: embed(m, SEQUENCES, budget))


@pytest.mark.parametrize("kind", ["relu", "exact", "window"])
def test_scores_of_bidirectional_models(kind: str) -> None:
    for method in ("masked-marginals", "pseudo-log-likelihood"):
        compare(model(kind), lambda m, budget, method=method: score(m, SEQUENCES[0], VARIANTS, method, budget))
    for exact in (False, True):
        compare(model(kind), lambda m, budget, exact=exact: pseudo_perplexity(m, SEQUENCES, exact, budget))
    compare(model(kind), lambda m, budget: probabilities(m, SEQUENCES[:3], token_budget=budget))


@pytest.mark.parametrize("kind", ["relu", "softmax", "exact", "window"])
def test_scores_of_causal_models(kind: str) -> None:
    network = model(kind, causal=True)
    compare(network, lambda m, budget: pseudo_perplexity(m, SEQUENCES, token_budget=budget))
    compare(network, lambda m, budget: score(m, SEQUENCES[0], VARIANTS, token_budget=budget))


def test_predictions_at_masks() -> None:
    proteins = [
        TokenRecord(str(i), PROTEIN.encode_masked(f"{s}<mask>MKT<mask>{s}".encode()))
        for i, s in enumerate(SEQUENCES[:2])
    ]

    def answers(network: Performer, budget: int) -> list[Any]:
        found = predict_proteins(Computer(network, budget), proteins, 20)
        return [prediction.probabilities for _, predictions in found for prediction in predictions]

    compare(model(), answers)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["relu", "exact"])
def test_evaluation(kind: str, causal: bool, write_fasta: Callable[..., Path], tmp_path: Path) -> None:
    chance = random.Random(0)
    fasta = write_fasta((f"p{i}", "".join(chance.choices(STANDARD, k=5 + 3 * i))) for i in range(20))
    prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0.2, 0.4))

    def answers(network: Performer, budget: int) -> list[float]:
        (found,) = evaluate(network, Corpus(tmp_path / "c.h5"), ["test"], token_budget=budget).values()
        parts = [*found.by_length, *found.by_residue.values()]
        return [*found.values(), *(part["perplexity"] for part in parts), *(part["asked"] for part in parts)]

    compare(model(kind, causal), answers)


def test_a_packed_batch_has_no_padding_and_fills_the_budget() -> None:
    network, seen = model("opt", max_length=400), []
    network.packed_batches = True
    rows = [np.full(length, 5, dtype=np.uint8) for length in (50, 9, 99, 98, 400)]

    def read(batch: TokenBatch, chosen: np.ndarray) -> int:
        seen.append((batch.tokens.shape, chosen.tolist(), batch.segments.cu_seqlens.tolist()))
        return len(chosen)

    with pytest.warns(ProtlmWarning, match="opt attention on cpu takes the sequences apart"):
        computer = Computer(network, 200)
    assert len(list(computer(rows, read))) == 3
    assert seen == [((1, 400), [4], [0, 400]), ((1, 197), [2, 3], [0, 99, 197]), ((1, 59), [0, 1], [0, 50, 59])]


def test_the_default_on_the_cpu_is_padding_and_a_request_is_followed(recwarn: pytest.WarningsRecorder) -> None:
    assert not packs(model("window"))
    network = model("window")
    network.packed_batches = True
    assert packs(network)
    network.packed_batches = False
    assert not packs(network)
    assert not recwarn.list


def test_on_a_gpu_a_batch_is_packed_if_all_attention_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.dtype] = []

    def accepts(self: FavorAttention, q: torch.Tensor, v: torch.Tensor) -> bool:
        taken.append(q.dtype)
        return True

    monkeypatch.setattr(packing, "gains", lambda _: True)  # as on a GPU
    network = model("relu", local_heads=1)
    assert not packs(network)
    monkeypatch.setattr(FavorAttention, "accepts_packed", accepts)
    assert packs(network)
    assert packs(network, "bfloat16")
    assert taken == [torch.float32] * 2 + [torch.bfloat16] * 2
    network.packed_batches = False
    assert not packs(network)
    assert not packs(model("exact"))
