"""Reconstruction: metrics and picture equal to a computation by hand."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from blitz.data.transforms import Transform
from blitz.errors import UserError
from blitz.task.autoencode import ENLARGED, PICTURED, Autoencode

SIZE = 4


class Scaled(nn.Module):
    """Reconstruct each image as a multiple of itself."""

    def __init__(self, factor=0.5):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images):
        return self.factor * images


def images(transform, n=12):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, transform.channels, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return pixels, transform(pixels)


def batches(inputs, sizes=(5, 1, 6)):
    return DataLoader([(part, torch.zeros(len(part))) for part in inputs.split(sizes)], batch_size=None)


@pytest.fixture
def trainer(tmp_path):
    return Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_and_picture_equal_a_computation_by_hand(channels, trainer):
    transform = Transform(channels, SIZE, "resize", mean=[0.25], std=[0.5])
    task = Autoencode(Scaled(), optimizer=lambda parameters: torch.optim.SGD(parameters, 0.0), transform=transform)
    pixels, inputs = images(transform)
    trainer.fit(task, batches(inputs), batches(inputs))
    trainer.test(task, batches(inputs), verbose=False)
    expected = (inputs / 2).square().mean().item()
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics == pytest.approx({"test/loss": expected})
    report = task.report("test")
    assert report.summary == {"test loss": f"{expected:.4f}"}

    picture = np.asarray(Image.open(io.BytesIO(report.files["reconstructions.png"])).convert("RGB"))
    cell = SIZE * ENLARGED + 2
    assert picture.shape == (2 * cell + 2, PICTURED * cell + 2, 3)
    originals, reconstructions = (
        torch.stack([
            torch.from_numpy(picture[row + 2 : row + cell : ENLARGED, 2 + n * cell : (n + 1) * cell : ENLARGED].copy())
            for n in range(PICTURED)
        ]).permute(0, 3, 1, 2)
        for row in (0, cell)
    )  # fmt: skip
    assert torch.equal(originals, pixels[:PICTURED].expand(-1, 3, -1, -1))
    by_hand = (pixels[:PICTURED].double() / 255 - 0.25) / 2 + 0.25
    assert (reconstructions.double() / 255 - by_hand).abs().max() <= 1 / 255


def test_training_and_validation_equal_a_computation_by_hand(trainer):
    transform = Transform(1, SIZE, "resize", mean=[0.5], std=[0.25])
    task = Autoencode(Scaled(0.25), optimizer=lambda parameters: torch.optim.SGD(parameters, 0.0), loss=nn.L1Loss())
    inputs = images(transform)[1]
    trainer.fit(task, batches(inputs), batches(inputs[:6], (4, 2)))
    expected = [(0.75 * part).abs().mean().item() for part in (inputs, inputs[:6], inputs[-6:])]
    found = [float(trainer.callback_metrics[name]) for name in ("train/loss", "val/loss", "train/loss_step")]
    assert found == pytest.approx(expected)
    assert task.report("val").files == {}, "without a transform there is no picture"


def test_reconstructions_are_predicted(trainer):
    transform = Transform(1, SIZE, "resize", mean=[0.5], std=[0.25])
    inputs = images(transform)[1]
    assert torch.equal(torch.cat(trainer.predict(Autoencode(Scaled()), batches(inputs))), inputs / 2)


def test_a_network_that_returns_another_shape_is_refused():
    transform = SimpleNamespace(channels=1, image_size=8)
    with pytest.raises(UserError, match=r"Flatten returns \(2, 64\) for images \(2, 1, 8, 8\); expected the shape of"):
        Autoencode(nn.Flatten(), transform=transform)
