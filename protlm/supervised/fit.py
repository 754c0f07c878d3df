"""From labels to an evaluated probe: split, embed once, fit, test on held-out proteins beside baselines.

Legend: n proteins, r rows of a target.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from protlm.embedding.proteome import chosen_layers
from protlm.errors import UserError, counted
from protlm.performer import Performer
from protlm.progress import Progress
from protlm.supervised.baselines import baseline_blocks, baselines
from protlm.supervised.evaluation import Evaluation, Leakage, evaluated
from protlm.supervised.features import LAYER, blocks_of
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.kinship import Kinship, are_variants
from protlm.supervised.labels import LabelledSet
from protlm.supervised.learning_curve import learning_curve, smaller_fits
from protlm.supervised.linear_fit import thinned
from protlm.supervised.partition import (
    Partition,
    by_column,
    by_groups,
    equal_sequences,
    read_clusters,
)
from protlm.supervised.probe import Learned, candidates_of, check_learnable, learn, predicted
from protlm.supervised.target import Target

PROBE = "probe"
_ROWS = 100_000  # residues for training, at most: whole proteins
_FEW = 50


@dataclass
class Fitted:
    """The heads to keep, and how they did on held-out proteins.

    Attributes:
        learned: a head per target.
        evaluations: of the targets.
        labelled: what they were fitted to.
        partition: of the proteins.
        leakage: None if it was not measured.
        warnings: a line each.
    """

    learned: list[Learned]
    evaluations: list[Evaluation]
    labelled: LabelledSet
    partition: Partition
    leakage: Leakage | None
    warnings: list[str] = field(default_factory=list)


def fit_probe(
    labelled: LabelledSet,
    model: Performer,
    options: FitOptions | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Fitted:
    """Fits a probe per target and evaluates it on proteins that it has not seen.

    Args:
        labelled: proteins.
        model: frozen.
        options: see `FitOptions`.
        progress: returns a report of progress for a stage, "comparing" or "embedding".

    Raises:
        UserError: for labels from which nothing can be learned.
    """
    options = options or FitOptions()
    report = progress or (lambda stage: lambda done, total: None)
    labelled = _thinned(labelled, options.seed)
    partition, kinship = _partition(labelled, options, report("comparing"))
    if not partition.rounds[0].test.any():
        raise UserError(f"{labelled.source}: no test proteins")
    for target in labelled.targets:
        check_learnable(target.take(target.of(partition.final.train)), labelled.source)
        for part in partition.rounds:
            if target.of(part.test).any():
                check_learnable(target.take(target.of(part.train)), labelled.source)
        if not any(target.of(part.test).any() for part in partition.rounds):
            raise UserError(f"{labelled.source}: no test protein has a label of {target.name!r}")
    depth = model.config.layers
    layers = chosen_layers(options.layers or sorted({(depth + 1) // 2, depth}), depth)
    variants = are_variants(labelled.sequences)
    blocks = _blocks(labelled, model, layers, variants, options, report("embedding"))
    learned, evaluations = [], []
    for target in labelled.targets:
        own = blocks[target.per_residue]
        if not target.per_residue:
            own = {name: values[target.owner] for name, values in own.items()}
        candidates = candidates_of(layers, target.per_residue, variants)
        without = {name: own[name] for name in baseline_blocks(target, variants)}
        smaller = []
        rows, found, latest = [], [], None
        for part in partition.rounds:
            tested = np.flatnonzero(target.of(part.test))
            if not len(tested):
                continue
            latest = learn(target, own, candidates, part, partition.groups, options.seed)
            smaller.append(smaller_fits(latest, target, own, part, tested, options.seed))
            guesses = {PROBE: predicted(latest.head, own, tested)}
            rows.append(tested)
            found.append(guesses | baselines(target, without, part, partition.groups, kinship, options.seed))
        if latest is None or len(partition.rounds) > 1:
            latest = learn(target, own, candidates, partition.final, partition.groups, options.seed)
        learned.append(_known_classes(latest, target.take(target.of(partition.final.train))))
        held = target.take(np.concatenate(rows))
        every = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        evaluations.append(evaluated(held, every, options.seed))
        evaluations[-1].learning_curve.extend(learning_curve(held, smaller))
    leakage = None if kinship is None else Leakage.measured(kinship, partition)
    return Fitted(learned, evaluations, labelled, partition, leakage, _warnings(labelled, partition))


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


def _blocks(
    labelled: LabelledSet,
    model: Performer,
    layers: Sequence[int],
    variants: bool,
    options: FitOptions,
    progress: Progress,
) -> dict[bool, dict[str, np.ndarray]]:
    """For each level (residues or not) that has targets, name -> features: of all proteins, or of labelled residues."""
    found = {}
    distinct, inverse = np.unique(np.array(labelled.sequences, dtype=object), return_inverse=True)
    levels = sorted({target.per_residue for target in labelled.targets})
    total = len(levels) * sum(map(len, distinct))
    for number, level in enumerate(levels):
        targets = [target for target in labelled.targets if target.per_residue == level]
        names = [f"{LAYER}{layer}" for layer in layers] + baseline_blocks(targets[0], variants)
        before = number * total // len(levels)
        computed = blocks_of(
            distinct, names, level, model, options.token_budget, options.precision,
            lambda done, _, before=before: progress(before + done, total), total,
        )  # fmt: skip
        each = list(computed)
        if not level:
            found[level] = {name: np.stack([each[index][name] for index in inverse]) for name in names}
            continue
        if len(targets) > 1:
            raise UserError(f"{labelled.source}: {len(targets)} targets per residue; expected one at a time", "target")
        (target,) = targets
        edges = np.searchsorted(target.owner, np.arange(len(labelled.ids) + 1))
        positions = [target.position[start:stop] for start, stop in pairwise(edges.tolist())]
        found[level] = {
            name: np.concatenate([each[index][name][own] for index, own in zip(inverse, positions, strict=True)])
            for name in names
        }
    return found


def _known_classes(learned: Learned, target: Target) -> Learned:
    """The head without classes that occur in no training row."""
    if target.kind != "classification":
        return learned
    head, present = learned.head, np.unique(target.y)
    kept = replace(
        head,
        classes=tuple(head.classes[label] for label in present),
        weight=np.ascontiguousarray(head.weight[:, present]),  # as it is stored: the same bits after loading
        bias=head.bias[present],
    )
    return Learned(kept, learned.strength)


def _warnings(labelled: LabelledSet, partition: Partition) -> list[str]:
    """Lines about what makes the evaluation less reliable."""
    lines = []
    part = partition.rounds[0]
    equal = equal_sequences(labelled.sequences)
    if len(partition.rounds) == 1:
        shared = int(np.isin(equal[part.test], equal[part.train | part.valid]).sum())
        if shared:
            lines.append(f"{counted(shared, 'test protein')} also in the training part, with the same sequence")
    for target in labelled.targets:
        train = target.take(target.of(partition.final.train))
        proteins = len(np.unique(train.owner))
        if proteins < _FEW:
            lines.append(f"{target.name}: only {proteins} labelled training proteins; expect wide intervals")
        if target.kind != "classification":
            continue
        for one in partition.rounds:
            unknown = set(target.y[target.of(one.test)].tolist()) - set(target.y[target.of(one.train)].tolist())
            for label in sorted(unknown):
                count = int((target.y[target.of(one.test)] == label).sum())
                what = "test part" if len(partition.rounds) == 1 else "test part of a fold"
                lines.append(
                    f"{target.name}: {target.classes[label]!r} occurs only in the {what} "
                    f"({counted(count, 'residue' if target.per_residue else 'protein')}), so it is never predicted"
                )
    return lines
