"""The filters of the first convolution."""

from lightning import LightningModule
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from blitz.callback.drawing import TIME_SHARE, Drawing

ENLARGED = 12  # pixels of the picture per weight, in each direction


class Filters(Drawing):
    """Draw the weights of the first convolution if it takes 1 or 3 channels: black is the lowest, white the highest.

    Args:
        time_share: as in ``Drawing``.
        filters: largest number of filters.
    """

    def __init__(self, time_share: float | None = TIME_SHARE, filters: int = 64) -> None:
        super().__init__(time_share)
        self.filters = filters

    def accepts(self, module: LightningModule) -> bool:
        return _first_convolution(module) is not None

    def draw(self, writer: SummaryWriter, module: LightningModule, stage: str, step: int) -> None:
        layer = _first_convolution(module)
        if layer is not None:
            weights = layer.weight.detach().float().cpu()[: self.filters]
            enlarged = weights.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
            writer.add_image(f"pictures/filters_{stage}", make_grid(enlarged, normalize=True, pad_value=1.0), step)


def _first_convolution(module: nn.Module) -> nn.Conv2d | None:
    """Return None if it takes neither 1 nor 3 channels, or if its weights are sharded, which makes them flat."""
    found = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    layer = next(found, None)
    return layer if layer is not None and layer.weight.ndim == 4 and layer.weight.shape[1] in (1, 3) else None
