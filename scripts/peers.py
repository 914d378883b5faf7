"""The peers of ``benchmark.py``: three ways to train the same network, in plain form.

=================  ===============================================================================================
tutorial           the loop of "Training a Classifier" (60 Minute Blitz), copied literally
straightforward    a LightningModule with torchmetrics and ``self.log`` each step, a DataLoader, and the callbacks
                   that are the default of the widely used template (ashleve/lightning-hydra-template, version 2)
floor              the bare loop: uint8 images in memory; gather, normalize, forward, backward, step
=================  ===============================================================================================

All call ``step_done`` after every step, for the timing.

As a script, this file trains in the straightforward way until the end of the first step.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
import torchvision.transforms as transforms
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichModelSummary, RichProgressBar
from PIL import Image
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset, random_split
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import Accuracy

StepDone = Callable[[], None]
SGD = partial(optim.SGD, lr=0.001, momentum=0.9)  # the tutorial's


class Net(nn.Module):
    """The tutorial's network, as the tutorial writes it."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class DenseNet(nn.Module):
    """The popular template's example for MNIST: three hidden layers with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(784, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(1))


class Pictures(Dataset[tuple[Tensor, int]]):
    """``torchvision.datasets.CIFAR10`` or ``MNIST`` of decoded images: the same array, picture and transform.

    Args:
        images: uint8 ``(n, channels, height, width)``.
        mean: of every channel, for values in [0, 1].
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: float = 0.5, std: float = 0.5) -> None:
        channels = images.shape[1]
        self.data = images.permute(0, 2, 3, 1).squeeze(3).contiguous().numpy()
        self.targets = labels.tolist()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((mean,) * channels, (std,) * channels)]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def tutorial(
    net: nn.Module,
    trainset: Dataset[Any],
    batch_size: int,
    steps: int,
    step_done: StepDone,
    device: torch.device,
    shuffle: bool = True,
) -> None:
    """Train ``net`` for ``steps`` steps, over as many epochs as they take."""
    trainloader = DataLoader(trainset, batch_size=batch_size, shuffle=shuffle, num_workers=2)
    net.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    taken = 0

    for epoch in count():
        running_loss = 0.0
        for i, data in enumerate(trainloader, 0):
            inputs, labels = data[0].to(device), data[1].to(device)

            optimizer.zero_grad()

            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()

            running_loss += loss.item()
            if i % 2000 == 1999:
                print(f"[{epoch + 1}, {i + 1:5d}] loss: {running_loss / 2000:.3f}")
                running_loss = 0.0

            step_done()
            taken += 1
            if taken == steps:
                return


class Classifier(LightningModule):
    def __init__(self, net: nn.Module, optimizer: Callable[..., optim.Optimizer]) -> None:
        super().__init__()
        self.net = net
        self.optimizer = optimizer
        self.criterion = nn.CrossEntropyLoss()
        self.train_acc = Accuracy(task="multiclass", num_classes=10)
        self.val_acc = Accuracy(task="multiclass", num_classes=10)
        self.train_loss = MeanMetric()
        self.val_loss = MeanMetric()
        self.val_acc_best = MaxMetric()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def model_step(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        logits = self.forward(x)
        return self.criterion(logits, y), logits.argmax(dim=1), y

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, preds, targets = self.model_step(batch)
        self.train_loss(loss)
        self.train_acc(preds, targets)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        loss, preds, targets = self.model_step(batch)
        self.val_loss(loss)
        self.val_acc(preds, targets)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.val_acc_best(self.val_acc.compute())
        self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> optim.Optimizer:
        return self.optimizer(self.parameters())


def straightforward(
    net: nn.Module,
    trainset: Dataset[Any],
    valset: Dataset[Any],
    batch_size: int,
    timer: Callback,
    device: torch.device,
    optimizer: Callable[..., optim.Optimizer],
    shuffle: bool = True,
    **limits: int,
) -> None:
    """Train and validate ``net`` within the trainer's ``limits``.

    No logger and no workers: these are that template's defaults. With two workers on two cores it was not faster.
    """
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = ModelCheckpoint(
            dirpath=directory,
            filename="epoch_{epoch:03d}",
            monitor="val/acc",
            mode="max",
            save_last=True,
            auto_insert_metric_name=False,
        )
        stopping = EarlyStopping(monitor="val/acc", patience=100, mode="max")
        trainer = Trainer(
            accelerator=device.type,
            devices=1,
            default_root_dir=directory,
            callbacks=[checkpoint, stopping, RichModelSummary(max_depth=-1), RichProgressBar(), timer],
            logger=False,
            **limits,
        )
        trainer.fit(
            Classifier(net, optimizer),
            DataLoader(trainset, batch_size=batch_size, shuffle=shuffle),
            DataLoader(valset, batch_size=batch_size),
        )


def floor(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    steps: int,
    step_done: StepDone,
    device: torch.device,
    shuffle: bool = True,
    optimizer: Callable[..., optim.Optimizer] = SGD,
) -> None:
    """Train ``net`` for ``steps`` steps on uint8 ``images``, over as many epochs as they take."""
    images, labels = images.to(device), labels.to(device)
    net.to(device)
    stepper = optimizer(net.parameters())
    taken = 0
    while True:
        order = torch.randperm(len(labels)) if shuffle else torch.arange(len(labels))
        for rows in order.to(device).split(batch_size):
            batch = images.index_select(0, rows).float().div_(255).sub_(0.5).div_(0.5)
            loss = F.cross_entropy(net(batch), labels[rows])
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            step_done()
            taken += 1
            if taken == steps:
                return


@torch.inference_mode()
def evaluation_floor(net: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> tuple[float, float]:
    """Return mean loss and accuracy of images that are on the device already."""
    net.eval()
    losses, hits = [], []
    for batch, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        logits = net(batch.float().div_(255).sub_(0.5).div_(0.5))
        losses.append(F.cross_entropy(logits, targets, reduction="sum"))
        hits.append((logits.argmax(1) == targets).sum())
    return float(torch.stack(losses).sum()) / len(labels), int(torch.stack(hits).sum()) / len(labels)


class Steps(Callback):
    """Call ``step_done`` after every training step."""

    def __init__(self, step_done: StepDone) -> None:
        self.step_done = step_done

    def on_train_batch_end(self, *_: Any) -> None:
        self.step_done()


def main() -> None:
    """Run the straightforward way from the command line to the end of its first step."""
    parser = argparse.ArgumentParser(description="Train one step on MNIST in the straightforward way.")
    parser.add_argument("--data", default="data", help="the directory that contains MNIST/raw")
    arguments = parser.parse_args()
    seed_everything(0)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    mnist = torchvision.datasets.MNIST(arguments.data, train=True, transform=transform)
    trainset, valset = random_split(mnist, [55_000, 5_000])
    straightforward(
        DenseNet(),
        trainset,
        valset,
        batch_size=128,
        timer=Steps(lambda: os._exit(0)),
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        optimizer=optim.Adam,
    )


if __name__ == "__main__":
    main()
