"""Image folders: classes, splits, files of any kind, and images that are decoded on demand."""

import torch
from PIL import Image

from blitz.data.augment import Flip, Translate
from blitz.data.image_folder import ImageFolder
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
