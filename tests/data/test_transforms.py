"""Transforms against torchvision's and against plain definitions."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from blitz.data.transforms import Transform, array_to_tensor, fit, normalize, stratified_split, to_tensor
from blitz.errors import UserError


def test_normalize_is_torchvisions_to_the_last_bit():
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    expected = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    ours = normalize(images, *(torch.tensor(values).reshape(-1, 1, 1) for values in (mean, std)))
    for image, batch in zip(images, ours, strict=True):
        assert torch.equal(batch, expected(Image.fromarray(image.permute(1, 2, 0).numpy())))


COLOURS = {"L": 100, "RGB": (10, 20, 30), "RGBA": (10, 20, 30, 40), "LA": (100, 7), "1": 1, "CMYK": (9, 8, 7, 6)}


@pytest.mark.parametrize("mode", COLOURS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_any_mode_gets_the_channels(mode, channels):
    tensor = to_tensor(Image.new(mode, (4, 6), COLOURS[mode]), channels)
    assert tensor.shape == (channels, 6, 4)
    assert tensor.dtype == torch.uint8
    if mode.startswith("RGB") and channels == 3:
        assert tensor[:, 0, 0].tolist() == [10, 20, 30], "transparency is dropped, colour is kept"
    if mode == "L":
        assert (tensor == 100).all()


def test_palette():
    image = Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4)
    assert image.mode == "P"
    assert to_tensor(image, 3)[:, 0, 0].tolist() == [10, 200, 30]


def test_sixteen_bits_keep_their_upper_half():
    image = Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16))
    assert to_tensor(image, 1).flatten().tolist() == [0, 0, 1, 255]


def test_a_camera_held_sideways(tmp_path):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter, clockwise
    image.save(tmp_path / "photo.png", exif=exif)
    with Image.open(tmp_path / "photo.png") as photo:
        assert to_tensor(photo, 1).shape == (1, 4, 3)


@pytest.mark.parametrize("how", ["crop", "resize", "pad"])
@pytest.mark.parametrize("shape", [(20, 40), (40, 20), (7, 50), (32, 32), (100, 100), (1, 300)])
def test_fit_gives_the_size(how, shape):
    images = torch.full((2, 3, *shape), 200, dtype=torch.uint8)
    out = fit(images, 32, how)
    assert out.shape == (2, 3, 32, 32)
    assert out.dtype == torch.uint8
    inside = (out == 200).float().mean()
    assert inside == 1 if how != "pad" else inside > 0, "only padding brings in pixels that were not there"


def test_pad_keeps_every_pixel_in_the_middle():
    image = torch.randint(1, 256, (1, 1, 28, 28), dtype=torch.uint8)
    out = fit(image, 32, "pad")
    assert torch.equal(out[:, :, 2:30, 2:30], image)
    assert out.sum() == image.sum()


def test_crop_keeps_the_middle():
    image = torch.zeros(1, 32, 64, dtype=torch.uint8)
    image[:, :, 16:48] = 255
    assert (fit(image, 32, "crop") == 255).all()


def test_unknown_fit():
    with pytest.raises(UserError, match=r"data.fit=squash: no such method; expected crop, resize, pad"):
        fit(torch.zeros(1, 8, 8, dtype=torch.uint8), 32, "squash")


def test_transform_takes_pictures_and_tensors():
    transform = Transform(3, 8, "resize", [0.5] * 3, [0.5] * 3)
    picture = Image.new("RGB", (20, 10), (255, 0, 0))
    tensor = to_tensor(picture, 3)
    for images in (picture, [picture], tensor, tensor[None]):
        batch = transform(images)
        assert batch.shape == (1, 3, 8, 8)
        assert batch[0, :, 0, 0].tolist() == [1, -1, -1]


def test_stratified_split():
    labels = torch.tensor([0] * 100 + [1] * 10 + [2] * 3)
    rest, part = stratified_split(labels, 0.3, seed=1)
    assert labels[part].bincount().tolist() == [30, 3, 1]
    assert torch.equal(torch.cat([rest, part]).sort().values, torch.arange(113)), "each image is in one part, once"
    assert torch.equal(part, stratified_split(labels, 0.3, seed=1)[1])
    assert not torch.equal(part, stratified_split(labels, 0.3, seed=2)[1])


def test_images_that_are_not_uint8_are_refused():
    transform = Transform(1, 8, "resize", [0.5], [0.5])
    for refuse in (transform, transform.to_uint8, lambda images: normalize(images, transform.mean, transform.std)):
        with pytest.raises(UserError, match="the images are float32; expected uint8, with values from 0 to 255"):
            refuse(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1), (6, 4, 3), (6, 4, 4), (2, 6, 4, 3)])
def test_arrays(channels, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = array_to_tensor(array, channels)
    assert found.shape == (2 if len(shape) == 4 else 1, channels, 6, 4)
    last = array[-1] if len(shape) == 4 else array
    picture = Image.fromarray(last[..., 0] if last.shape[-1] == 1 else last)
    assert torch.equal(found[-1], to_tensor(picture, channels))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: cannot be read as an image \(not a regular file\)"):
        Transform(1, 8, "resize", [0.5], [0.5]).read(tmp_path / "pipe.png")
