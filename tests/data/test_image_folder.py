"""Image folders: classes, splits, files of any kind, and images that are decoded on demand."""

import os
import struct

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from blitz.config.checks import check_arguments
from blitz.data.augment import Flip, Translate
from blitz.data.image_folder import ImageFolder
from blitz.errors import UserError
from tests.data.test_datamodule import batches, grey, ready


def test_splits_and_labels(folder):
    names = sorted(path.name for path in (folder / "train").iterdir())
    data = ready(grey(ImageFolder, folder, classes=names, num_classes=3, fit="crop", image_size=16, val_fraction=0.25))
    assert {name: len(split.labels) for name, split in data.splits.items()} == {"train": 27, "val": 9, "test": 12}
    assert data.splits["test"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_own_validation_split_and_files_of_any_kind(folder):
    (folder / "test").rename(folder / "val")
    (folder / "val" / "apple").rename(folder / "apple")
    for split in ("val", "test"):
        (folder / split / "apple").mkdir(parents=True)
    Image.new("RGB", (9, 5), (200, 0, 0)).save(folder / "val" / "apple" / "Ä b.bmp")
    Image.new("RGBA", (40, 30), (200, 0, 0, 9)).save(folder / "test" / "apple" / "日本.png")
    (folder / "test" / "apple" / "notes.txt").write_text("not an image")
    names = sorted(path.name for path in (folder / "train").iterdir())
    data = ready(grey(ImageFolder, folder, classes=names, num_classes=3, batch_size=4))
    assert {name: len(split.labels) for name, split in data.splits.items()} == {"train": 36, "val": 9, "test": 1}


def test_a_split_above_the_memory_limit_stays_files(folder):
    names = sorted(path.name for path in (folder / "train").iterdir())
    small, large = (
        ready(grey(ImageFolder, folder, classes=names, num_classes=3, memory_limit=limit)) for limit in (1e-6, 1.0)
    )
    assert isinstance(large.splits["train"].images, torch.Tensor)
    assert not isinstance(small.splits["test"].images, torch.Tensor)


def test_workers_give_the_same_batches(folder):
    """Two processes that decode, against the whole split on the device: bit for bit, augmentation included."""
    names = sorted(path.name for path in (folder / "train").iterdir())
    options = {"classes": names, "num_classes": 3, "augment": {"flip": Flip(), "translate": Translate(2)}}
    expected = batches(ready(grey(ImageFolder, folder, loader="device", **options)))
    fetched = batches(ready(grey(ImageFolder, folder, loader="workers", num_workers=2, **options)))
    assert len(expected) == 10
    torch.testing.assert_close(fetched, expected, rtol=0, atol=0)


def open_folder(folder, **options):
    names = sorted(path.name for path in (folder / "train").iterdir())
    return ready(grey(ImageFolder, folder, **{"classes": names, "num_classes": None} | options))


def big_header(path):
    path.with_suffix(".ppm").write_bytes(b"P6\n30000 30000\n255\n")


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an image"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "decompression bomb": big_header,
    "no pixels": lambda path: path.with_suffix(".pgm").write_bytes(b"P5\n0 3\n255\n"),
    "a format without a decoder": lambda path: path.with_suffix(".h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)),
    "a texture of an unknown kind": lambda path: path.with_suffix(".dds").write_bytes(
        b"DDS " + struct.pack("<31I", 124, 0x1007, 8, 8, *[0] * 14, 32, 4, 0x31313131, *[0] * 10)
    ),
}


@pytest.mark.parametrize("loader", ["device", "workers"])
@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_an_image_that_cannot_be_read_is_named(folder, damage, loader):
    damage(folder / "train" / "apple" / "3.png")
    with pytest.raises(UserError, match=r"train/apple/3\.\w+: cannot be read as an image \(.+\)$"):
        open_folder(folder, loader=loader)


@pytest.mark.parametrize("kind", [MemoryError, RecursionError, NotImplementedError, RuntimeError, ZeroDivisionError])
def test_any_error_of_a_decoder_names_the_file(folder, kind, monkeypatch):
    def fail(*_):
        raise kind

    monkeypatch.setattr("blitz.data.transforms.to_tensor", fail)
    with pytest.raises(UserError, match=rf"0\.png: cannot be read as an image \({kind.__name__}\)$"):
        open_folder(folder)


def test_an_error_in_a_worker_is_the_same_line(folder):
    """Pillow verifies only the header of a JPEG file, so the rest may fail later."""
    for path in (folder / "train" / "apple").iterdir():
        pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(path.with_suffix(".jpg"))
        path.unlink()
    bad = folder / "train" / "apple" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:-2000])
    data = open_folder(folder, loader="workers", num_workers=2)
    with pytest.raises(UserError) as error:
        batches(data)
    assert str(error.value).startswith(f"{bad}: cannot be read as an image (image file is truncated")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
@pytest.mark.parametrize("loader", ["device", "workers"])
def test_a_file_that_is_not_regular_is_refused(folder, loader):
    path = folder / "test" / "apple" / "x.png"
    os.mkfifo(path)
    message = "apple/x.png: neither a regular file nor a link to one; expected an image"
    with pytest.raises(UserError, match=message):
        open_folder(folder, loader=loader)
    path.unlink()
    path.symlink_to("missing.png")
    with pytest.raises(UserError, match=message):
        open_folder(folder, loader=loader)


def test_files_that_are_not_used_are_counted(folder):
    assert "not used" not in open_folder(folder).describe(torch.device("cpu"))
    apple = folder / "train" / "apple"
    (apple / "more" / "deep").mkdir(parents=True)
    (apple / "more" / "deep" / "notes.txt").touch()
    for path in (apple / "more" / "a.png", apple / "more" / "deep" / "b.PNG", folder / "test" / "c.jpg"):
        path.touch()
    for path in (apple / "list.csv", apple / "raw.cr2", apple / ".DS_Store"):
        path.touch()
    (apple / "loop").symlink_to(apple)
    data = open_folder(folder)
    line = "images that are not directly in a class directory: 3; files of other kinds: 3"
    assert data.describe(torch.device("cpu"))["not used"] == line
    assert len(data.splits["train"].labels) + len(data.splits["val"].labels) == 36


def test_images_below_a_class_without_images_are_mentioned(folder):
    (folder / "train" / "fig" / "deep").mkdir(parents=True)
    (folder / "train" / "fig" / "deep" / "a.png").touch()
    with pytest.raises(UserError, match="fig: no images in it, but 1 in its subdirectories; expected"):
        open_folder(folder)


def test_checksums_are_those_of_the_files_for_every_loader(folder):
    found = [open_folder(folder, loader=loader, num_workers=0).checksums() for loader in ("device", "workers", "auto")]
    assert found[0] == found[1] == found[2]
    image = folder / "test" / "apple" / "0.png"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the same size, and the same pixels
    after = open_folder(folder).checksums()
    assert [name for name in after if after[name] != found[0][name]] == ["test"]


def test_a_misspelled_setting_is_refused(folder):
    with pytest.raises(UserError, match="takes no batchsize; did you mean batch_size"):
        check_arguments(OmegaConf.create({"data": {"_target_": "blitz.data.image_folder.ImageFolder", "batchsize": 4}}))
