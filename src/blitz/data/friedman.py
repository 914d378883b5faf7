"""Friedman's first function: a regression on generated data, with plain DataLoaders of torch.

Friedman, "Multivariate Adaptive Regression Splines", The Annals of Statistics 19 (1), 1991, section 4.3.
"""

import math

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from blitz.data.checks import check_integer, is_number
from blitz.data.seeding import generator
from blitz.errors import UserError


def friedman1(inputs: Tensor) -> Tensor:
    """Return ``10 sin(pi x1 x2) + 20 (x3 - 0.5)**2 + 10 x4 + 5 x5``, ``(n,)``, for ``(n, features)`` in [0, 1].

    Features after the fifth have no influence.
    """
    x1, x2, x3, x4, x5 = inputs.T[:5]
    return 10 * torch.sin(math.pi * x1 * x2) + 20 * (x3 - 0.5) ** 2 + 10 * x4 + 5 * x5


class Friedman(LightningDataModule):
    """Uniform random features, and Friedman's function of them plus normal noise. Nothing is downloaded.

    Each split is drawn separately from ``data_seed``. It depends neither on the seed of the run nor on the sizes of
    the other splits. A batch is ``(inputs, targets)``: float32 ``(n, features)`` and ``(n,)``.

    With several processes, Lightning divides the samples among them and repeats some if they do not divide evenly.
    Metrics are then exact only if each size is a multiple of the number of processes.

    Args:
        num_train: number of training samples; likewise ``num_val`` and ``num_test``.
        features: number of inputs; at least the five that have an influence.
        noise: standard deviation of the noise. The function itself has a standard deviation of 4.9.
        data_seed: random seed of the samples.
        batch_size: number of training samples in a batch of all processes together.
        eval_batch_size: likewise for validation and test.

    Raises:
        UserError: an argument is out of range, or a batch cannot be divided among the processes.
    """

    def __init__(
        self,
        num_train: int = 2000,
        num_val: int = 500,
        num_test: int = 1000,
        features: int = 10,
        noise: float = 1.0,
        data_seed: int = 0,
        batch_size: int = 100,
        eval_batch_size: int = 500,
    ) -> None:
        super().__init__()
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        for name, size in self.sizes.items():
            check_integer(f"num_{name}", size, 1)
        check_integer("features", features, 5)
        if not is_number(noise) or not 0 <= noise < math.inf:
            raise UserError(f"data.noise={noise}: not a valid number; expected a number >= 0")
        self.features = features
        self.noise = noise
        self.data_seed = data_seed
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.splits: dict[str, TensorDataset] = {}

    def setup(self, stage: str) -> None:
        for name in self.sizes.keys() - self.splits.keys():
            self.splits[name] = TensorDataset(*self.draw(name))

    def draw(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the inputs and the targets of a split: ``train``, ``val`` or ``test``."""
        n, rng = self.sizes[name], generator("friedman", self.data_seed, name)
        inputs = torch.rand(n, self.features, generator=rng)
        return inputs, friedman1(inputs) + self.noise * torch.randn(n, generator=rng)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.splits["train"], self._per_process("batch_size"), shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.splits["val"], self._per_process("eval_batch_size"))

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.splits["test"], self._per_process("eval_batch_size"))

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self.test_dataloader()

    def _per_process(self, key: str) -> int:
        size: int = getattr(self, key)
        processes = self.trainer.world_size if self.trainer else 1
        if size % processes:
            raise UserError(f"data.{key}={size}: not divisible by {processes} processes; expected a multiple of them")
        return size // processes
