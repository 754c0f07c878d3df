"""The model. Knows tensors; knows nothing of FASTA, HDF5, Lightning or Hydra."""

from protlm.performer.attention import FavorAttention
from protlm.performer.model import Performer, PerformerConfig

__all__ = ["FavorAttention", "Performer", "PerformerConfig"]
