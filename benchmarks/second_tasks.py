"""Tasks beside masked residues, tried for a model that is worth a default: GO terms, clusters, a larger model.

They are LightningModules for `python -m protlm.train`, in place of `LanguageModelTask`:

    task._target_=benchmarks.second_tasks.WithTerms +task.proteins=SWISSPROT.fasta.zst +task.without=DATA/localization
    task._target_=benchmarks.second_tasks.WithPairs data.token_budget=2048
    task._target_=benchmarks.second_tasks.WithTeacher +task.teacher=MODEL

The model they train is an ordinary one: commands read its checkpoints like any other's, and leave the rest.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gates import go_terms
from protlm.batching.batches import Batch, ProteinBatches
from protlm.checkpoint import load
from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.sequence.fasta import FastaFile
from protlm.training.task import LanguageModelTask


class SecondTask(LanguageModelTask):
    """Another loss beside that of masked residues; subclasses define `second`."""

    def __init__(self, model: Performer, *arguments: Any, **options: Any) -> None:  # type: ignore[override]
        inherited: Any = super().__init__  # whose signature `wraps` hides from type checkers
        inherited(model, *arguments, **options)

    def pooled(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        """(B, D): the mean of `hidden` (B, L, D) over residues, as in embeddings of proteins."""
        alphabet = self._data().alphabet
        residues = (inputs != alphabet.pad) & (inputs != alphabet.cls) & (inputs != alphabet.eos)
        share = residues / residues.sum(1, keepdim=True).clamp(min=1)
        return (share[:, None] @ hidden.float())[:, 0]

    def setup(self, stage: str) -> None:
        """Refuses packed batches, whose rows are not proteins."""
        super().setup(stage)
        if self._data().packed:
            raise UserError("data.packed=true: the second tasks of benchmarks take padded batches; set it to false")

    def loss_of(self, batch: Batch) -> Tensor:
        hidden = self.model.hidden(batch.inputs, batch.key_mask, batch.segments)
        logits = self.model.logits(hidden)
        loss = self.model.loss(logits, batch.targets)
        second = self.second(batch, hidden, logits)
        self.log("train/second", second, batch_size=len(batch.inputs))
        return loss + second

    def second(self, batch: Batch, hidden: Tensor, logits: Tensor) -> Tensor:
        """The other loss, from representations (B, L, D) and logits (B, L, V)."""
        raise NotImplementedError


class WithTerms(SecondTask):
    """Gene Ontology terms from the mean of the last layer, as ProteinBERT learns them (Brandes et al. 2022).

    Args:
        model, arguments, options: those of `LanguageModelTask`.
        proteins: FASTA file of the corpus, with GO terms in its headers.
        without: folder of FASTA files; clusters with a protein of theirs, by identifier or the same sequence, have no
            terms in training.
        least: proteins that a term needs.
        weight: of the cross-entropy, summed over the terms.
    """

    def __init__(
        self,
        model: Performer,
        *arguments: Any,
        proteins: str,
        without: str,
        least: int = 100,
        weight: float = 1 / 30,
        **options: Any,
    ) -> None:
        tested = [record for path in sorted(Path(without).glob("*.fasta")) for record in FastaFile(path)]
        sequences = {record.sequence for record in tested}
        self._left_out, found = {record.id for record in tested}, {}
        for record in FastaFile(proteins):
            found[record.id] = go_terms(record.description)
            if record.sequence in sequences:
                self._left_out.add(record.id)
        counts = Counter(term for terms in found.values() for term in terms)
        number = {term: i for i, term in enumerate(sorted(term for term in counts if counts[term] >= least))}
        if not number:
            raise UserError(f"{proteins}: no GO term, such as M=0003824, in the headers of {least} proteins")
        self._named = {name: [number[term] for term in terms if term in number] for name, terms in found.items()}
        self._weight = weight
        head = nn.Linear(model.config.width, len(number))
        nn.init.normal_(head.weight, std=0.02)
        nn.init.constant_(head.bias, -5.0)  # most proteins have few of the terms
        self._heads = [head]  # before `super`, which makes the optimizer, no module can be an attribute
        super().__init__(model, *arguments, **options)
        self.terms = head

    @property
    def trained(self) -> nn.Module:
        return nn.ModuleDict({"blocks": self.model.blocks, "model": self.model, "terms": self._heads[0]})

    def setup(self, stage: str) -> None:
        """Finds the terms of each protein of the corpus."""
        super().setup(stage)
        corpus = single(self._data().corpora.corpora)
        ids, clusters = corpus.ids(), corpus.clusters
        assert clusters is not None
        hidden = {int(clusters[i]) for i, name in enumerate(ids) if name in self._left_out}
        known = ((i, name) for i, name in enumerate(ids) if int(clusters[i]) not in hidden)
        self._of_protein = {i: terms for i, name in known if (terms := self._named.get(name))}

    def second(self, batch: Batch, hidden: Tensor, logits: Tensor) -> Tensor:
        assert batch.key is not None
        rows = [(row, self._of_protein[i]) for row, i in enumerate(batch.key[:, 1].tolist()) if i in self._of_protein]
        if not rows:
            return hidden.new_zeros(())
        wanted = hidden.new_zeros(len(rows), self.terms.out_features, dtype=torch.float32)
        for row, (_, terms) in enumerate(rows):
            wanted[row, terms] = 1.0
        scores = self.terms(self.pooled(hidden, batch.inputs)[[row for row, _ in rows]])
        return self._weight * F.binary_cross_entropy_with_logits(scores.float(), wanted, reduction="sum") / len(rows)


class WithPairs(SecondTask):
    """Another member of the cluster has the nearest mean of the last layer (InfoNCE, van den Oord et al. 2018).

    A cluster of one protein gives another crop of it, with other residues masked. Residues of both are predicted, so
    that a batch has twice the tokens of `data.token_budget`. Proteins of earlier batches are compared, too, since
    those of a batch are few.

    Args:
        model, arguments, options: those of `LanguageModelTask`.
        weight: of the loss.
        temperature: by which cosine similarities are divided.
        earlier: number of proteins of earlier batches.
    """

    def __init__(
        self,
        model: Performer,
        *arguments: Any,
        weight: float = 0.1,
        temperature: float = 0.1,
        earlier: int = 512,
        **options: Any,
    ) -> None:
        super().__init__(model, *arguments, **options)
        self._weight, self._temperature, self._earlier = weight, temperature, earlier
        self.register_buffer("_before", torch.zeros(0, model.config.width), persistent=False)

    def setup(self, stage: str) -> None:
        """Finds the training proteins of each cluster."""
        super().setup(stage)
        data = self._data()
        corpus = single(data.corpora.corpora)
        self._members, self._bounds = corpus.members("train"), corpus.groups("train")
        self._place = np.zeros(len(corpus), dtype=np.int64)
        self._place[self._members] = np.arange(len(self._members))
        self._partners = ProteinBatches(
            corpus, "train", data.objective, data.max_length, data.token_budget, data.seed + 1
        )

    def second(self, batch: Batch, hidden: Tensor, logits: Tensor) -> Tensor:
        assert batch.key is not None
        passes, proteins = batch.key.T
        group = np.searchsorted(self._bounds, self._place[proteins], side="right") - 1
        first, end = self._bounds[group], self._bounds[group + 1]
        chance = np.random.default_rng((self._data().seed, 17, self.global_step))
        other = self._partners[np.stack((passes, self._members[first + chance.integers(end - first)]), axis=1)]
        inputs, targets, key_mask = (x.to(hidden.device) for x in (other.inputs, other.targets, other.key_mask))
        theirs = self.model.hidden(inputs, key_mask)
        masked = self.model.loss(self.model.logits(theirs), targets)
        a, b = (F.normalize(self.pooled(x, y), dim=-1) for x, y in ((hidden, batch.inputs), (theirs, inputs)))
        near = contrast(a, b, self._before, self._temperature) + contrast(b, a, self._before, self._temperature)
        self._before = torch.cat((b.detach(), self._before))[: self._earlier]
        return masked + self._weight * near


def contrast(a: Tensor, b: Tensor, others: Tensor, temperature: float) -> Tensor:
    """InfoNCE: row i of `a` (n, D) has to be nearer to row i of `b` (n, D) than to its other rows and `others` (m, D).

    All rows have length 1.
    """
    similar = a @ torch.cat((b, others)).T / temperature
    return F.cross_entropy(similar, torch.arange(len(a), device=a.device))


class WithTeacher(SecondTask):
    """The probabilities of a larger model at masked residues (distillation, Hinton et al. 2015).

    Args:
        model, arguments, options: those of `LanguageModelTask`.
        teacher: its path.
        weight: of the divergence from the teacher's probabilities.
    """

    def __init__(self, model: Performer, *arguments: Any, teacher: str, weight: float = 1.0, **options: Any) -> None:
        super().__init__(model, *arguments, **options)
        self._weight = weight
        self._teacher = [load(teacher)]  # in a list, so that it is no part of the checkpoint

    def second(self, batch: Batch, hidden: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            taught = self._teacher[0].to(hidden.device)(batch.inputs, batch.key_mask)
        wanted = batch.targets >= 0
        ours, theirs = (x[wanted].float().log_softmax(-1) for x in (logits, taught))
        return self._weight * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def single(corpora: list[Corpus]) -> Corpus:
    """The only corpus of a data module.

    Raises:
        UserError: if it has several.
    """
    if len(corpora) != 1:
        raise UserError("data.corpus: expected a single corpus for this task")
    return corpora[0]
