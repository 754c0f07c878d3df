"""What the optimizer of fine-tuning gets."""

from torch import nn

from protlm.performer import Performer


class Trained(nn.Module):
    """What an optimizer gets: a model and heads.

    Args:
        model: None stands for one without weights.
        heads: any module.
    """

    def __init__(self, model: Performer | None, heads: nn.Module) -> None:
        super().__init__()
        self.model, self.heads = model, heads

    @property
    def blocks(self) -> nn.ModuleList:
        """Those of the model."""
        return nn.ModuleList() if self.model is None else self.model.blocks
