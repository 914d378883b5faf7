"""Whatever goes wrong is said in one line, with the bad value, a non-zero exit, and nothing left half-made."""

import importlib.util
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torchvision import datasets

from tests.conftest import QUICK

WRONG = {
    "unknown key": (["optimizr.lr=0.1"], "optimizr.lr=0.1: no such key, did you mean optimizer.lr?"),
    "unknown key in a group": (["optimizer.lrr=0.1"], "optimizer.lrr=0.1: no such key, did you mean optimizer.lr?"),
    "unknown key, added": (["+optimizer.weigt_decay=1"], "takes no weigt_decay; did you mean weight_decay?"),
    "unknown argument of a callback": (["+callback.checkpoint.save_topk=1"], "did you mean save_top_k?"),
    "unknown choice": (["optimizer=sgdd"], "optimizer=sgdd: no such choice, did you mean sgd?; there are adam, adamw"),
    "unknown experiment": (["experiment=mnits"], "did you mean mnist?"),
    "wrong type, typed": (["seed=x"], "seed=x: Value 'x' of type 'str' could not be converted to Integer"),
    "wrong type, by signature": (
        ["trainer.max_epochs=many"],
        "trainer.max_epochs=many is not valid: it must be a whole number",
    ),
    "wrong choice, by signature": (["trainer.precision=17"], "trainer.precision=17 is not valid"),
    "wrong type of lr": (["optimizer.lr=fast"], "optimizer.lr=fast is not valid: it must be a number >= 0"),
    "negative lr": (["optimizer.lr=-1"], "optimizer.lr=-1 is not valid"),
    "nan lr": (["optimizer.lr=nan"], "optimizer.lr=nan is not a number"),
    "batch size 0": (["data.batch_size=0"], "data.batch_size=0 is not valid: it must be a whole number >= 1"),
    "batch size too large": (
        ["data.batch_size=5000"],
        "data.batch_size=5000: larger than the training data; expected <= 1295",
    ),
    "missing value": (["data=image_folder"], "data.root must be given: add data.root=VALUE"),
    "no such folder": (["data=image_folder", "data.root=nowhere"], "data.root=nowhere: no folder nowhere"),
    "channels": (["model=resnet18"], "data.channels=1: ResNet takes images with 3 channels; expected 3"),
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
    "logger not installed": (["logger=mlflow"], "logger=mlflow needs a package that is not installed"),
    "no test": (["trainer.limit_test_batches=0"], "trainer.limit_test_batches=0 is not valid"),
    "never validated": (["trainer.limit_val_batches=0"], "optimized_metric=val/acc will not be logged"),
    "classes": (["data.num_classes=5"], "data.num_classes=5: not the number of data.classes; expected 10"),
    "device": (["device=gpu"], "device=gpu: this machine has no cuda device"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_word(name, train, tmp_path, capsys):
    words, answer = WRONG[name]
    if name == "device" and torch.cuda.is_available():
        words, answer = ["device=mps"], "device=mps: this machine has no mps device"
    if name == "logger not installed" and importlib.util.find_spec("mlflow"):
        pytest.skip("mlflow is installed here")
    message = fails(train, *words)
    assert answer in message, message
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run").exists()


def fails(train, *words) -> str:
    with pytest.raises(SystemExit) as exit:
        train(*words)
    message = str(exit.value.code)
    assert message.startswith("blitz-")
    assert "\n" not in message
    return message


def test_in_a_process_of_its_own():
    """The whole of stderr is that one line, and torch was not waited for."""
    probe = "from blitz.train import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    words = [sys.executable, "-c", f"import sys; {probe}", "optimizr.lr=1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "blitz-train: optimizr.lr=1: no such key, did you mean optimizer.lr?\n"
    assert done.stdout == "False\n"


def test_full_error_gives_the_traceback(train, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="larger than the training data"):
        train("data.batch_size=5000")


def test_nan_loss_says_step_and_lr_and_leaves_a_record(train, tmp_path):
    message = fails(train, "optimizer=sgd", "optimizer.lr=1e30", "schedule=constant", *QUICK)
    assert re.search(r"the loss is (nan|inf) at step 2, with lr 1e\+30", message), message
    run = tmp_path / "run"
    assert "FloatingPointError" in (run / "error.txt").read_text()
    assert not (run / "metrics.json").exists()
    assert not list(run.glob("checkpoints/*"))


def test_a_bug_is_named_by_type_and_place(train, monkeypatch):
    def broken(self, images):
        raise KeyError("oops")

    monkeypatch.setattr("blitz.model.net.Net.forward", broken)
    assert re.search(r"KeyError: 'oops' \(.*; HYDRA_FULL_ERROR=1 shows all of it\)", fails(train))


def test_no_network_no_data(train, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    message = fails(train, "data=cifar10", f"data.root={tmp_path / 'data'}")
    assert f"CIFAR10 is not in {tmp_path / 'data'}" in message
    assert not (tmp_path / "data").exists()
    assert "put cifar-10-python.tar.gz there" in message
    assert "data=digits" in message


@pytest.mark.parametrize("length", [0, 1000])
def test_half_downloaded_archive(train, tmp_path, monkeypatch, length):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    archive = tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"\x1f\x8b" + bytes(length))
    message = fails(train, "data=mnist", f"data.root={tmp_path / 'data'}")
    assert f"train-images-idx3-ubyte.gz in {tmp_path / 'data'} is incomplete or corrupt" in message
    assert archive.stat().st_size == 2 + length


def test_folder_without_images(train, tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    assert "has no class folders" in fails(train, "data=image_folder", f"data.root={tmp_path / 'images'}")


def test_empty_class(train, folder):
    (folder / "train" / "empty").mkdir()
    message = fails(train, "data=image_folder", f"data.root={folder}")
    assert f"{folder / 'train' / 'empty'}: no images in it" in message


def test_class_of_the_test_split_that_is_not_trained(train, folder):
    (folder / "test" / "cherry").mkdir()
    message = fails(train, "data=image_folder", f"data.root={folder}", "data.batch_size=8")
    assert f"{folder / 'test' / 'cherry'}: not a class of" in message


def test_no_test_split(train, folder):
    (folder / "test").rename(folder / "elsewhere")
    message = fails(train, "data=image_folder", f"data.root={folder}", "data.batch_size=8")
    assert f"no directory {folder / 'test'}" in message


def test_unreadable_image_is_named(train, folder):
    bad = folder / "train" / "apple" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    assert f"{bad}: cannot be read as an image" in fails(train, "data=image_folder", f"data.root={folder}")


def test_image_of_a_kind_that_has_no_grey_levels(train, folder):
    bad = folder / "train" / "apple" / "3.tiff"
    Image.new("F", (20, 20)).save(bad)
    assert f"{bad}: cannot be read as an image" in fails(train, "data=image_folder", f"data.root={folder}")


def test_a_run_is_never_overwritten(train, tmp_path):
    run = train(*QUICK)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert "holds a run already" in fails(train, *QUICK)
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "error.txt"}
    assert after == before


def test_a_folder_that_cannot_be_made(train, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    assert re.search(r": .*run", fails(train))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size to stand for a full disk")
@pytest.mark.parametrize(
    ("kib", "file"),
    [(1, "environment.json"), (200, "checkpoints/best.ckpt")],
    ids=["at the start", "at the first checkpoint"],
)
def test_full_disk(kib, file, tmp_path):
    """No file can grow past a size: first environment.json cannot be written, then no checkpoint can."""
    run = tmp_path / "run"
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({kib} * 1024,) * 2)"
    program = f"{limit}; from blitz.train import main; main()"
    words = [sys.executable, "-c", program, *QUICK, f"hydra.run.dir={run}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == f"blitz-train: File too large: {run / file}\n"
    if kib == 1:
        assert not run.exists()
    else:
        assert "File too large" in (run / "error.txt").read_text()
        assert not list(run.glob("checkpoints/*"))
        assert not (run / "metrics.json").exists()


def test_not_a_checkpoint(command, tmp_path):
    file = tmp_path / "model.ckpt"
    file.write_text("not a checkpoint")
    for words, answer in {
        f"checkpoint={file}": "not a checkpoint, or a damaged one",
        f"checkpoint={tmp_path / 'none.ckpt'}": "no such run or checkpoint",
        f"run={tmp_path}": "is it a run's folder?",
    }.items():
        with pytest.raises(SystemExit) as exit:
            command("blitz-eval", words)
        assert answer in str(exit.value.code)
    with pytest.raises(SystemExit) as exit:
        command("blitz-eval")
    assert "run=DIR or checkpoint=FILE" in str(exit.value.code)


def test_checkpoint_of_another_architecture(train, command):
    run = train(*QUICK)
    file = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["config"]["model"]["_target_"] = "torchvision.models.squeezenet1_1"
    checkpoint["config"]["model"] = {"_target_": "torchvision.models.squeezenet1_1", "num_classes": 10}
    torch.save(checkpoint, file)
    with pytest.raises(SystemExit) as exit:
        command("blitz-eval", f"checkpoint={file}")
    assert "its weights do not fit torchvision.models.squeezenet1_1" in str(exit.value.code)


@pytest.mark.parametrize("name", ["blitz-train", "blitz-eval"])
def test_help_lists_the_choices_and_the_keys(name, command, capsys):
    with pytest.raises(SystemExit) as exit:
        command(name, "--help")
    assert not exit.value.code
    out = capsys.readouterr().out
    assert "device: auto, cpu" in out
    assert name in out
    if name == "blitz-train":
        assert "optimizer: adam, adamw" in out
        assert "batch_size: 32" in out
        assert "$(blitz-train -sc install=bash)" in out
