"""What is known of each residue, for pictures: coverage, conservation, secondary structure, burial."""

from protlm.plots.positions import Track
from protlm.variants.assessment import Assessment


def tracks_of(assessment: Assessment) -> list[Track]:
    """The tracks for which there is a source."""
    tracks = []
    if profile := assessment.profile:
        tracks += [Track("coverage", profile.effective), Track("conservation", profile.conservation)]
    if assessment.sources.secondary:
        tracks.append(Track("structure", assessment.sources.secondary))
    if assessment.sources.weights is not None:
        tracks.append(Track("buried", assessment.sources.weights, 1.0))
    return tracks
