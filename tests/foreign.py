"""Modules in the style of Lightning's documentation, which know nothing of blitz."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

FEATURES = 16


class Blobs(LightningDataModule):
    """Random features around two centers. There is no test split."""

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(5)
        features = torch.randn(88, FEATURES, generator=generator) + torch.arange(88).remainder(2).view(-1, 1)
        self.train, self.val = random_split(TensorDataset(features), [72, 16])

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=8, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=8)


class LitAutoEncoder(LightningModule):
    def __init__(self, hidden: int = 3, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, hidden))
        self.decoder = nn.Sequential(nn.Linear(hidden, 8), nn.ReLU(), nn.Linear(8, FEATURES))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x,) = batch
        loss = F.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        (x,) = batch
        self.log("val_loss", F.mse_loss(self.decoder(self.encoder(x)), x), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


class GAN(LightningModule):
    """Two optimizers under manual optimization, and no validation."""

    def __init__(self, latent: int = 4) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.latent = latent
        self.generator = nn.Sequential(nn.Linear(latent, 8), nn.ReLU(), nn.Linear(8, FEATURES))
        self.discriminator = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 1))

    def loss(self, x: Tensor, real: bool) -> Tensor:
        target = torch.full((len(x), 1), float(real), device=x.device)
        return F.binary_cross_entropy_with_logits(self.discriminator(x), target)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        (x,) = batch
        generator_optimizer, discriminator_optimizer = self.optimizers()
        fake = self.generator(torch.randn(len(x), self.latent, device=x.device))

        self.toggle_optimizer(generator_optimizer)
        generator_loss = self.loss(fake, real=True)
        generator_optimizer.zero_grad()
        self.manual_backward(generator_loss)
        generator_optimizer.step()
        self.untoggle_optimizer(generator_optimizer)

        self.toggle_optimizer(discriminator_optimizer)
        discriminator_loss = (self.loss(x, real=True) + self.loss(fake.detach(), real=False)) / 2
        discriminator_optimizer.zero_grad()
        self.manual_backward(discriminator_loss)
        discriminator_optimizer.step()
        self.untoggle_optimizer(discriminator_optimizer)
        self.log_dict({"g_loss": generator_loss, "d_loss": discriminator_loss}, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (self.generator, self.discriminator)], []
