"""Predictions for images of every kind, in parts, and without an effect on the task."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from blitz.data.transforms import Transform
from blitz.errors import UserError
from blitz.task import image_model
from blitz.task.classify import Classify

SIZE = 4


def task(channels=3, transform=True):
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels * SIZE**2, 2))
    preparing = Transform(channels, SIZE, "resize", [0.5], [0.25]) if transform else None
    return Classify(net, classes=["a", "b"], transform=preparing)


def test_the_same_image_in_every_form(tmp_path):
    classifier = task()
    array = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    tensor, picture = torch.from_numpy(array).permute(2, 0, 1), Image.fromarray(array)
    picture.save(tmp_path / "a.png")
    expected = classifier.predict(picture).probabilities
    assert classifier.training, "the mode is restored"
    for images in (array, array[None], tensor, tensor[None], tmp_path / "a.png", str(tmp_path / "a.png")):
        torch.testing.assert_close(classifier.predict(images).probabilities, expected)
    several = classifier.predict([array, tensor, picture, tmp_path / "a.png"])
    torch.testing.assert_close(several.probabilities, expected.repeat(4, 1))
    assert not several.probabilities.requires_grad


def test_many_images_are_processed_in_parts(monkeypatch):
    monkeypatch.setattr(image_model, "BATCH_SIZE", 3)
    classifier, sizes = task(), []
    classifier.net.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    images = torch.randint(0, 256, (7, 3, 5, 5), dtype=torch.uint8)
    whole = classifier.predict(images)
    assert sizes == [3, 3, 1]
    torch.testing.assert_close(classifier.predict(list(images)).probabilities, whole.probabilities)
    torch.testing.assert_close(classifier.predict(images[4]).probabilities, whole.probabilities[4:5])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3)), "an array of float64 (4, 4, 3); expected uint8 (height, width), (height, width, 3) or"),
        (np.zeros((3, 8, 9), np.uint8), "an array of uint8 (3, 8, 9); expected"),
        (torch.zeros(3, 4, 4), "the images are float32; expected uint8, with values from 0 to 255"),
        (
            torch.zeros(4, 4, 3, dtype=torch.uint8),
            "a tensor of the shape (4, 4, 3); expected (3, height, width) or (n, 3, height, width)",
        ),
        ([], "an empty list; expected PIL images, arrays, tensors or paths"),
        (3, "an object of type int; expected PIL images, arrays, tensors or paths"),
        ("none.png", "none.png: cannot be read as an image ("),
    ],
    ids=["float array", "CHW array", "float tensor", "HWC tensor", "empty list", "number", "missing file"],
)
def test_other_images_are_refused(images, message):
    with pytest.raises(UserError) as refused:
        task().predict(images)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_transform():
    with pytest.raises(UserError, match=r"task\.transform=null: Classify cannot prepare images without it"):
        task(transform=False).predict(Image.new("RGB", (4, 4)))
