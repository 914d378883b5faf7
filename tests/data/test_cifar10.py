"""CIFAR-10 in the layout of the official archive, with few images."""

import hashlib
import pickle

import torch
from torchvision import datasets

from blitz.data.cifar10 import CIFAR10
from tests.data.test_datamodule import TEN, grey, ready


def test_cifar10_reads_what_torchvision_reads(tmp_path, monkeypatch):
    """The official archive's layout, made here with 20 images a batch and checksums to match."""
    folder = tmp_path / datasets.CIFAR10.base_folder
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
