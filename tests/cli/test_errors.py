"""Every failure is explained in one line: the bad value and the valid choices, or the location of a bug."""

import importlib.util
import re

import pytest
import torch
from PIL import Image
from torchvision import datasets

from blitz.cli.errors import explain
from blitz.errors import UserError
from tests.conftest import error_of

WRONG = {
    "unknown key": (["optimizr.lr=0.1"], "optimizr.lr=0.1: no such key; did you mean optimizer.lr?"),
    "unknown key in a group": (["optimizer.lrr=0.1"], "optimizer.lrr=0.1: no such key; did you mean optimizer.lr?"),
    "unknown key that resembles none": (
        ["data.x_y_z_1=1"],
        "data.x_y_z_1=1: no such key; data has _target_, ",
        "; to add a key: +data.x_y_z_1=1",
    ),
    "unknown key, deleted": (["~optimizer.lrr"], "~optimizer.lrr: no such key; did you mean optimizer.lr?"),
    "unknown key of a group that is chosen": (
        ["optimizer=sgd", "optimizer.momentun=0"],
        "optimizer.momentun=0: no such key; did you mean optimizer.momentum?",
    ),
    "unknown key beside another mistake": (["optimizr.lr=1", "modl=x"], "no such key; did you mean optimizer.lr?"),
    "unknown key, added": (["+optimizer.weigt_decay=1"], "takes no weigt_decay; did you mean weight_decay?"),
    "unknown argument of a callback": (["+callback.checkpoint.save_topk=1"], "did you mean save_top_k?"),
    "unknown choice": (
        ["optimizer=sgdd"],
        "optimizer=sgdd: no such choice; did you mean sgd? expected one of adam, adamw, nesterov, rmsprop, sgd",
    ),
    "unknown choice of Hydra's": (["hydra/launcher=joblib"], "no such choice; expected one of basic, "),
    "unknown experiment": (["experiment=mnits"], "did you mean mnist?"),
    "wrong type, typed": (["seed=x"], "seed=x: Value 'x' of type 'str' could not be converted to Integer"),
    "wrong type, by signature": (
        ["trainer.max_epochs=many"],
        "trainer.max_epochs=many: not a valid value; expected a whole number",
    ),
    "wrong choice, by signature": (["trainer.precision=17"], "trainer.precision=17: not a valid value; expected 64, "),
    "wrong type of lr": (["optimizer.lr=fast"], "optimizer.lr=fast: not a valid value; expected a number >= 0"),
    "negative lr": (["optimizer.lr=-1"], "optimizer.lr=-1: not a valid value; expected a number >= 0"),
    "nan lr": (["optimizer.lr=nan"], "optimizer.lr=nan: not a number"),
    "batch size 0": (["data.batch_size=0"], "data.batch_size=0: not a valid value; expected a whole number >= 1"),
    "batch size too large": (
        ["data.batch_size=5000"],
        "data.batch_size=5000: larger than the training data; expected <= 1295",
    ),
    "missing value": (["data=image_folder"], "data.root must be given: add data.root=VALUE"),
    "no such directory": (["data=image_folder", "data.root=nowhere"], "data.root=nowhere: no directory nowhere/train"),
    "channels": (["model=resnet18"], "ResNet takes images", "3 channels", "data.channels=1"),
    "image size": (["data.image_size=8"], "data.image_size=8: too small for Net; expected 16 or more"),
    "metric": (
        ["optimized_metric=val/accuracy"],
        "optimized_metric=val/accuracy will not be logged; did you mean val/acc?",
    ),
    "monitor without validation": (
        ["data.val_fraction=0", "optimized_metric=null"],
        "callback.checkpoint.monitor=val/acc will not be logged",
    ),
    "grammar": (["optimizer.lr=[1"], "cannot read 'optimizer.lr=[1'"),
    "logger not installed": (["logger=mlflow"], "logger=mlflow: its package is not installed"),
    "no test": (
        ["trainer.limit_test_batches=0"],
        "limit_test_batches=0: a run takes at least one step and ends with a test",
    ),
    "never validated": (["trainer.limit_val_batches=0"], "optimized_metric=val/acc will not be logged"),
    "classes": (["data.num_classes=5"], "data.num_classes=5: not the number of data.classes; expected 10"),
    "device": (["device=gpu"], "device=gpu: this machine has no cuda device"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_override(name, train, tmp_path, capsys):
    overrides, *expected = WRONG[name]
    if name == "device" and torch.cuda.is_available():
        overrides, expected = ["device=mps"], ["device=mps: this machine has no mps device"]
    if name == "logger not installed" and importlib.util.find_spec("mlflow"):
        pytest.skip("mlflow is installed here")
    message = error_of(train, *overrides)
    assert all(part in message for part in expected), message
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [["-c", "job"], ["--cfg", "job"]])
def test_unknown_key_beside_an_option_of_hydra(options, command):
    message = error_of(command, "blitz-train", *options, "optimizr.lr=1")
    assert message == "blitz-train: optimizr.lr=1: no such key; did you mean optimizer.lr?"


def test_bug_is_reported_by_type_and_location(train, monkeypatch):
    def broken(self, images):
        raise KeyError("oops")

    monkeypatch.setattr("blitz.model.net.Net.forward", broken)
    message = error_of(train)
    start = "Error in call to target 'blitz.task.classify.Classify'"
    assert re.search(rf"{start}: KeyError: 'oops' \(\w+\.py:\d+; HYDRA_FULL_ERROR=1 shows the traceback\)", message), (
        message
    )


def test_value_error_of_a_library_is_a_bug():
    with pytest.raises(ValueError) as error:  # noqa: PT011 the test is about its message
        int("x")
    message = explain(error.value, "train", [])
    assert message.startswith("ValueError: invalid literal for int() with base 10: 'x' (test_errors.py:")


def test_user_error_behind_other_exceptions_is_found():
    error = RuntimeError("Error in call to target")
    error.__cause__ = UserError("data.root=x: no such\n  directory")
    assert explain(error, "train", []) == "data.root=x: no such directory"


def test_exceptions_that_refer_to_each_other_end():
    with pytest.raises(KeyError) as error:
        {}["first"]
    error.value.__cause__ = KeyError("second")
    error.value.__cause__.__cause__ = error.value
    assert explain(error.value, "train", []).startswith("KeyError: 'first' (test_errors.py:")


def test_no_network_and_no_data(train, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    message = error_of(train, "data=cifar10", f"data.root={tmp_path / 'data'}")
    assert f"CIFAR10 is not in {tmp_path / 'data'}" in message
    assert not (tmp_path / "data").exists()
    assert re.search(r"put \S*cifar-10-python\.tar\.gz there", message), message
    assert "data=digits" in message


@pytest.mark.parametrize("length", [0, 1000])
def test_incomplete_archive(train, tmp_path, monkeypatch, length):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    archive = tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"\x1f\x8b" + bytes(length))
    message = error_of(train, "data=mnist", f"data.root={tmp_path / 'data'}")
    assert f"train-images-idx3-ubyte.gz in {tmp_path / 'data'} is incomplete or corrupt" in message
    assert archive.stat().st_size == 2 + length


def test_directory_without_images(train, tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    assert "has no class directories" in error_of(train, "data=image_folder", f"data.root={tmp_path / 'images'}")


def test_class_without_images(train, folder):
    (folder / "train" / "empty").mkdir()
    message = error_of(train, "data=image_folder", f"data.root={folder}")
    assert f"{folder / 'train' / 'empty'}: no images in it" in message


def test_class_of_the_test_split_without_training_images(train, folder):
    (folder / "test" / "cherry").mkdir()
    message = error_of(train, "data=image_folder", f"data.root={folder}", "data.batch_size=8")
    assert f"{folder / 'test' / 'cherry'}: not a class of" in message


def test_no_test_split(train, folder):
    (folder / "test").rename(folder / "elsewhere")
    message = error_of(train, "data=image_folder", f"data.root={folder}", "data.batch_size=8")
    assert f"no directory {folder / 'test'}" in message


def test_unreadable_image_is_named(train, folder):
    bad = folder / "train" / "apple" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    assert f"{bad}: cannot be read as an image" in error_of(train, "data=image_folder", f"data.root={folder}")


def test_image_without_grey_levels_is_named(train, folder):
    bad = folder / "train" / "apple" / "3.tiff"
    Image.new("F", (20, 20)).save(bad)
    assert f"{bad}: cannot be read as an image" in error_of(train, "data=image_folder", f"data.root={folder}")


def test_run_directory_that_cannot_be_created(train, tmp_path):
    (tmp_path / "run").write_text("a file that is in the way of the directory")
    assert re.search(r": .*run", error_of(train))
