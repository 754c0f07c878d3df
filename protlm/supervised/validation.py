"""Proteins for validation, where the labels name none: a tenth of those for training, if possible whole families.

With relatives for training they would favour a model that remembers, though the test may have none.

Legend: n proteins, t of them for training.
"""

from collections.abc import Sequence

import numpy as np

from protlm.errors import counted
from protlm.progress import Progress
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.kinship import Kinship, are_variants
from protlm.supervised.partition import Partition, folds_of

_FOLDS = 10  # one of them is for validation
_LEAST = 0.05  # of the training proteins: of fewer, unrelated ones, validation says little
_SEARCHED = 3_000_000  # residues, compared in a quarter of an hour of one core (5.4e9 pairs of residues per second)


def drawn(
    sequences: Sequence[str], partition: Partition, kinship: Kinship | None, options: FitOptions, progress: Progress
) -> tuple[np.ndarray, str]:
    """Chooses the proteins for validation among those for training in the first round.

    Args:
        sequences: (n,).
        partition: of the proteins.
        kinship: as it was measured for the partition, of all proteins if it has several rounds.
        options: of the split; by random or without relatives, the choice is random.
        progress: of the search for relatives.

    Returns:
        (n,) bool, and how they were chosen. Equal sequences are never on both sides.
    """
    train = partition.rounds[0].train
    clusters, why = _clusters(sequences, partition, kinship, options, progress)
    if clusters is not None:
        clusters = _joined(clusters, partition.groups[train])
        fold = folds_of(clusters, min(_FOLDS, int(clusters.max()) + 1), options.seed)
        sizes = np.bincount(fold)
        if sizes.min() >= _LEAST * train.sum() and len(sizes) > 1:
            valid = _among(train, fold == sizes.argmin())
            count = counted(len(np.unique(clusters[valid[train]])), "held-out cluster")
            return valid, f"{_proteins(valid)} for validation, {count} of relatives {why}"
        why = ", since most are relatives of each other"
    groups = partition.groups[train]
    valid = _among(train, folds_of(groups, min(_FOLDS, len(np.unique(groups))), options.seed) == 0)
    return valid, f"{_proteins(valid)} for validation, at random{why}"


def _clusters(
    sequences: Sequence[str], partition: Partition, kinship: Kinship | None, options: FitOptions, progress: Progress
) -> tuple[np.ndarray | None, str]:
    """(t,) int64 clusters of training proteins, and how they were found; or None and why there are none."""
    train = partition.rounds[0].train
    own = [sequences[number] for number in np.flatnonzero(train).tolist()]
    if options.split_by == "random":
        return None, ""
    if options.clusters:
        return partition.groups[train], f"in {options.clusters}"
    if are_variants(sequences):
        return None, ", since all are variants of one protein"
    from protlm.homology.relatives import clusters_of, find_relatives

    found = f"at {options.identity:.0%} identity"
    if kinship is not None and kinship.relatives is not None and len(partition.rounds) > 1:
        return clusters_of(kinship.relatives, len(sequences), options.identity)[train], found
    if not options.relatives:
        return None, ", since relatives are not searched"
    if (residues := sum(map(len, own))) > _SEARCHED:
        return None, f", since {residues:,} residues take too long to compare"
    later = [range(number + 1, len(own)) for number in range(len(own))]  # each pair once
    relatives = find_relatives(own, own, options.threads, progress, later)
    return clusters_of(relatives, len(own), options.identity), found


def _joined(clusters: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(t,) int64, from 0: the smallest clusters that divide neither those given nor groups, such as equal peptides.

    >>> _joined(np.array([0, 0, 1, 2]), np.array([5, 6, 6, 7])).tolist()
    [0, 0, 0, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    above = int(clusters.max()) + 1
    size = above + int(groups.max()) + 1
    edges = coo_array((np.ones(len(groups)), (clusters, above + groups)), shape=(size, size))
    return np.unique(connected_components(edges, directed=False)[1][clusters], return_inverse=True)[1]


def _among(train: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n,) bool from (t,) bool."""
    valid = np.zeros_like(train)
    valid[train] = chosen
    return valid


def _proteins(valid: np.ndarray) -> str:
    return counted(int(valid.sum()), "training protein")
