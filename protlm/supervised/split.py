"""Labelled proteins split into parts for training, validation and the test, by a column, at random or by homology.

Legend: n proteins.
"""

from dataclasses import dataclass, replace

import numpy as np

from protlm.errors import UserError, counted
from protlm.progress import Progress
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.kinship import Kinship, are_variants
from protlm.supervised.labels import LabelledSet
from protlm.supervised.linear_fit import thinned
from protlm.supervised.partition import (
    Partition,
    Round,
    by_column,
    by_groups,
    equal_sequences,
    read_clusters,
)
from protlm.supervised.probe import check_learnable
from protlm.supervised.validation import drawn

_ROWS = 100_000  # residues for training, at most: whole proteins


@dataclass(frozen=True)
class Split:
    """Labelled proteins and their parts.

    Attributes:
        labelled: perhaps fewer than given.
        partition: of the proteins.
        kinship: None if it was not measured.
    """

    labelled: LabelledSet
    partition: Partition
    kinship: Kinship | None

    def single(self, options: FitOptions, progress: Progress) -> "Split":
        """One round with a validation part, for methods that take long and stop early.

        Without a test part in the labels, the first fold is the test. Without a validation part, a tenth of the
        training proteins is for validation; see `validation.drawn`. The model to keep is the one that is tested.
        """
        part, described = self.partition.rounds[0], self.partition.described
        if len(self.partition.rounds) > 1:
            described = f"one of {len(self.partition.rounds)} folds of {described}"
        if not part.valid.any():
            valid, how = drawn(self.labelled.sequences, self.partition, self.kinship, options, progress)
            part = Round(part.train & ~valid, valid, part.test)
            described += f"; {how}"
        final = Round(part.train, part.valid, np.zeros_like(part.test))
        return replace(self, partition=Partition([part], final, self.partition.groups, described))


def split_of(labelled: LabelledSet, options: FitOptions, progress: Progress, single: bool = False) -> Split:
    """Splits labelled proteins as `options` say.

    Args:
        single: one round with a validation part; see `Split.single`.

    Raises:
        UserError: for labels from which nothing can be learned, or without a test.
    """
    labelled = _thinned(labelled, options.seed)
    partition, kinship = _partition(labelled, options, progress)
    split = Split(labelled, partition, kinship)
    if single:
        split = split.single(options, progress)
        partition = split.partition
    if not partition.rounds[0].test.any():
        raise UserError(f"{labelled.source}: no test proteins")
    for target in labelled.targets:
        check_learnable(target.take(target.of(partition.final.train)), labelled.source)
        for part in partition.rounds:
            if target.of(part.test).any():
                check_learnable(target.take(target.of(part.train)), labelled.source)
        if not any(target.of(part.test).any() for part in partition.rounds):
            raise UserError(f"{labelled.source}: no test protein has a label of {target.name!r}")
    return split


def _partition(labelled: LabelledSet, options: FitOptions, progress: Progress) -> tuple[Partition, Kinship | None]:
    """The rounds, and the relations between proteins where they are measured."""
    method, parts, sequences = options.split_by, labelled.parts, labelled.sequences
    variants, equal = are_variants(sequences), equal_sequences(sequences)
    if method == "auto":
        method = "homology" if options.clusters or parts is None else "column"
        if method == "homology" and variants and not options.clusters:
            method = "random"
    if method == "column":
        if parts is None:
            raise UserError(f"{labelled.source}: no split; expected a column split with train and test", "split")
        tested = parts == "test"
        kinship = None
        if options.relatives and tested.any() and not tested.all():
            kinship = Kinship.measured(sequences, tested, options.threads, progress)
        elif options.relatives and not tested.any():
            kinship = Kinship.measured(sequences, None, options.threads, progress)
        return by_column(parts, equal, options.folds, options.seed), kinship
    if method == "homology" and variants and not options.clusters:
        raise UserError(f"{labelled.source}: variants of one protein are all homologs; split by random", "split_by")
    measure = options.relatives or (method == "homology" and not options.clusters)
    kinship = Kinship.measured(sequences, None, options.threads, progress) if measure else None
    what = f"{options.folds}-fold cross-validation"
    if method == "random":
        return by_groups(equal, options.folds, options.seed, f"{what}, random"), kinship
    if options.clusters:
        groups = read_clusters(options.clusters, labelled.ids)
        return by_groups(groups, options.folds, options.seed, f"{what} over clusters of {options.clusters}"), kinship
    from protlm.homology.relatives import clusters_of

    assert kinship is not None
    assert kinship.relatives is not None
    groups = clusters_of(kinship.relatives, len(sequences), options.identity)
    largest = int(np.bincount(groups).max())
    clusters = f"{counted(int(groups.max()) + 1, 'cluster')} of relatives at {options.identity:.0%} identity"
    what = f"{what} over {clusters} (phmmer; the largest has {counted(largest, 'protein')})"
    return by_groups(groups, options.folds, options.seed, what), kinship


def _thinned(labelled: LabelledSet, seed: int) -> LabelledSet:
    """Fewer proteins of each part, if there are more residues than a probe needs."""
    if not all(target.per_residue for target in labelled.targets):
        return labelled
    owner = np.concatenate([target.owner for target in labelled.targets])
    parts = np.full(len(labelled.ids), "train") if labelled.parts is None else labelled.parts
    keep = np.ones(len(labelled.ids), dtype=bool)
    for part, most in (("train", _ROWS), ("valid", _ROWS // 4), ("test", 2 * _ROWS)):
        own = np.sort(owner[parts[owner] == part])
        if len(own) > most:
            keep[parts == part] = False
            keep[own[thinned(own, most, seed)]] = True
    if keep.all():
        return labelled
    numbers = np.cumsum(keep) - 1
    targets = [target.take(keep[target.owner]) for target in labelled.targets]
    targets = [replace(target, owner=numbers[target.owner]) for target in targets]
    chosen = np.flatnonzero(keep)
    left = f"{labelled.source}: {len(keep) - len(chosen):,} of {counted(len(keep), 'protein')} left out at random"
    return replace(
        labelled,
        ids=[labelled.ids[number] for number in chosen],
        sequences=[labelled.sequences[number] for number in chosen],
        targets=targets,
        parts=None if labelled.parts is None else labelled.parts[keep],
        notes=[*labelled.notes, f"{left}; at most {_ROWS:,} residues for training, {2 * _ROWS:,} for the test"],
    )
