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
from protlm.supervised.features import StoredLayers, blocks_of, variable_sites
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.kinship import are_variants
from protlm.supervised.labels import LabelledSet
from protlm.supervised.learning_curve import learning_curve, smaller_fits
from protlm.supervised.partition import Partition, equal_sequences
from protlm.supervised.probe import Learned, candidates_of, learn, predicted
from protlm.supervised.split import Split, split_of
from protlm.supervised.target import Target

PROBE = "probe"
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
        tests: of each target, the rows that were tested.
        predictions: of each target, method -> (rows, k).
        valid: of each target, predictions (rows, k) of the validation part; empty without one.
    """

    learned: list[Learned]
    evaluations: list[Evaluation]
    labelled: LabelledSet
    partition: Partition
    leakage: Leakage | None
    warnings: list[str] = field(default_factory=list)
    tests: list[np.ndarray] = field(default_factory=list)
    predictions: list[dict[str, np.ndarray]] = field(default_factory=list)
    valid: list[np.ndarray] = field(default_factory=list)


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
    return probed(split_of(labelled, options, report("comparing")), model, options, report("embedding"))


def layers_of(model: Performer, options: FitOptions) -> tuple[int, ...]:
    """The layers among which a probe chooses: by default the middle and the last one."""
    depth = model.config.layers
    return chosen_layers(options.layers or sorted({(depth + 1) // 2, depth}), depth)


def probed(
    split: Split,
    model: Performer,
    options: FitOptions,
    progress: Progress,
    stored: Sequence[np.ndarray] | None = None,
) -> Fitted:
    """As `fit_probe`, of proteins that are split.

    Args:
        stored: representations of each protein, (S, L_i, D), of the layers that the probe may read and the last one.
    """
    labelled, partition, kinship = split.labelled, split.partition, split.kinship
    layers = layers_of(model, options)
    variants = are_variants(labelled.sequences)
    residues = variable_sites(labelled.sequences, model.config.width) if variants else ""
    blocks = _blocks(labelled, model, layers, variants, residues, options, progress, stored)
    learned, evaluations, tests, predictions, valid = [], [], [], [], []
    for target in labelled.targets:
        own = blocks[target.per_residue]
        if not target.per_residue:
            own = {name: values[target.owner] for name, values in own.items()}
        candidates = candidates_of(layers, target.per_residue, variants, residues)
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
        valid.append(predicted(latest.head, own, np.flatnonzero(target.of(partition.final.valid))))
        tests.append(np.concatenate(rows))
        held = target.take(tests[-1])
        every = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        predictions.append(every)
        evaluations.append(evaluated(held, every, options.seed, latest.head.threshold))
        evaluations[-1].learning_curve.extend(learning_curve(held, smaller))
    leakage = None if kinship is None else Leakage.measured(kinship, partition)
    return Fitted(
        learned, evaluations, labelled, partition, leakage, _warnings(labelled, partition), tests, predictions, valid
    )


def _blocks(
    labelled: LabelledSet,
    model: Performer,
    layers: Sequence[int],
    variants: bool,
    residues: str,
    options: FitOptions,
    progress: Progress,
    stored: Sequence[np.ndarray] | None = None,
) -> dict[bool, dict[str, np.ndarray]]:
    """For each level (residues or not) that has targets, name -> features: of all proteins, or of labelled residues."""
    found = {}
    distinct, first, inverse = np.unique(
        np.array(labelled.sequences, dtype=object), return_index=True, return_inverse=True
    )
    known = None
    if stored is not None:
        known = StoredLayers(sorted({*layers, model.config.layers}), [stored[number] for number in first])
    levels = sorted({target.per_residue for target in labelled.targets})
    total = len(levels) * sum(map(len, distinct))
    for number, level in enumerate(levels):
        targets = [target for target in labelled.targets if target.per_residue == level]
        candidates = candidates_of(layers, level, variants, residues)
        names = sorted({name for own in candidates for name in own} | set(baseline_blocks(targets[0], variants)))
        before = number * total // len(levels)
        computed = blocks_of(
            distinct, names, level, model, options.token_budget, options.precision,
            lambda done, _, before=before: progress(before + done, total), total, known,
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
    return replace(learned, head=kept)


def _warnings(labelled: LabelledSet, partition: Partition) -> list[str]:
    """Lines about what makes the evaluation less reliable."""
    lines = []
    part = partition.rounds[0]
    equal = equal_sequences(labelled.sequences)
    if len(partition.rounds) == 1:
        shared = int(np.isin(equal[part.test], equal[part.train | part.valid]).sum())
        if shared:
            verb = "is" if shared == 1 else "are"
            lines.append(f"{counted(shared, 'test protein')} {verb} also in the training part, with the same sequence")
    for target in labelled.targets:
        train = target.take(target.of(partition.final.train))
        proteins = len(np.unique(train.owner))
        if proteins < _FEW:
            lines.append(f"{target.name}: only {proteins} labelled training proteins; expect wide intervals")
        if target.kind != "classification":
            continue
        tested = target.y[np.any([target.of(one.test) for one in partition.rounds], axis=0)]
        if len(np.unique(tested)) == 1:
            only = target.classes[tested[0]]
            lines.append(
                f"{target.name}: all test labels are {only!r}; metrics do not tell how well classes are told apart"
            )
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
