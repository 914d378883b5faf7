"""Histograms of weights and gradients."""

from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from blitz.callback.drawing import writers
from blitz.errors import UserError


class Histograms(Callback):
    """Write a histogram of each weight and of its gradient, before the optimizer's step.

    Args:
        every_n_steps: number of optimizer steps between two histograms.

    Raises:
        UserError: ``every_n_steps`` is out of range.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        if every_n_steps < 1:
            raise UserError(f"callback.histograms.every_n_steps={every_n_steps}: out of range; expected a number >= 1")
        self.every_n_steps = every_n_steps

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        step = trainer.global_step
        if step % self.every_n_steps:
            return
        for writer in writers(trainer):
            for name, weight in pl_module.named_parameters():
                if weight.numel():  # a sharded weight may be empty
                    writer.add_histogram(f"weights/{name}", weight.detach().float(), step)
                if weight.grad is not None and weight.grad.isfinite().any():  # mixed precision may overflow at first
                    writer.add_histogram(f"weights/{name}.grad", weight.grad.float(), step)
