"""Decoded images are read from a cache until a file of the split changes."""

import os
import zlib

import pytest
import torch
from PIL import Image

from blitz.data import image_folder
from blitz.data.image_folder import ImageFolder
from tests.data.test_datamodule import grey, images, ready


@pytest.fixture
def decoded(monkeypatch):
    """Return the list of the paths decoded so far."""
    paths = []
    original = image_folder._decode

    def spy(path, **options):
        paths.append(path)
        return original(path, **options)

    monkeypatch.setattr(image_folder, "_decode", spy)
    return paths


def open_folder(folder, **options):
    names = sorted(path.name for path in (folder / "train").iterdir())
    return ready(grey(ImageFolder, folder, classes=names, num_classes=len(names), **options))


def count(decoded):
    """Number of images decoded since the last count. One image is decoded twice, for its shape."""
    n = len(set(decoded))
    decoded.clear()
    return n


def test_a_second_start_decodes_nothing_and_reads_the_same_images(folder, decoded):
    first = open_folder(folder)
    assert count(decoded) == 48
    second = open_folder(folder)
    assert count(decoded) == 0
    for name, split in first.splits.items():
        assert torch.equal(images(split), images(second.splits[name]))
        assert torch.equal(split.labels, second.splits[name].labels)


def test_any_change_of_the_files_invalidates_the_cache(folder, decoded):
    open_folder(folder)
    image = folder / "train" / "apple" / "0.png"
    changes = [
        lambda: Image.new("RGB", (20, 20), (1, 2, 3)).save(image),
        lambda: Image.new("RGB", (20, 20), (1, 2, 3)).save(folder / "train" / "apple" / "new.png"),
        lambda: image.rename(image.with_name("renamed.png")),
        lambda: (folder / "train" / "apple" / "new.png").unlink(),
    ]
    for change in changes:
        count(decoded)
        change()
        open_folder(folder)
        assert count(decoded) >= 36, "the whole split is decoded again"
        assert sum(path.name.startswith("train-") for path in (folder / ".blitz").iterdir()) == 1, (
            "and replaces the old"
        )


def test_each_setting_has_a_cache_of_its_own(folder, decoded):
    open_folder(folder)
    open_folder(folder, image_size=16)
    count(decoded)
    open_folder(folder)
    open_folder(folder, image_size=16)
    assert count(decoded) == 0


@pytest.mark.parametrize("length", [0, 10, 5000])
def test_a_damaged_cache_is_made_again(folder, decoded, length):
    first = open_folder(folder)
    file = next((folder / ".blitz").glob("train-*.pt"))
    file.write_bytes(file.read_bytes()[:length])
    count(decoded)
    second = open_folder(folder)
    assert count(decoded) == 36
    assert torch.equal(first.splits["train"].images, second.splits["train"].images)
    assert len(list((folder / ".blitz").iterdir())) == 4, "no temporary file is left"


def flipped(file):
    """Change one byte of the pixels, which torch.load does not notice."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def replaced(**changes):
    def replace(file):
        torch.save(torch.load(file) | changes, file)
        return file

    return replace


def fifo(file):
    file.unlink()
    os.mkfifo(file)
    return file


BLANK = torch.zeros(36, 1, 32, 32, dtype=torch.uint8)
DAMAGES = {
    "flipped bits": flipped,
    "other pixels": replaced(tensor=BLANK),
    "too few images": replaced(tensor=BLANK[:5], crc32=zlib.crc32(BLANK[:5].numpy().data)),
    "another shape": replaced(tensor=BLANK.reshape(36, 1, 16, 64), crc32=zlib.crc32(BLANK.numpy().data)),
    "another type": replaced(tensor=BLANK.view(torch.int8), crc32=zlib.crc32(BLANK.numpy().data)),
    "of another setting": replaced(name="train-1x32-crop-0.pt"),
    "without a checksum, as until 2026-11": lambda file: torch.save(torch.load(file)["tensor"], file),
    "of another kind": lambda file: file.write_bytes(b"not a tensor"),
    "a FIFO": pytest.param(fifo, marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_cache_that_is_not_what_its_name_says_is_made_again(folder, decoded, damage):
    first = open_folder(folder)
    damage(next((folder / ".blitz").glob("train-*.pt")))
    count(decoded)
    for again in (36, 0):
        assert torch.equal(first.splits["train"].images, open_folder(folder).splits["train"].images)
        assert count(decoded) == again


def test_a_file_that_was_replaced_with_its_size_and_time_is_noticed(folder, decoded):
    first = open_folder(folder, loader="workers", num_workers=0).checksums()
    image = folder / "train" / "apple" / "0.png"
    before = image.stat()
    content = bytearray(image.read_bytes())
    content[-1] ^= 1  # after the pixels
    image.write_bytes(content)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    open_folder(folder, loader="device")
    assert [name for name, value in open_folder(folder).checksums().items() if value == first[name]] == ["test"]


def test_a_directory_that_cannot_be_written_gives_a_warning(folder, decoded):
    (folder / ".blitz").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be written .*: every run reads all images again"):
        data = open_folder(folder)
    assert len(data.splits["test"].labels) == 12


def test_the_cache_is_not_a_class(folder):
    data = open_folder(folder)
    assert ".blitz" not in {path.name for path in (folder / "train").iterdir()}
    assert len(data.classes) == 3
