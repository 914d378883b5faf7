"""The confusion matrix."""

from typing import cast

from lightning import LightningModule
from torch.utils.tensorboard import SummaryWriter

from blitz import plots
from blitz.callback.drawing import TIME_SHARE, Drawing
from blitz.runs.protocols import ClassifierTask


class Confusion(Drawing):
    """Draw the confusion matrix of a ``ClassifierTask`` after each validation and after the test.

    Args:
        time_share: as in ``Drawing``.
        max_classes: nothing is drawn if there are more classes.
    """

    def __init__(self, time_share: float | None = TIME_SHARE, max_classes: int = 100) -> None:
        super().__init__(time_share)
        self.max_classes = max_classes

    def accepts(self, module: LightningModule) -> bool:
        return isinstance(module, ClassifierTask) and len(module.classes) <= self.max_classes

    def draw(self, writer: SummaryWriter, module: LightningModule, stage: str, step: int) -> None:
        task = cast("ClassifierTask", module)
        if stage in task.confusion:
            figure = plots.confusion_matrix(task.confusion[stage], task.classes)
            writer.add_figure(f"pictures/confusion_{stage}", figure, step)
