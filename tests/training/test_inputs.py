"""Files and splits as inputs: order, and one line for whatever cannot be used."""

import os
import threading

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from torch.utils.data import DataLoader, TensorDataset

from blitz.data.digits import Digits
from blitz.errors import UserError
from blitz.training import inputs
from blitz.training.inputs import FileBatches, describe_failure, file_batches, find_files, num_samples, split_loader

DIGITS = {"root": "", "classes": [str(i) for i in range(10)], "channels": 1, "image_size": 8, "fit": "resize",
          "mean": [0.3], "std": [0.3], "batch_size": 32}  # fmt: skip


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("b.png", "a-b/1.png", "a/2.PNG", "a/10.png", "a/x.txt", ".h/1.png", "a/.h.png", "c[0].png", "c0.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    {
        ".": ["./a/10.png", "./a/2.PNG", "./a-b/1.png", "./b.png", "./c0.png", "./c[0].png"],
        "a": ["a/10.png", "a/2.PNG"],
        "a/x.txt": ["a/x.txt"],
        "*.png": ["b.png", "c0.png", "c[0].png"],
        "**/1*": ["a/10.png", "a-b/1.png"],
        "c[0].png": ["c[0].png"],
        "[bc]*": ["b.png", "c0.png", "c[0].png"],
    }.items(),
)
def test_files_are_in_the_order_of_their_paths(given, expected, tree):
    assert find_files(given, {".png"}) == [path.replace("/", os.sep) for path in expected]


@pytest.mark.parametrize("given", ["none.png", "none*", "a/*.jpg"])
def test_no_file(given, tree):
    with pytest.raises(UserError, match=r"no such file; expected an image, a directory, a pattern such as"):
        find_files(given, {".png"})


def test_directory_without_images(tmp_path):
    with pytest.raises(UserError, match=r"no such file; expected files whose names end with \.png, \.jpg or a similar"):
        find_files(str(tmp_path), {".png", ".jpg", ".xyz"})


class Numbers:
    """Read the number in a file's name. Odd files cannot be read. Count the files that were read so far."""

    extensions = (".txt",)

    def __init__(self):
        self.read_so_far = 0
        self.lock = threading.Lock()

    def read(self, path):
        with self.lock:
            self.read_so_far += 1
        if int(path) % 2:
            raise UserError(f"{path}: odd")
        return torch.tensor([int(path)])

    def __call__(self, batch):
        return batch * 10


def test_files_that_cannot_be_read_are_skipped():
    batches = FileBatches([str(i) for i in range(15)], Numbers(), batch_size=3)
    assert num_samples(batches) == 15
    found = [batch.flatten().tolist() for batch, targets in batches if targets is None]
    assert found == [[0, 20, 40], [60, 80, 100], [120, 140]]
    assert batches.names == [str(i) for i in range(0, 15, 2)]
    assert batches.skipped == [f"{i}: odd" for i in range(1, 15, 2)]


def test_only_a_few_files_are_in_memory():
    numbers = Numbers()
    batches = iter(FileBatches([str(2 * i) for i in range(1000)], numbers, batch_size=4))
    next(batches)
    assert numbers.read_so_far <= 4 + 4 + 1
    batches.close()


def test_failures():
    assert describe_failure("a", ["a: broken"]) == "a: broken"
    assert describe_failure("a", ["a: x", "b: y"]) == "inputs=a: none of the 2 files can be read, such as a: x"
    assert describe_failure("test", []) == "inputs=test: there is no sample; expected at least one"
    with pytest.raises(UserError, match=r"^inputs=a\.png: BoringModel has no transform that reads files; expected"):
        file_batches("a.png", BoringModel(), None)


def test_split_of_a_data_module_of_blitz():
    data = Digits(**DIGITS)
    data.setup("fit")
    loader = split_loader("train", BoringModel(), data)
    assert num_samples(loader) == len(data.splits["train"].labels)
    labels = torch.cat([labels for _, labels in loader])
    assert torch.equal(labels, data.splits["train"].take(torch.arange(len(labels)))[1])
    with pytest.raises(UserError, match="inputs=test: the data has no such split; expected train or val"):
        split_loader("test", BoringModel(), data)


def test_split_of_another_data_module():
    class OnlyTest(BoringDataModule):
        def test_dataloader(self):
            return DataLoader(TensorDataset(torch.rand(5, 2)))

    class Several(BoringModel):
        def val_dataloader(self):
            return [1, 2]

    task = BoringModel()
    assert num_samples(split_loader("test", task, OnlyTest())) == 5
    with pytest.raises(UserError, match=r"inputs=train: OnlyTest has no split_dataloader, which reads .* expected"):
        split_loader("train", task, OnlyTest())
    with pytest.raises(UserError, match="inputs=val: Several has 2 loaders of this split; expected one"):
        split_loader("val", Several(), None)
    assert set(inputs.SPLITS) == {"train", "val", "test"}
