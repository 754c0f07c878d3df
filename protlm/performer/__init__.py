"""The model. It handles tensors only, and imports nothing of FASTA, HDF5, Lightning or Hydra."""

from protlm.performer.attention import FavorAttention
from protlm.performer.config import PerformerConfig
from protlm.performer.model import Performer

__all__ = ["FavorAttention", "Performer", "PerformerConfig"]
