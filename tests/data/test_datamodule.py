"""Splits, checks and loaders that all data sets share."""

import math
import re
from typing import get_type_hints

import pytest
import torch
from omegaconf import OmegaConf

from blitz.config.checks import check_arguments
from blitz.config.instantiate import instantiate
from blitz.data.augment import Flip, Translate
from blitz.data.datamodule import TRANSFORM_KEYS, Batching, ImageDataModule, ImageSettings
from blitz.data.digits import Digits
from blitz.data.loader import Split
from blitz.data.transforms import Transform, fit
from blitz.errors import UserError

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


def batches(data):
    """Two epochs of training batches."""
    loader = data.train_dataloader()
    found = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        found += loader
    return found


def images(split):
    return split.take(torch.arange(len(split.labels)))[0]


def test_validation_shares_the_tensor_of_the_training_images():
    splits = ready(grey(Digits)).splits
    assert splits["train"].images is splits["val"].images
    rows = torch.cat([splits["train"].rows, splits["val"].rows])
    assert torch.equal(rows.sort().values, torch.arange(1438))


def test_validation_is_the_same_for_every_seed_and_stratified():
    first, second = (ready(grey(Digits, seed=seed)).splits["val"] for seed in (1, 2))
    assert torch.equal(images(first), images(second))
    assert first.labels.bincount().min() >= 13
    assert not torch.equal(images(first), images(ready(grey(Digits, split_seed=1)).splits["val"]))


class Raw(ImageDataModule):
    """One white, wide image per class, of another size than the settings say."""

    def read(self, name):
        return None if name == "val" else Split(torch.full((3, 1, 4, 8), 255, dtype=torch.uint8), torch.arange(3))


@pytest.mark.parametrize("method", ["crop", "resize", "pad"])
def test_raw_images_are_fitted(method):
    options = {"image_size": 16, "fit": method, "classes": TEN[:3], "num_classes": 3, "batch_size": 1}
    data = ready(grey(Raw, val_fraction=0, **options))
    for name in ("train", "test"):
        assert torch.equal(data.splits[name].images, fit(data.read(name).images, 16, method))
    assert data.splits["train"].images.shape == (3, 1, 16, 16)


def test_images_of_the_right_size_are_not_copied():
    images = torch.zeros(3, 1, 32, 32, dtype=torch.uint8)

    class Fitting(Raw):
        def read(self, name):
            return super().read(name) and Split(images, torch.arange(3))

    data = ready(grey(Fitting, classes=TEN[:3], num_classes=3, batch_size=1, val_fraction=0))
    assert data.splits["train"].images is data.splits["test"].images is images


RECORDED = {  # the data of a run that was recorded with num_classes and every key
    "_target_": "blitz.data.mnist.MNIST", "root": "data", "classes": TEN, "num_classes": 10, "channels": 1,
    "image_size": 32, "fit": "pad", "mean": [0.1], "std": [0.275], "batch_size": 128, "eval_batch_size": 500,
    "val_fraction": 0.1, "split_seed": 0, "seed": 1, "augment": {}, "loader": "auto", "memory_limit": 4.0,
    "num_workers": None,
}  # fmt: skip


def test_a_recorded_config_with_flat_keys_builds():
    check_arguments(OmegaConf.create({"data": RECORDED}))
    data = instantiate(RECORDED | {"loader": "workers", "num_workers": 3})
    assert (data.num_classes, data.batch_size, data.transform.shape) == (10, 128, (1, 32, 32))
    assert data.batching == Batching(128, 500, "workers", 4.0, 3)


def test_the_settings_are_the_arguments_of_transform_and_batching():
    """Their names are in three places, which a type checker does not compare."""
    keys = get_type_hints(ImageSettings)
    transform = {name: kind for name, kind in get_type_hints(Transform.__init__).items() if name != "return"}
    assert tuple(transform) == TRANSFORM_KEYS
    assert list(keys) == [*transform, *get_type_hints(Batching)]
    assert {key: keys[key] for key in get_type_hints(Batching)} == get_type_hints(Batching)


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"batchsize": 4}, "data.batchsize: blitz.data.mnist.MNIST takes no batchsize; did you mean batch_size?"),
        ({"batch_size": "many"}, "data.batch_size=many: not a valid value; expected a whole number"),
        ({"loader": "disk"}, "data.loader=disk: not a valid value; expected auto, device, workers"),
        ({"fit": "squash"}, "data.fit=squash: not a valid value; expected crop, resize, pad"),
        ({"memory_limit": "x"}, "data.memory_limit=x: not a valid value; expected a number"),
    ],
)
def test_settings_are_checked_before_anything_is_built(change, answer):
    with pytest.raises(UserError, match=re.escape(answer)):
        check_arguments(OmegaConf.create({"data": RECORDED | change}))


def test_a_setting_that_does_not_exist_is_refused_in_a_notebook():
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'"):
        grey(Digits, batchsize=4)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"channels": 2}, "data.channels=2: not a valid number; expected 1 (greyscale) or 3 (RGB)"),
        ({"fit": "squash"}, "data.fit=squash: no such method; expected crop, resize, pad"),
        ({"mean": [0.5] * 3}, "data.mean=[0.5, 0.5, 0.5]: not a valid number of values; expected 1"),
        ({"num_classes": 9}, "data.num_classes=9: not the number of data.classes; expected 10"),
        ({"loader": "disk"}, "data.loader=disk: no such loader; expected auto, device, workers"),
        ({"std": [0]}, "data.std=[0], data.mean=[0.5]: images cannot be normalized with them; expected finite numbers"),
        ({"std": [-1.0]}, "data.std=[-1.0], data.mean=[0.5]: images cannot be normalized with them"),
        ({"std": [1e-50]}, "data.std=[1e-50], data.mean=[0.5]: images cannot be normalized with them"),
        ({"std": [math.inf]}, "data.std=[inf], data.mean=[0.5]: images cannot be normalized with them"),
        ({"mean": [-math.inf]}, "data.std=[0.5], data.mean=[-inf]: images cannot be normalized with them"),
        ({"mean": [math.nan]}, "data.mean=[nan]: not valid; expected a list of 1 number"),
        ({"mean": 0.5}, "data.mean=0.5: not valid; expected a list of 1 number"),
        ({"image_size": 0}, "data.image_size=0: not a valid number; expected a whole number from 1 to 16384"),
        ({"image_size": 8.0}, "data.image_size=8.0: not a valid number; expected a whole number from 1 to 16384"),
        ({"batch_size": 0}, "data.batch_size=0: not a valid number; expected a whole number >= 1"),
        ({"eval_batch_size": True}, "data.eval_batch_size=True: not a valid number; expected a whole number >= 1"),
        ({"num_workers": -1}, "data.num_workers=-1: not a valid number; expected a whole number from 0 to 256"),
        ({"num_workers": 10**6}, "data.num_workers=1000000: not a valid number; expected a whole number from 0 to 256"),
        ({"memory_limit": 0}, "data.memory_limit=0: not a valid number; expected a number > 0"),
        ({"memory_limit": math.nan}, "data.memory_limit=nan: not a valid number; expected a number > 0"),
        ({"val_fraction": 1.0}, "data.val_fraction=1.0: not a valid number; expected a number >= 0 and < 1"),
        ({"val_fraction": -0.1}, "data.val_fraction=-0.1: not a valid number; expected a number >= 0 and < 1"),
        ({"classes": ["a"], "num_classes": 1}, "data.classes=['a']: too few classes; expected at least two"),
        ({"classes": ["a", "1", 1], "num_classes": 3}, "data.classes=['a', '1', '1']: '1' occurs 2 times; expected"),
        ({"classes": ["a", ""], "num_classes": 2}, "data.classes=['a', '']: a name is empty; expected"),
        ({"classes": "abc", "num_classes": 3}, "data.classes=abc: not valid; expected a list of names"),
        ({"classes": [True, False], "num_classes": 2}, "data.classes=[True, False]: not valid; expected a list of"),
        ({"augment": [Flip()]}, "not valid; expected augmentations by name"),
        ({"augment": {"x": 3}}, "data.augment.x=3: it has no draw(); expected an augmentation, or null"),
    ],
)
def test_wrong_values_are_refused(options, answer):
    with pytest.raises(UserError, match=re.escape(answer)):
        grey(Digits, **options)


def test_an_augmentation_can_be_removed():
    assert grey(Digits, augment={"flip": None}).augment == grey(Digits, augment=None).augment == []


def test_num_classes_need_not_be_given():
    assert grey(Digits, num_classes=None).num_classes == 10


@pytest.mark.parametrize(
    ("cls", "options", "answer"),
    [
        (Digits, {"classes": TEN[:4], "num_classes": 4}, "data.classes: 4 names, but the data has a label 9"),
        (Raw, {"channels": 3}, "the data's images are 1x32x32, but data.channels and data.image_size say 3x32x32"),
        (Digits, {"val_fraction": 1e-4}, "data.val_fraction=0.0001: no image of any class is left for validation"),
        (Digits, {"val_fraction": 0.999}, "data.val_fraction=0.999: no image of class 0 is left for training"),
        (Digits, {"batch_size": 5000}, "data.batch_size=5000: larger than the training data; expected <= 1295"),
    ],
)
def test_setup_refuses_data_that_contradict_the_settings(cls, options, answer):
    with pytest.raises(UserError, match=re.escape(answer)):
        ready(grey(cls, **options))


def test_workers_give_the_same_batches():
    options = {"augment": {"flip": Flip(), "translate": Translate(2)}, "batch_size": 500}
    expected = batches(ready(grey(Digits, loader="device", **options)))
    fetched = batches(ready(grey(Digits, loader="workers", num_workers=2, **options)))
    assert len(expected) == 6
    torch.testing.assert_close(fetched, expected, rtol=0, atol=0)


class Given(ImageDataModule):
    """Three splits that the test gives."""

    split = Split(torch.zeros(20, 1, 32, 32, dtype=torch.uint8), torch.arange(20) % 10)

    def read(self, name):
        return None if name == "val" else self.split


LABELS = Given.split.labels


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (
            {"images": torch.randn(20, 1, 32, 32)},
            "has images of type torch.float32; expected uint8, with values from 0",
        ),
        ({"images": torch.zeros(20, 1, 32, 32, dtype=torch.int8)}, "has images of type torch.int8; expected uint8"),
        ({"labels": LABELS - 1}, "has a label -1; expected labels from 0 to 9"),
        (
            {"labels": LABELS.int()},
            "has labels of type torch.int32 (20,); expected a tensor of int64, one for",
        ),
        ({"labels": LABELS[:, None]}, "has labels of type torch.int64 (20, 1); expected a tensor of int64"),
        ({"labels": LABELS.tolist()}, "has labels of type list; expected a tensor of int64"),
        ({"labels": LABELS[:19]}, "has 19 labels; expected one for each of its 20 images"),
        ({"images": Given.split.images[:0], "labels": LABELS[:0]}, "is empty; expected at least one image"),
    ],
)
def test_a_split_that_cannot_be_used_is_refused(change, answer):
    data = grey(Given)
    data.split = Given.split._replace(**change)
    with pytest.raises(UserError, match=re.escape(f"data: the train split of Given {answer}")):
        data.setup("fit")


class Undecoded:
    """Random images, decoded on demand; counts the images that this process has decoded."""

    def __init__(self, n, dtype=torch.uint8):
        self.n, self.dtype, self.decoded = n, dtype, 0

    def __len__(self):
        return self.n

    def __getitem__(self, rows):
        self.decoded += len(rows)
        return rows.reshape(-1, 1, 1, 1).expand(-1, 1, 32, 32).to(self.dtype)

    def checksum(self):
        return b"undecoded"


def undecoded(dtype=torch.uint8, **options):
    data = grey(Given, val_fraction=0, **options)
    data.split = Split(Undecoded(20, dtype), LABELS)
    return data


@pytest.mark.parametrize("loader", ["auto", "workers"])
def test_undecoded_images_go_through_workers(loader):
    data = ready(undecoded(loader=loader, num_workers=2))
    assert data.describe(torch.device("cpu"))["images"] == "1×32×32, 10 classes, 2 workers"
    before = data.split.images.decoded
    expected = batches(ready(undecoded(loader="device")))
    torch.testing.assert_close(batches(data), expected, rtol=0, atol=0)
    assert data.split.images.decoded == before, "none in this process"


def test_undecoded_images_are_decoded_once_for_the_device():
    data = ready(undecoded(loader="device"))
    assert data.describe(torch.device("cpu"))["images"] == "1×32×32, 10 classes, whole on cpu"
    before = data.split.images.decoded
    batches(data)
    assert data.split.images.decoded == before
    assert data.checksums() == ready(undecoded()).checksums()


def test_undecoded_images_without_workers():
    data = ready(undecoded(num_workers=0))
    assert data.describe(torch.device("cpu"))["images"].endswith("fetched by the training process")
    assert len(batches(data)) == 6


def test_splits_that_differ_in_their_loader_are_described_one_by_one():
    data = grey(Given, val_fraction=0, num_workers=1)
    data.setup("fit")
    data.split = Split(Undecoded(20), LABELS)
    data.setup("test")
    assert data.describe(torch.device("cpu"))["images"] == "1×32×32, 10 classes, train whole on cpu, test 1 worker"


@pytest.mark.parametrize("loader", ["device", "workers"])
def test_undecoded_images_that_are_not_uint8_are_refused(loader):
    with pytest.raises(UserError, match=r"has images of type torch.float32; expected uint8"):
        ready(undecoded(torch.float32, loader=loader))
