import gzip
import re
import shutil
import struct

import pytest
import torch
from PIL import Image

from blitz.data.augment import Flip, Translate
from blitz.data.cifar10 import CIFAR10
from blitz.data.digits import Digits
from blitz.data.image_folder import ImageFolder
from blitz.data.mnist import MNIST

TEN = [str(i) for i in range(10)]


def grey(cls, root="", **options):
    settings = {"channels": 1, "image_size": 32, "fit": "pad", "mean": [0.5], "std": [0.5], "batch_size": 8}
    settings |= {"classes": TEN, "num_classes": 10}
    return cls(root=str(root), **settings | options)


def ready(data):
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def images(split):
    return split.take(torch.arange(len(split.labels)))[0]


def test_digits():
    data = ready(grey(Digits))
    sizes = {name: len(split.labels) for name, split in data.splits.items()}
    assert sum(sizes.values()) == 1797
    everything = torch.cat([images(split) for split in data.splits.values()])
    assert everything.shape == (1797, 1, 32, 32)
    assert len(everything.unique(dim=0)) == 1797, "no image is in two splits"


def test_validation_is_a_part_of_the_same_tensor():
    """And no copy of it."""
    splits = ready(grey(Digits)).splits
    assert splits["train"].images is splits["val"].images
    rows = torch.cat([splits["train"].rows, splits["val"].rows])
    assert torch.equal(rows.sort().values, torch.arange(1438))


def test_validation_is_the_same_for_every_seed_and_stratified():
    first, second = (ready(grey(Digits, seed=seed)).splits["val"] for seed in (1, 2))
    assert torch.equal(images(first), images(second))
    assert first.labels.bincount().min() >= 13
    assert not torch.equal(images(first), images(ready(grey(Digits, split_seed=1)).splits["val"]))


def test_the_official_test_split_is_untouched(mnist):
    """Against the official file itself, read here byte by byte."""
    data = ready(grey(MNIST, mnist))
    raw = gzip.decompress((mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert struct.unpack(">4i", raw[:16]) == (2051, 10000, 28, 28)
    official = torch.frombuffer(bytearray(raw[16:]), dtype=torch.uint8).reshape(10000, 1, 28, 28)
    assert torch.equal(data.splits["test"].images[:, :, 2:30, 2:30], official)
    assert len(data.splits["train"].labels) + len(data.splits["val"].labels) == 60000


def test_an_extracted_file_that_was_cut_off_is_extracted_anew(mnist, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(mnist / "MNIST" / "raw", raw, ignore=lambda _, names: [n for n in names if not n.endswith(".gz")])
    ready(grey(MNIST, tmp_path))
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (raw / name).write_bytes((raw / name).read_bytes()[:5000])
    data = ready(grey(MNIST, tmp_path))
    assert len(data.splits["test"].labels) == 10000
    assert data.splits["train"].images.shape == (60000, 1, 32, 32)


def test_cifar10_reads_what_torchvision_reads(tmp_path, monkeypatch):
    """The official archive's layout, made here with 20 images a batch and checksums to match."""
    import hashlib
    import pickle

    folder = tmp_path / CIFAR10_BASE
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 20, 3072), generator=generator, dtype=torch.uint8)
    labels = torch.arange(20) % 10
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    for i, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        raw = pickle.dumps({"data": pixels[i].numpy(), "labels": labels.tolist()})
        (folder / name).write_bytes(raw)
        lists["test_list" if i == 5 else "train_list"].append([name, hashlib.md5(raw).hexdigest()])
    meta = pickle.dumps({"label_names": TEN})
    (folder / "batches.meta").write_bytes(meta)
    for key, value in lists.items():
        monkeypatch.setattr(f"torchvision.datasets.CIFAR10.{key}", value)
    monkeypatch.setattr(
        "torchvision.datasets.CIFAR10.meta",
        {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(meta).hexdigest()},
    )
    rgb = {"channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3, "fit": "resize"}
    data = ready(grey(CIFAR10, tmp_path, val_fraction=0, **rgb))
    assert torch.equal(data.splits["train"].images, pixels[:5].reshape(100, 3, 32, 32))
    assert torch.equal(data.splits["test"].images, pixels[5].reshape(20, 3, 32, 32))
    assert torch.equal(data.splits["test"].labels, labels)
    assert "val" not in data.splits


CIFAR10_BASE = "cifar-10-batches-py"


def test_image_folder(folder):
    names = sorted(path.name for path in (folder / "train").iterdir())
    data = ready(grey(ImageFolder, folder, classes=names, num_classes=3, fit="crop", image_size=16, val_fraction=0.25))
    assert {name: len(split.labels) for name, split in data.splits.items()} == {"train": 27, "val": 9, "test": 12}
    assert data.splits["test"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_image_folder_with_its_own_validation(folder):
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


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"channels": 2}, "data.channels=2 is not valid: 1 is greyscale, 3 is RGB"),
        ({"fit": "squash"}, "data.fit=squash is not valid"),
        ({"mean": [0.5] * 3}, r"must have one value for each of 1 channels"),
        ({"num_classes": 9}, "data.num_classes=9 is not valid: data.classes names 10"),
    ],
)
def test_wrong_values_are_refused(options, answer):
    with pytest.raises(ValueError, match=re.escape(answer)):
        grey(Digits, **options)


def test_set_up_fails_where_the_tensors_disagree():
    with pytest.raises(ValueError, match=r"has a label 9, but .* names 4 classes"):
        ready(grey(Digits, classes=TEN[:4], num_classes=4))


@pytest.mark.parametrize("source", ["folder", "digits"])
def test_workers_give_the_same_batches(source, folder):
    """Two processes that fetch, against the whole split on the device: bit for bit, augmentation included."""
    names = sorted(path.name for path in (folder / "train").iterdir())
    augment = {"flip": Flip(), "translate": Translate(2)}

    def batches(**options):
        if source == "folder":
            data = ready(grey(ImageFolder, folder, classes=names, num_classes=3, augment=augment, **options))
        else:
            data = ready(grey(Digits, augment=augment, **options | {"batch_size": 500}))
        loader = data.train_dataloader()
        for epoch in range(2):
            loader.set_epoch(epoch)
            yield from loader

    ours = list(batches(loader="device"))
    theirs = list(batches(loader="workers", num_workers=2))
    assert len(ours) == len(theirs) > 4
    for (batch, labels), (others, other_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(batch, others)
        assert torch.equal(labels, other_labels)


def test_what_does_not_fit_is_not_loaded(folder):
    names = sorted(path.name for path in (folder / "train").iterdir())
    small, large = (
        ready(grey(ImageFolder, folder, classes=names, num_classes=3, memory_limit=limit)) for limit in (1e-6, 1.0)
    )
    assert isinstance(large.splits["train"].images, torch.Tensor)
    assert not isinstance(small.splits["test"].images, torch.Tensor)
    with pytest.raises(ValueError, match=r"data.loader=disk is not valid; there are auto, device, workers"):
        grey(Digits, loader="disk")
