"""The Python API: a trained model as a `Performer` that takes sequences and returns numpy arrays."""

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
    """A trained protein language model, loaded by `protlm.load`.

    Sequences are strings of amino acids in one-letter code; lower case is accepted, and J is read as X. Proteins are
    computed whole, never cropped, on the device of the model, in batches of similar length. Results do not depend on
    the other proteins in a batch, apart from rounding. All methods raise a `UserError` for arguments that cannot be
    used.

    Methods that compute many proteins share two arguments:

    - token_budget: maximum number of tokens in a batch, including padding. A longer protein is computed alone.
    - precision: "float32", or "bfloat16" for matrix products in 16 bits.
    """

    def embed(
        self,
        sequences: Sequence[str],
        pool: str = "mean",
        layers: Sequence[int] = (-1,),
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
    ) -> np.ndarray:
        """Embeds each protein as one vector.

        Args:
            sequences: n proteins.
            pool: "mean" or "max" over the residues, or "bos" for the start token.
            layers: 0 is the token embedding, i the output of block i, -1 the last block after the final LayerNorm.
            token_budget, precision: see `ProteinModel`.

        Returns:
            (n, width) float32; with several layers (n, layers, width).

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
        """Embeds each residue of each protein.

        Args:
            sequences: n proteins of L_i residues.
            layers, token_budget, precision: see `embed`.

        Returns:
            n arrays (L_i, width) float32; with several layers (layers, L_i, width).

        >>> model = example()
        >>> [rows.shape for rows in model.embed_residues(["MKT", "MKTAYIAK"])]
        [(3, 16), (8, 16)]
        """
        _check_list(sequences)
        return list(in_memory.embed(self, sequences, token_budget, layers, None, precision))

    def predict_masked(self, sequence: str, top: int = 5) -> list[Prediction]:
        """Predicts the amino acids at each `<mask>`, most probable first. Requires a bidirectional model.

        Args:
            sequence: a protein with `<mask>` in place of one or more residues.
            top: number of amino acids per mask, 1 to 20.

        >>> model = example()
        >>> (prediction,) = model.predict_masked("MK<mask>LLI", top=2)
        >>> prediction.position, len(prediction.residues), len(prediction.probabilities)
        (3, 2, 2)
        """
        return fill.predict_masked(self, sequence, top)

    def probabilities(
        self, sequence: str, one_pass: bool = False, token_budget: int = TOKEN_BUDGET, precision: str = "float32"
    ) -> np.ndarray:
        """Probabilities of the twenty amino acids at every position. Requires a bidirectional model.

        Args:
            sequence: a protein of L residues, which may contain `<mask>`.
            one_pass: predict all positions from the unmasked sequence in one forward pass, instead of masking each
                position in turn.
            token_budget, precision: see `ProteinModel`.

        Returns:
            (L, 20) float64 in the order ACDEFGHIKLMNPQRSTVWY; rows sum to 1.

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
        """Scores variants zero-shot: log p(variant) - log p(wild type), in nats, by one of several methods.

        Args:
            sequence: the wild type, L residues.
            variants: n variants such as "A42G" or "A42G:L50P", positions from 1; None for all single substitutions.
            method: "masked-marginals" (default), "wt-marginals" or "pseudo-log-likelihood"; for a causal model
                "likelihood". Formulas are in `protlm.variants.score`.
            token_budget, precision: see `ProteinModel`.

        Returns:
            (n,) float64; for all single substitutions (L, 20) in the order ACDEFGHIKLMNPQRSTVWY, 0 at the wild type.

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
        """Pseudo-perplexity of each protein; for a causal model, its perplexity.

        Args:
            sequences: n proteins.
            one_pass: estimate from one forward pass per protein, instead of one per residue.
            token_budget, precision: see `ProteinModel`.

        Returns:
            (n,) float64.

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
        """Samples new proteins, residue by residue. Requires a causal model.

        Args:
            n: number of proteins.
            prefix: amino acids with which each protein starts.
            temperature: divides the logits; 0 always takes the most probable residue.
            top_p: nucleus sampling: draw from the most probable residues with at least this total probability.
            max_length: maximum length in residues, including the prefix; longer proteins are cut.
            seed: of the random numbers.

        >>> model = example(causal=True)
        >>> all(protein.startswith("MKT") for protein in model.generate(2, prefix="MKT", max_length=10))
        True
        """
        return [one.sequence for one in generate.generate(self, n, prefix, temperature, top_p, max_length, seed)]


def load(
    path: str | Path | None = None, device: str = "cpu", attention: str | None = None, num_features: int | None = None
) -> ProteinModel:
    """Loads a trained model, in evaluation mode.

    Args:
        path: a model folder, written by `protlm export` or `protlm import-esm`, or a training checkpoint (.ckpt). None
            is the bundled model (`protlm.bundled`), which a line on standard error names.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the accelerator of this machine, if any.
        attention, num_features: switch to another kind of attention with the same weights, see `checkpoint.switch`.

    Raises:
        UserError: for a path that is not a model or is damaged, an unknown attention, or an unavailable device.
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
        raise UserError(f"device {device}: not available ({str(error).splitlines()[0]})", "device") from error


def example(causal: bool = False) -> ProteinModel:
    """A tiny model with random weights for examples: one layer of width 16."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ProteinModel(PerformerConfig(33, 1, 1, 2, 16, 16, causal=causal, positions="rotary", dropout=0.0)).eval()


def _check_list(sequences: Sequence[str]) -> None:
    if isinstance(sequences, str):
        raise UserError("expected a list of strings, got a single string; put it in brackets: [...]")
