"""The graph of the network."""

import contextlib
import io
import warnings
from collections.abc import Iterator

from lightning import LightningModule
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from blitz.callback.drawing import Drawing
from blitz.process import random_state

SHARDED = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)  # calling the network needs all ranks


class Graph(Drawing):
    """Trace ``module.net`` with ``example_input_array``, and write its graph.

    Nothing is written without these two attributes, or if the weights are sharded over the ranks. If the network cannot
    be traced, one line says why, and the run continues.
    """

    only_once = True

    def accepts(self, module: LightningModule) -> bool:
        traceable = isinstance(module.example_input_array, Tensor) and "net" in dict(module.named_children())
        return traceable and not isinstance(module.trainer.strategy, SHARDED)

    def draw(self, writer: SummaryWriter, module: LightningModule, stage: str, step: int) -> None:
        net, inputs = dict(module.named_children())["net"], module.example_input_array
        assert isinstance(inputs, Tensor)
        try:
            with _unchanged(net), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")  # that tracing is deprecated
                writer.add_graph(net, inputs.to(module.device))
        except Exception as error:  # tracing runs the code of any network
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"no graph       {type(net).__name__} cannot be traced: {reason}")


@contextlib.contextmanager
def _unchanged(net: nn.Module) -> Iterator[None]:
    """Preserve the random state and the mode of each layer: after tracing, torch puts all of them in the same mode."""
    modes = {layer: layer.training for layer in net.modules()}
    try:
        with random_state.preserved():
            yield
    finally:
        for layer, training in modes.items():
            layer.training = training
