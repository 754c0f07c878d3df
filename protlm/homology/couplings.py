"""Couplings between the sites of a family: what the residues at other sites tell about the one at a site.

Each site is a multinomial regression of its residue on those at all other sites, in addition to a profile, and
regularised, so that what is not known changes nothing (pseudo-likelihood: Ekeberg et al. 2013). There are more features
than sequences, so the regression is fitted as combinations R of the sequences (its dual form):

    field_sia = sum_tjb F_sjb F_tjb R_tia, over j != i
    minimise  - sum_s w_s log softmax(h_i + field_si)[residue of s at i]  +  lambda_i / 2 sum_sa R_sia field_sia

The query takes no part in the regressions, which are to predict it: its own residues would tell about themselves.

Legend: N sequences s, t; L sites i, j; amino acids a, b in the order of `STANDARD`; F (N, L, 20) residues, one-hot
minus the frequencies at their site; h (L, 20) logarithms of the profile; w (N,) sequence weights; R (N, L, 20).
"""

import numpy as np

from protlm.homology.alignment import GAP, Alignment
from protlm.homology.profile import Profile, log_frequencies
from protlm.sequence.alphabet import STANDARD

MOST = 1_000
"""Maximum number N of sequences that are fitted: the query and those with the greatest weights."""
WORK = 3e8
"""Maximum of N^2 L, to which time is proportional: 1,000 sequences of 300 residues take seconds."""
REGULARISATION = 2.0
"""lambda_i, divided by the mean number of residues of the sequences that have one at site i. The prior variance of the
field there is then about one half."""
TOLERANCE = 1e-3
"""The fit of a site ends when a step changes no field by more, in nats."""
STEPS = 300
"""Maximum number of steps."""
_VARIANTS = 5_000  # computed at a time, as well
_SITES = 64  # fitted at a time, which bounds memory; sites are independent


class Couplings:
    """The couplings of a family.

    Args:
        alignment: of the query with its homologs; the query alone will do.
        profile: of the alignment, if there is one already: its weights take time.

    Attributes:
        field: (L, 20) float64: what the query's residues at other sites add to the log-probabilities of its profile, in
            nats.
    """

    def __init__(self, alignment: Alignment, profile: Profile | None = None) -> None:
        weights = (profile or Profile(alignment)).redundancy_weights
        codes, weights = alignment.codes[weights > 0], weights[weights > 0]
        most = min(MOST, max(1, int(np.sqrt(WORK / codes.shape[1]))))
        if len(codes) > most:
            kept = np.sort(np.append(0, 1 + np.argsort(-weights[1:], kind="stable")[: most - 1]))
            codes, weights = codes[kept], weights[kept]
        residues = (codes[..., None] == np.arange(GAP)).astype(np.float32)
        counts = np.einsum("s,sia->ia", weights.astype(np.float32), residues)
        mean = counts / np.maximum(counts.sum(1, keepdims=True), 1e-9)
        self._features = residues - mean * residues.any(2, keepdims=True)
        log_profile = log_frequencies(codes, weights)
        weights[0] = 0  # from here on
        fit = _Fit(self._features, residues, weights, log_profile)
        fits = [fit(slice(start, start + _SITES)) for start in range(0, codes.shape[1], _SITES)]
        self._combinations = np.concatenate([combinations for combinations, _ in fits], axis=1)
        self.field = np.concatenate([field[0] for _, field in fits]).astype(np.float64)
        self._query = np.array([STANDARD.find(letter) for letter in alignment.query])

    def interactions(
        self, variant: np.ndarray, position: np.ndarray, mutant: np.ndarray, factors: np.ndarray
    ) -> np.ndarray:
        """What substitutions of the same variant change in each other's fields: (n,) float64, in nats.

        Half of the sum over ordered pairs of substitutions i -> a and j -> b of the change that the first makes in
        field_jb - field_j(wild type), times the factor of j: the mean over the orders in which they may occur.

        Args:
            variant: (m,) int64, numbers from 0 to n - 1, of the variant of each substitution.
            position: (m,) int64, sites.
            mutant: (m,) int64, amino acids.
            factors: (L,) float64, see `site_factors`.
        """
        count = int(variant.max(initial=-1)) + 1
        result = np.zeros(count)
        known = np.flatnonzero(self._query[position] >= 0)
        several = np.flatnonzero(np.bincount(variant[known], minlength=count) > 1)
        for numbers in np.split(several, range(_VARIANTS, len(several), _VARIANTS)):
            part = known[np.isin(variant[known], numbers)]
            local = np.searchsorted(numbers, variant[part])
            i, a, wild_type = position[part], mutant[part], self._query[position[part]]
            gained = (self._features[:, i, a] - self._features[:, i, wild_type]).T
            fitted = (self._combinations[:, i, a] - self._combinations[:, i, wild_type]).T
            together = np.zeros((len(numbers), len(self._features)), dtype=np.float32)
            np.add.at(together, local, gained)
            change = (fitted * (together[local] - gained)).sum(1)
            result[numbers] = np.bincount(local, change * factors[i] / 2, minlength=len(numbers))
        return result

    def norms(self) -> np.ndarray:
        """How strongly each two sites are coupled: (L, L) float32, symmetric, 0 on the diagonal.

        The Frobenius norm of the couplings of i and j, the mean of the two directions, which are centred over the amino
        acids of both sites (Ekeberg et al. 2013).
        """
        count, length, _ = self._features.shape
        result = np.zeros((length, length), dtype=np.float32)
        features, combinations = (x.reshape(count, -1) for x in (self._features, self._combinations))
        for start in range(0, length, _SITES):
            own = slice(start * GAP, (start + _SITES) * GAP)
            pairs = (combinations[:, own].T @ features + features[:, own].T @ combinations) / 2
            pairs = pairs.reshape(-1, GAP, length, GAP)
            pairs -= pairs.mean(1, keepdims=True)
            pairs -= pairs.mean(3, keepdims=True)
            result[start : start + _SITES] = np.sqrt(np.square(pairs).sum((1, 3)))
        np.fill_diagonal(result, 0)
        return result


class _Fit:
    """Nesterov's method, in the metric of the features.

    Args:
        features: F.
        residues: (N, L, 20) float32, one-hot; 0 where there is none.
        weights: w.
        log_profile: h.
    """

    def __init__(
        self, features: np.ndarray, residues: np.ndarray, weights: np.ndarray, log_profile: np.ndarray
    ) -> None:
        flat = features.reshape(len(features), -1)
        self._features, self._residues, self._kernel = features, residues, flat @ flat.T
        self._weights = weights.astype(np.float32)[:, None, None]
        self._log_profile = log_profile.astype(np.float32)
        known = residues.any(2)
        aligned = (weights * known.sum(1)) @ known / np.maximum(weights @ known, 1e-9)
        self._penalty = (REGULARISATION * np.maximum(aligned, 1)).astype(np.float32)[:, None]
        root = np.sqrt(weights)
        largest = np.linalg.eigvalsh(root[:, None] * self._kernel * root)[-1]
        self._curvature = self._penalty + np.float32(largest / 2)  # the Hessian of log softmax is at most 1 / 2

    def __call__(self, sites: slice) -> tuple[np.ndarray, np.ndarray]:
        """R and the fields of some sites, (N, n, 20) float32 each."""
        residues, own = self._residues[:, sites], self._features[:, sites].transpose(1, 0, 2)
        weights = self._weights * residues.any(2, keepdims=True)
        penalty, curvature = self._penalty[sites], self._curvature[sites]
        ratio = np.sqrt(curvature / penalty)
        momentum = (ratio - 1) / (ratio + 1)
        before = now = np.zeros_like(residues)
        field_before = field = np.zeros_like(residues)
        for _ in range(STEPS):
            ahead = now + momentum * (now - before)
            logits = self._log_profile[sites] + field + momentum * (field - field_before)
            p = np.exp(logits - logits.max(2, keepdims=True))
            p /= p.sum(2, keepdims=True)
            gradient = weights * (p - residues) + penalty * ahead
            before, now = now, ahead - gradient / curvature
            field_before, field = field, self._field(now, own)
            if np.abs(field - field_before).max() < TOLERANCE:
                break
        return now, field

    def _field(self, combinations: np.ndarray, own: np.ndarray) -> np.ndarray:
        whole = (self._kernel @ combinations.reshape(len(combinations), -1)).reshape(combinations.shape)
        of_site = own @ (own.transpose(0, 2, 1) @ combinations.transpose(1, 0, 2))
        return whole - of_site.transpose(1, 0, 2)
