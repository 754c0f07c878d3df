"""What is known of each residue, for pictures: conservation, coverage, secondary structure."""

import numpy as np

from protlm.plots.positions import Track
from protlm.variants.assessment import Assessment


def tracks_of(assessment: Assessment) -> list[Track]:
    """The tracks for which there is a source."""
    tracks = []
    if assessment.log_p is not None and assessment.site_effective is not None:
        tracks.append(Track("coverage", assessment.site_effective))
        tracks.append(Track("conservation", conservation(assessment.log_p), 1.0))
    if assessment.sources.secondary:
        tracks.append(Track("structure", assessment.sources.secondary))
    if assessment.sources.weights is not None:
        tracks.append(Track("buried", assessment.sources.weights, 1.0))
    return tracks


def conservation(log_p: np.ndarray) -> np.ndarray:
    """1 - entropy / log 20 of each row of log p (L, 20): 0 if all amino acids are as frequent, 1 if there is one.

    >>> conservation(np.log(np.full((1, 20), 1 / 20))).round(6).tolist()
    [0.0]
    """
    log_p = log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True)
    return 1 + (np.exp(log_p) * log_p).sum(1) / np.log(log_p.shape[1])
