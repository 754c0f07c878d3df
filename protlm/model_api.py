"""The Python API: a trained model as a `Performer` that takes proteins and returns numpy arrays."""

import logging
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from protlm import checkpoint
from protlm.contacts import contact_map
from protlm.embedding import in_memory
from protlm.errors import UserError, no_model
from protlm.inference import fill, generate, perplexity
from protlm.inference.engine import TOKEN_BUDGET, Computer
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabets import alphabet_of
from protlm.sequence.containers import proteins_of, sequences_of
from protlm.variants import score


class ProteinModel(Performer):
    """A trained protein language model, loaded by `protlm.load`.

    All methods take proteins in the same ways, and the form of their results follows:

    | proteins | results of n proteins |
    |---|---|
    | one: a string, `Bio.Seq` or `SeqRecord` | that of the protein, without the first axis |
    | a list, tuple, generator or array of these | an array or list of n |
    | `{id: protein}` | `{id: result}` |
    | a pandas Series | a Series with the same index; for `embed`, a DataFrame |
    | a pandas DataFrame with a column "sequence" | the same; a column "id" appears in messages |

    Sequences are cleaned as those in FASTA files: lower case becomes upper case; white space, gaps (`-`, `.`) and `*`
    at the end are removed; J and other `*` become X. Anything else is a `UserError`, as are arguments that cannot be
    used.

    Proteins are computed whole, never cropped, on the device of the model, in batches of similar length. Results do not
    depend on the other proteins in a batch, apart from rounding. All methods evaluate (without dropout), also in the
    middle of training, and leave the model in the mode it was in. A `ProtlmWarning` says that a protein is longer than
    the positions that the model has learned.

    Methods that compute many proteins share two arguments:

    - token_budget: maximum number of tokens in a batch, including padding. A longer protein is computed alone.
    - precision: "float32", or "bfloat16" for matrix products in 16 bits.
    """

    def embed(
        self,
        proteins: Any,
        pool: str = "mean",
        layers: int | Sequence[int] = (-1,),
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
    ) -> Any:
        """Embeds each protein as one vector.

        Args:
            proteins: n proteins, see `ProteinModel`.
            pool: "mean" or "max" over the residues, or "bos" for the start token.
            layers: one or more; 0 is the token embedding, i the output of block i, -1 the last block after the final
                LayerNorm.
            token_budget, precision: see `ProteinModel`.

        Returns:
            (n, width) float32; with several layers (n, layers, width).

        >>> model = example()
        >>> model.embed(["MKT", "MKTAYIAK"]).shape
        (2, 16)
        >>> model.embed({"a": "MKT"})["a"].shape
        (16,)
        """
        container, layers = sequences_of(proteins, alphabet_of(self.config.alphabet)), _several(layers)
        rows = list(in_memory.embed(self, container.sequences, token_budget, layers, pool, precision))
        axes = {"layer": layers, "dimension": range(self.config.width)}
        if len(layers) == 1:
            del axes["layer"]
        shape = (len(rows), *map(len, axes.values()))
        return container.stacked(np.stack(rows) if rows else np.zeros(shape, dtype=np.float32), axes)

    def embed_residues(
        self,
        proteins: Any,
        layers: int | Sequence[int] = (-1,),
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
    ) -> Any:
        """Embeds each residue of each protein.

        Args:
            proteins: n proteins of L_i residues, see `ProteinModel`.
            layers, token_budget, precision: see `embed`.

        Returns:
            n arrays (L_i, width) float32; with several layers (layers, L_i, width).

        >>> model = example()
        >>> [rows.shape for rows in model.embed_residues(["MKT", "MKTAYIAK"])]
        [(3, 16), (8, 16)]
        """
        container = sequences_of(proteins, alphabet_of(self.config.alphabet))
        rows = in_memory.embed(self, container.sequences, token_budget, _several(layers), None, precision)
        return container.arranged(rows)

    def predict_masked(self, proteins: Any, top: int | None = None) -> Any:
        """Predicts the amino acids at each `<mask>`, most probable first. Requires a bidirectional model.

        Args:
            proteins: one or more, see `ProteinModel`, with `<mask>` in place of one or more residues of each.
            top: number of amino acids per mask, 1 to 20; by default 5. Of other alphabets, up to all letters.

        Returns:
            For each protein, a list of `Prediction`.

        >>> model = example()
        >>> (prediction,) = model.predict_masked("MK<mask>LLI", top=2)
        >>> prediction.position, len(prediction.residues), len(prediction.probabilities)
        (3, 2, 2)
        """
        return fill.predict_masked(self, proteins, top)

    def probabilities(
        self, proteins: Any, one_pass: bool = False, token_budget: int = TOKEN_BUDGET, precision: str = "float32"
    ) -> Any:
        """Probabilities of the twenty amino acids at every position. Requires a bidirectional model.

        Args:
            proteins: one or more, see `ProteinModel`, of L residues, which may contain `<mask>`.
            one_pass: predict all positions from the unmasked sequence in one forward pass, instead of masking each
                position in turn.
            token_budget, precision: see `ProteinModel`.

        Returns:
            For each protein (L, 20) float64 in the order ACDEFGHIKLMNPQRSTVWY; rows sum to 1. For sequences of
            another alphabet, (L, A) in the order of its `definite` letters, such as ACGT.

        >>> model = example()
        >>> model.probabilities("MKTAYIAK").shape
        (8, 20)
        """
        return fill.probabilities(self, proteins, one_pass, token_budget, precision)

    def score(
        self,
        sequence: Any,
        variants: Iterable[str] | None = None,
        method: str | None = None,
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
        invalid: str = "error",
    ) -> np.ndarray:
        """Scores variants zero-shot: log p(variant) - log p(wild type), in nats, by one of several methods.

        Args:
            sequence: the wild type, L residues; one protein, see `ProteinModel`. It must not contain gaps, since
                variants count its residues.
            variants: n variants such as "A42G" or "A42G:L50P", positions from 1, in a list, tuple, generator, array or
                Series; None for all single substitutions.
            method: "masked-marginals" (default), "wt-marginals" or "pseudo-log-likelihood"; for a causal model
                "likelihood". Formulas are in `protlm.variants.score`.
            token_budget, precision: see `ProteinModel`.
            invalid: "error" refuses variants that cannot be scored, such as "A42*"; "nan" scores them, and None and
                NaN among the variants, as NaN, with a warning.

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
        return score.score(self, sequence, variants, method, token_budget, precision, invalid=invalid)

    def contacts(
        self,
        proteins: Any,
        method: str = "auto",
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
    ) -> Any:
        """Scores each pair of residues by how likely they touch. Requires a bidirectional model.

        Args:
            proteins: n proteins, see `ProteinModel`.
            method: "head", the contact head of an imported ESM-2; "jacobian", the categorical Jacobian, of any model;
                or "auto", the first that the model has. See `protlm.contacts`.
            token_budget, precision: see `ProteinModel`.

        Returns:
            For each protein (L, L) float32, symmetric: probabilities of "head"; other scores only rank pairs.

        >>> model = example()
        >>> model.contacts("MKTAYIAK").shape
        (8, 8)
        """
        container, chosen = proteins_of(proteins), contact_map.chosen_method(method, self, homologs=False)
        computer = Computer(self, token_budget, precision)
        return container.arranged(contact_map.contact_map(s, chosen, computer).scores for s in container.sequences)

    def pseudo_perplexity(
        self,
        proteins: Any,
        one_pass: bool = False,
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
    ) -> Any:
        """Pseudo-perplexity of each protein; for a causal model, its perplexity.

        Args:
            proteins: n proteins, see `ProteinModel`.
            one_pass: estimate from one forward pass per protein, instead of one per residue.
            token_budget, precision: see `ProteinModel`.

        Returns:
            (n,) float64.

        >>> model = example()
        >>> model.pseudo_perplexity(["MKT", "MKTAYIAK"]).shape
        (2,)
        """
        return perplexity.pseudo_perplexity(self, proteins, not one_pass, token_budget, precision)

    def generate(
        self,
        n: int = 1,
        prefix: Any = "",
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_length: int = 1_000,
        seed: int = 0,
    ) -> list[str]:
        """Samples new proteins, residue by residue. Requires a causal model.

        Args:
            n: number of proteins.
            prefix: amino acids with which each protein starts; one protein, see `ProteinModel`, or "".
            temperature: divides the logits; 0 always takes the most probable residue.
            top_p: nucleus sampling: draw from the most probable residues with at least this total probability.
            max_length: maximum length in residues, including the prefix; longer proteins are cut.
            seed: of the random numbers.

        >>> model = example(causal=True)
        >>> all(protein.startswith("MKT") for protein in model.generate(2, prefix="MKT", max_length=10))
        True
        """
        return [one.sequence for one in generate.generate(self, n, prefix, temperature, top_p, max_length, seed)]

    def use_backend(self, name: str) -> None:
        """Chooses what computes attention from random features: "auto", "cpu", "eager", "triton" or "flex".

        Raises:
            UserError: for an unknown name, and if the backend cannot compute this model on the device that it is on;
                the backend stays what it was.
        """
        before = [(attention, attention.backend) for attention in self._attention("backend")]
        try:
            super().use_backend(name)
            if name != "auto":
                _ = self.backend_in_use
        except ValueError as error:
            for attention, backend in before:
                attention.backend = backend
            raise UserError(str(error), "attention_backend") from error


def load(
    path: str | Path,
    device: str = "cpu",
    attention: str | None = None,
    num_features: int | None = None,
    attention_backend: str = "auto",
    packed_batches: bool | None = None,
    any_alphabet: bool = False,
) -> ProteinModel:
    """Loads a trained model, in evaluation mode.

    Args:
        path: a model folder, written by `protlm export` or `protlm import`, or a training checkpoint (.ckpt).
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the accelerator of this machine, if any.
        attention, num_features: switch to another kind of attention with the same weights, see `checkpoint.switch`.
        attention_backend: what computes attention from random features; see `Performer.use_backend`. On a GPU, the
            logger "protlm" says at level INFO what is used; see also `backend_in_use`.
        packed_batches: compute batches without padding; by default on a GPU, where attention takes such batches.
        any_alphabet: accept a model of DNA, RNA, bytes or another alphabet, for everything but `score` and `contacts`,
            which are for proteins. Its sequences are strings or bytes (text is encoded in UTF-8), in the same ways.

    Raises:
        UserError: for a path that is not a model or is damaged, an unknown attention, or an unavailable device or
            backend.
    """
    if path is None or path == "":
        raise no_model("path, of a model folder or a training checkpoint (.ckpt)")
    if not isinstance(path, str | Path):
        raise UserError(f"expected the path of a model, got {type(path).__name__}")
    model = placed(
        checkpoint.load(path, attention, num_features, any_alphabet), device, attention_backend, packed_batches
    )
    if _on_gpu(model) and (used := model.backend_in_use):
        logging.getLogger("protlm").info("attention: %s", used)
    return model


def _on_gpu(model: Performer) -> bool:
    return model.embedding.weight.is_cuda


def placed(model: Performer, device: str, attention_backend: str, packed_batches: bool | None) -> ProteinModel:
    """A model as `ProteinModel`, moved to a device; arguments as in `load`."""
    model.__class__ = ProteinModel  # the same weights, more methods
    assert isinstance(model, ProteinModel)
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = accelerator.type if accelerator else "cpu"
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: not available ({str(error).splitlines()[0]})", "device") from error
    model.use_backend(attention_backend)
    model.packed_batches = packed_batches
    return model


def example(causal: bool = False) -> ProteinModel:
    """A tiny model with random weights for examples: one layer of width 16."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ProteinModel(PerformerConfig(33, 1, 1, 2, 16, 16, causal=causal, positions="rotary", dropout=0.0)).eval()


def _several(layers: int | Sequence[int]) -> tuple[int, ...]:
    """Layers as a tuple; a single number is accepted."""
    each = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, str | bytes) else [layers]
    if not all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in each):
        raise UserError(f"layers {layers!r}: expected integers such as (0, -1)")
    return tuple(map(int, each))
