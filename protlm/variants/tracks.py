"""What is known of each residue, for pictures: coverage, conservation, secondary structure, burial."""

from protlm.plots.positions import Track
from protlm.variants.assessment import Assessment


def tracks_of(assessment: Assessment) -> list[Track]:
    """The tracks for which there is a source."""
    tracks = []
    if profile := assessment.profile:
        tracks += [Track("coverage", profile.effective), Track("conservation", profile.conservation)]
    if structure := assessment.sources.structure:
        tracks += [Track("structure", structure.secondary), Track("buried", structure.buried, 1.0)]
    return tracks
