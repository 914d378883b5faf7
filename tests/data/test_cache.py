"""Decoded images are read from a cache until a file of the split changes."""

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
    assert len(list((folder / ".blitz").iterdir())) == 2, "no temporary file is left"


def test_a_directory_that_cannot_be_written_gives_a_warning(folder, decoded):
    (folder / ".blitz").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be written .*: every run decodes the images again"):
        data = open_folder(folder)
    assert len(data.splits["test"].labels) == 12


def test_the_cache_is_not_a_class(folder):
    data = open_folder(folder)
    assert ".blitz" not in {path.name for path in (folder / "train").iterdir()}
    assert len(data.classes) == 3
