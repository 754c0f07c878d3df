"""Accuracy and perplexity of a model on a corpus, split by split."""

from collections.abc import Callable

import torch

from protlm.metrics import ResidueMetrics
from protlm.performer import Performer
from protlm.sequence.batching import ProteinBatches, Question
from protlm.sequence.corpus import Corpus
from protlm.sequence.masking import Masking
from protlm.sequence.splits import SPLITS


def evaluate(
    model: Performer,
    corpus: Corpus,
    max_length: int | None = None,
    token_budget: int = 16_384,
    share: float = 0.15,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Split -> accuracy and perplexity, and those of the unigram baseline over the same residues.

    A bidirectional model restores residues of which all that were selected are masked; a unidirectional one says the
    next residue.

    Args:
        model: in evaluation mode.
        corpus: its training split is the source of the unigram baseline.
        max_length: longer proteins are cropped at random; by default the model's positions.
        token_budget: most tokens computed at once.
        share: share of the residues that is masked.
        seed: of crops and masks: the same seed asks the same questions.
        progress: called with the batches done and all.
    """
    max_length = max_length or model.config.max_length
    question = Question(model.config.causal, Masking(share)).for_evaluation()
    work = []
    for split in SPLITS:
        batches = ProteinBatches(corpus, split, question, max_length, max(max_length, token_budget), seed)
        work.extend((split, batches, key) for key in batches.plan(0))
    device = next(model.parameters()).device
    metrics: dict[str, ResidueMetrics] = {}
    for done, (split, batches, key) in enumerate(work, start=1):
        inputs, targets, scored, key_mask = (tensor.to(device) for tensor in batches[key][:4])
        with torch.inference_mode():
            logits = model(inputs, key_mask)
        metrics.setdefault(split, ResidueMetrics().to(device)).update(logits, targets, scored)
        if progress:
            progress(done, len(work))
    return {split: metric.beside(corpus.unigram()) for split, metric in metrics.items()}
