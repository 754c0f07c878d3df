"""A trained model as notebooks and programs use it: letters in, numpy arrays out."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from protlm import bundled, checkpoint
from protlm.embedding import in_memory
from protlm.errors import UserError
from protlm.inference import fill, generate, perplexity
from protlm.inference.engine import TOKEN_BUDGET
from protlm.inference.fill import Prediction
from protlm.performer import Performer, PerformerConfig
from protlm.variants import score


class ProteinModel(Performer):
    """A `Performer` that reads and writes amino acids in one-letter code; made by `protlm.load`.

    Small letters count as capital ones, J as X. Proteins are computed whole, in batches of similar length, where the
    parameters are; results do not depend on what else is in a batch, but for rounding. Each method raises a
    `UserError` that says what is wrong with what it was given.

    Two arguments are those of all methods that compute many proteins:

    token_budget: most tokens computed at once, padding included; a longer protein is computed alone.
    precision: "float32" is that of the weights, "bfloat16" multiplies in 16 bits.
    """

    def embed(
        self,
        sequences: Sequence[str],
        pool: str = "mean",
        layers: Sequence[int] = (-1,),
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
    ) -> np.ndarray:
        """Embeddings of proteins, (n, width) float32; with several layers (n, layers, width).

        Args:
            sequences: n proteins.
            pool: "mean" or "max" over the residues, or "bos", the token before the first.
            layers: 0 is the embedding of the tokens, i the output of block i, -1 the last one behind its norm.
            token_budget, precision: see `ProteinModel`.

        >>> model = example()
        >>> model.embed(["MKT", "MKTAYIAK"]).shape
        (2, 16)
        """
        _check_list(sequences)
        rows = in_memory.embed(self, sequences, token_budget, layers, pool, precision)
        shape = (len(sequences), *((len(layers),) if len(layers) > 1 else ()), self.config.width)
        return np.stack(list(rows)) if len(sequences) else np.zeros(shape, dtype=np.float32)

    def embed_residues(
        self,
        sequences: Sequence[str],
        layers: Sequence[int] = (-1,),
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
    ) -> list[np.ndarray]:
        """Embeddings of each residue, a list of (L, width) float32; with several layers (layers, L, width).

        Arguments as in `embed`.

        >>> model = example()
        >>> [rows.shape for rows in model.embed_residues(["MKT", "MKTAYIAK"])]
        [(3, 16), (8, 16)]
        """
        _check_list(sequences)
        return list(in_memory.embed(self, sequences, token_budget, layers, None, precision))

    def predict_masked(self, sequence: str, top: int = 5) -> list[Prediction]:
        """The likeliest amino acids at each `<mask>`.

        Args:
            sequence: a protein with `<mask>` in place of one or more residues.
            top: how many for each mask, 1 to 20.

        >>> model = example()
        >>> (prediction,) = model.predict_masked("MK<mask>LLI", top=2)
        >>> prediction.position, len(prediction.residues), len(prediction.probabilities)
        (3, 2, 2)
        """
        return fill.fill(self, sequence, top)

    def probabilities(
        self, sequence: str, one_pass: bool = False, token_budget: int = TOKEN_BUDGET, precision: str = "float32"
    ) -> np.ndarray:
        """Probabilities (L, 20) of the amino acids at each position, in the order ACDEFGHIKLMNPQRSTVWY.

        Args:
            sequence: a protein, also with `<mask>`.
            one_pass: predict all positions at once from the sequence as it is; otherwise each with itself masked.
            token_budget, precision: see `ProteinModel`.

        >>> model = example()
        >>> model.probabilities("MKTAYIAK").shape
        (8, 20)
        """
        return fill.probabilities(self, sequence, one_pass, token_budget, precision)

    def score(
        self,
        sequence: str,
        variants: Sequence[str] | None = None,
        method: str | None = None,
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
    ) -> np.ndarray:
        """How much likelier each variant is than the wild type, in nats: (n,) float64, or (L, 20) of all single ones.

        Args:
            sequence: the wild type.
            variants: such as "A42G" or "A42G:L50P", positions 1-based; None for all single substitutions, with 0 for
                the wild type.
            method: "masked-marginals", "wt-marginals" or "pseudo-log-likelihood"; for a unidirectional model
                "likelihood". None for the first, or the only one.
            token_budget, precision: see `ProteinModel`.

        >>> model = example()
        >>> model.score("MKTAYIAK", ["K2R", "T3A:A4G"]).shape
        (2,)
        >>> model.score("MKTAYIAK").shape
        (8, 20)
        """
        if variants is None:
            return score.score_matrix(self, sequence, method, token_budget, precision)
        _check_list(variants)
        return score.score(self, sequence, variants, method, token_budget, precision)

    def pseudo_perplexity(
        self,
        sequences: Sequence[str],
        one_pass: bool = False,
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
    ) -> np.ndarray:
        """Pseudo-perplexity (n,) float64 of proteins; of a unidirectional model the perplexity.

        Args:
            sequences: n proteins.
            one_pass: estimate it from a single pass for each protein instead of one for each residue.
            token_budget, precision: see `ProteinModel`.

        >>> model = example()
        >>> model.pseudo_perplexity(["MKT", "MKTAYIAK"]).shape
        (2,)
        """
        _check_list(sequences)
        return perplexity.pseudo_perplexity(self, sequences, not one_pass, token_budget, precision)

    def generate(
        self,
        n: int = 1,
        prefix: str = "",
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_length: int = 1_000,
        seed: int = 0,
    ) -> list[str]:
        """New proteins of a unidirectional model.

        Args:
            n: how many.
            prefix: residues that each of them begins with.
            temperature: logits are divided by it; 0 takes the likeliest residue always.
            top_p: draw from the likeliest residues only that together have at least this probability.
            max_length: where to end a protein that does not end by itself, in residues.
            seed: the same seed gives the same proteins.

        >>> model = example(causal=True)
        >>> all(protein.startswith("MKT") for protein in model.generate(2, prefix="MKT", max_length=10))
        True
        """
        return [one.sequence for one in generate.generate(self, n, prefix, temperature, top_p, max_length, seed)]


def load(
    path: str | Path | None = None, device: str = "cpu", attention: str | None = None, num_features: int | None = None
) -> ProteinModel:
    """The model of a model folder or a training checkpoint, in evaluation mode.

    Args:
        path: a folder written by `protlm export` or `protlm import-esm`, or a .ckpt file written by training. None is
            the model in the box, see `protlm.bundled`; a line on standard error says so.
        device: "cpu", "cuda", "cuda:1", "mps"; "auto" takes the accelerator of this machine, if there is one.
        attention, num_features: use another kind of attention with the same weights; see `protlm.checkpoint.switch`.

    Raises:
        UserError: for what is no model or damaged, for an unknown attention, for a device that cannot be used here, and
            as `protlm.bundled.path`.
    """
    folder = bundled.path() if path is None else path
    model: Performer = checkpoint.load(folder, attention, num_features)
    if path is None:
        parameters = sum(weight.numel() for weight in model.parameters())
        print(bundled.notice(Path(folder), parameters), file=sys.stderr, flush=True)
    model.__class__ = ProteinModel  # the same weights, more methods
    assert isinstance(model, ProteinModel)
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = accelerator.type if accelerator else "cpu"
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: cannot be used here ({str(error).splitlines()[0]})") from error


def example(causal: bool = False) -> ProteinModel:
    """A tiny model with random weights, to try things out: one layer, width 16."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ProteinModel(PerformerConfig(33, 1, 1, 2, 16, 16, causal=causal, positions="rotary", dropout=0.0)).eval()


def _check_list(sequences: Sequence[str]) -> None:
    if isinstance(sequences, str):
        raise UserError("expected a list of texts, got a single one; put it in brackets: [...]")
