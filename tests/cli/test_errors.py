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
    "wrong type, typed": (["seed=x"], "seed=x: not a valid value; expected a whole number"),
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
        ["data.val_fraction=0", "optimized_metric=null", "callback.checkpoint.monitor=val/acc"],
        "callback.checkpoint.monitor=val/acc will not be logged: there is no validation with data.val_fraction=0",
        "expected a larger data.val_fraction, or callback.checkpoint.monitor=train/acc",
    ),
    "no object": (["task.net=1"], "task.net=1: not a valid value; expected an object: a _target_ with its arguments"),
    "no factory": (["task.optimizer=''"], "task.optimizer='': not a valid value; expected an object"),
    "no object of a class of blitz": (
        ["task.transform=inf"],
        "task.transform=inf: not a valid value; expected an object",
    ),
    "no partial": (["task.schedule=1e-30"], "task.schedule=1e-30: not a valid value; expected an object"),
    "null in place of a number": (
        ["callback.last.every_n_steps=null"],
        "callback.last.every_n_steps=null: not a valid value; expected a whole number",
    ),
    "null in place of a list": (["data.mean=null"], "data.mean=null: not a valid value; expected a list"),
    "text in place of a list": (["optimizer.betas=a"], "optimizer.betas=a: not a valid value; expected a list"),
    "number in place of a path": (["callback.checkpoint.dirpath=1"], "dirpath=1: not a valid value; expected text"),
    "truth value in place of a number": (
        ["device.devices=true"],
        "device.devices=true: not a valid value; expected a list, text, a whole number",
    ),
    "number too large for torch": (["data.eval_batch_size=9223372036854775808"], "eval_batch_size=", "too large"),
    "size too large": (["data.image_size=1000000000"], "expected a whole number from 1 to 16384"),
    "never validated, by the epoch": (["trainer.check_val_every_n_epoch=-9"], "n_epoch=-9: not a valid value"),
    "never validated, by the step": (["trainer.val_check_interval=0"], "val_check_interval=0: not a valid value; "),
    "monitor of nothing": (
        ["schedule=plateau", "optimized_metric=null"],
        "schedule.monitor=null: it needs a metric; expected one in optimized_metric",
    ),
    "largest loss": (["optimized_metric=val/loss"], "direction=max: it would select", "expected direction=min"),
    "no such direction": (["direction=down"], "direction=down: not a valid value; expected max or min"),
    "part that the task does not use": (
        ["task.optimizer=null", "~schedule"],
        "optimizer=torch.optim.AdamW: the task",
        "expected ~optimizer",
    ),
    "empty profiler": (["trainer.profiler="], "trainer.profiler=", "it can only be one of ['simple', 'advanced'"),
    "no devices": (["trainer.devices=0"], "trainer.devices=0: "),
    "no callback": (["callback.last=abc"], "callback.last=abc: not a callback; expected a _target_ and its arguments"),
    "no target": (["model._target_=[]"], "model._target_=[]: not the name of a class; expected one"),
    "open interpolation": ([r"model._target_='${'"], "invalid interpolation; expected ${KEY}"),
    "grammar": (["optimizer.lr=[1"], "cannot read 'optimizer.lr=[1'", "the bracket [ is not closed"),
    "null for a group": (
        ["optimizer=null"],
        "optimizer=null: not the name of a config; expected optimizer= one of adam",
    ),
    "null for a group that a run can do without": (["schedule=null"], "constant, cosine", "to have none: ~schedule"),
    "null for a group with a config of that name": (["logger=null"], "to have none: logger=none"),
    "null for a recipe": (
        ["experiment=null"],
        "expected experiment= one of autoencode, cifar10",
        "to have none: no experiment=",
    ),
    "choice added": (["+optimizer=sgd"], "+optimizer=sgd: optimizer is already in the config; expected optimizer=sgd"),
    "several configs of a group with one object": (["model=[net,resnet18]"], "model=[net,resnet18]: not the name of a"),
    "list of numbers for a group": (["trainer=[0.5,nan]"], "trainer=[0.5,nan]: not the name of a config; expected"),
    "list of lists for a group": (["device=[[1]]"], "device=[[1]]: not the name of a config; expected device= one of"),
    "dictionary for a group": (["device={a: 1}"], "device={a: 1}: not the name of a config; expected device= one of"),
    "file of another group": (["trainer=../data/mnist"], "trainer=../data/mnist: not the name of a config; expected"),
    "absolute path for a group": (["device=/dev/null"], "device=/dev/null: not the name of a config; expected"),
    "interpolated choice": (["data=${oc.env:HOME}"], "data=${oc.env:HOME}: no such choice; expected one of cifar10"),
    "choice of Hydra's group added": (
        ["+hydra=default"],
        "+hydra=default: hydra is already in the config; expected hy",
    ),
    "choice added beside a correct +": (
        ["+device=cpu", "+trainer.max_time=00:00:00:10"],
        "+device=cpu: device is already in the config; expected device=cpu",
    ),
    "recipe added": (["+experiment=mnist"], "+experiment=mnist: experiment is already in the config; expected exp"),
    "group of Hydra deleted": (["~hydra"], "~hydra: this group cannot be deleted; expected hydra= one of default"),
    "key below a group": (["optimizer/foo=1"], "optimizer/foo=1: no such key; optimizer has _partial_, _target_"),
    "key added that exists": (
        ["+data.mean=1"],
        "+data.mean=1: data.mean is already in the config; expected data.mean=1",
    ),
    "key below a list": (["optimizer.betas.a=-1"], "optimizer.betas.a=-1: optimizer.betas is a list, which has no a"),
    "key below a truth value": (
        ["compile.a=auto"],
        "compile.a=auto: compile is false, which has no a; expected compile",
    ),
    "key below a text": (
        ["+callback.checkpoint.dirpath.a=1"],
        "dirpath is ${run_dir}/checkpoints, which has no a; expected callback.checkpoint.dirpath=VALUE",
    ),
    "element of an interpolated list": (
        ["data=image_folder", "data.root=x", "data.classes.0=a"],
        "data.classes.0=a: data.classes is ${class_folders:${.root}}, which has no 0; expected data.classes=VALUE",
    ),
    "list for a dictionary": (
        ["logger.tensorboard=[null]"],
        "logger.tensorboard=[null]: not a valid value; expected a d",
    ),
    "text with a space for a number": (["seed=a b"], "seed=a b: not a valid value; expected a whole number"),
    "no ASCII key": (["ä=1"], "cannot read 'ä=1': 'ä' is not a key; expected names joined by dots"),
    "override with a dash": (
        ["-model.image_size=3"],
        "no such option; expected an override without -: model.image_size=3",
    ),
    "argument of the task by its own key": (["task.transform.fit=auto"], "task.transform.fit=auto: no such method"),
    "interpolated value by its own key": (
        ["data.num_classes=null"],
        "data.num_classes=null: not a valid value; expected",
    ),
    "value of the device by its own key": (
        ["device.accelerator=abc"],
        "device.accelerator=abc: this machine has no abc",
    ),
    "value as it was typed": (
        ["model._target_={a: 1}"],
        "model._target_={a: 1}: not the name of a class; expected one",
    ),
    "no accumulation": (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0: not a valid value"),
    "negative clipping": (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val=-1: not a valid value"),
    "empty choice": (["optimizer="], "optimizer=: not the name of a config; expected optimizer= one of adam, adamw"),
    "part of other configs": (["data=_base"], "data=_base: not the name of a config; expected data= one of cifar10"),
    "group deleted": (["~model"], "model has no _target_; expected model= one of autoencoder, mlp, net, resnet18"),
    "device deleted": (["~device"], "~device: this group cannot be deleted; expected device= one of auto, cpu"),
    "typed key deleted": (["~seed"], "~seed: this key cannot be deleted; expected seed=VALUE"),
    "key deleted that another one needs": (["~optimizer.lr"], "schedule.max_lr=${optimizer.lr}: ", "not found"),
    "required argument deleted": (["~data.batch_size"], "~data.batch_size: data.batch_size is required"),
    "deletion of another choice": (
        ["~model=resnet"],
        "~model=resnet: not the chosen model; expected ~model, or model= one of autoencoder, mlp, net",
    ),
    "deletion of another value": (["~optimizer.lr=5"], "optimizer.lr is 0.003; expected ~optimizer.lr"),
    "key of a class that is not in the config": (
        ["trainer.max_time=00:00:01:00"],
        "trainer does not have max_time yet; to add it: +trainer.max_time=00:00:01:00",
    ),
    "misspelled key of a class": (["trainer.max_tim=1"], "no such key; did you mean +trainer.max_time?"),
    "key of a callback that is not chosen": (
        ["callback.early_stopping.patience=3"],
        "add callback=early_stopping",
    ),
    "key without its group": (["lr=0.1"], "lr=0.1: no such key; did you mean optimizer.lr?"),
    "key of Hydra": (["hydra.run.dr=x"], "hydra.run.dr=x: no such key; did you mean hydra.run.dir?"),
    "key added at the top": (["+foo=1"], "foo=1: no such key; expected one of callback", "+model.foo=1"),
    "several values": (["optimizer.lr=0.1,0.2"], "several values", "add -m", "'optimizer.lr=[0.1,0.2]'"),
    "no such interpolation": (["model.in_channels=${data.chanels}"], "'data.chanels' not found; expected a value"),
    "no optimizer": (["optimizer._target_=null"], "optimizer has no _target_; expected optimizer= one of"),
    "no learning rate": (["optimizer.lr=null"], "optimizer.lr=null: not a valid value; expected a number >= 0"),
    "infinite learning rate": (["optimizer.lr=inf"], "optimizer.lr=inf: not a valid value"),
    "infinite weight decay": (["optimizer.weight_decay=inf"], "optimizer.weight_decay=inf: not a finite number"),
    "no batch size": (
        ["data.batch_size=null"],
        "data.batch_size=null: not a valid value; expected a whole number",
    ),
    "absurd number of threads": (["threads=1000000"], "threads=1000000: not a valid value; expected a whole number"),
    "absurd number of processes": (
        ["device=ddp_cpu", "trainer.devices=5000"],
        "trainer.devices=5000: too many",
        "or device.force=true",
    ),
    "absurd number of replicas": (["device=dp_cpu", "trainer.devices=5000"], "trainer.devices=5000: too many"),
    "no end": (["trainer.max_epochs=null"], "trainer.max_epochs=null: the training would never end; expected"),
    "argument of TensorBoard's writer": (["+logger.tensorboard.foo=1"], "logger.tensorboard.foo: ", "takes no foo"),
    "empty directory": (["hydra.sweep.dir="], "hydra.sweep.dir=: not a directory"),
    "no such option": (["--foo"], "--foo: no such option; did you mean --info?"),
    "wrong value of an option": (["--cfg", "wrong"], "--cfg/-c: invalid choice: 'wrong' (choose from"),
    "no such top-level config": (["--config-name=foo"], "--config-name=foo: no such config; expected one of eval, "),
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


CONFIG_FILES = {
    "tab": ("optimizer:\n\tlr: 1", ":3: not valid YAML: found character '\\t'"),
    "duplicate key": ("seed: 1\nseed: 2", ":3: not valid YAML: found duplicate key seed"),
    "unclosed interpolation": ("optimizer:\n  lr: ${optimizer.lr", "optimizer.lr: ", ":3)"),
    "no such interpolation": ("model:\n  in_channels: ${data.chanels}", "model.in_channels=${data.chanels}: ", ":3)"),
    "no such resolver": ("optimizer:\n  lr: ${nope:1}", "optimizer.lr: ", "Unsupported interpolation type nope", ":3)"),
    "no such default": (
        "defaults:\n  - override /optimizer: sgdd",
        "optimizer=sgdd: no such choice; did you mean",
        ":3)",
    ),
    "defaults that are not a list": ("defaults: sgd", "Invalid defaults list in 'experiment/mine'"),
    "wrong type": ("seed: many", "seed: Value 'many' of type 'str' could not be converted to Integer", ":2)"),
    "wrong value": ("optimizer:\n  lr: -1", "optimizer.lr=-1: not a valid value; expected a number >= 0 (", ":3)"),
    "wrong element": ("data:\n  mean: [.nan]", "data.mean.0=nan: not a number", ":3)"),
    "no such argument": ("optimizer:\n  lrr: 1", "optimizer.lrr: torch.optim.AdamW takes no lrr", ":3)"),
    "no such top-level key": ("foo: 1", "foo: no such key (", ":2)"),
    "null for a group": ("optimizer: null", "optimizer: field 'optimizer' is not Optional (", ":2)"),
}


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_mistake_in_a_config_file_names_the_file_and_the_line(name, refused, tmp_path):
    text, *expected = CONFIG_FILES[name]
    file = tmp_path / "configs" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\n{text}\n")
    run = f"hydra.run.dir={tmp_path / 'run'}"
    message = refused(f"--config-dir={tmp_path / 'configs'}", "experiment=mine", "device=cpu", run)
    assert "experiment/mine" in message.replace("\\", "/")
    assert all(part in message for part in expected), message


def test_config_file_without_its_package(refused, tmp_path):
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("optimizer:\n  lr: 1\n")
    message = refused(f"--config-dir={tmp_path}", "experiment=mine")
    assert "experiment: no such key; a file that sets keys of other groups begins with: # @package _global_" in message


def test_config_file_in_another_encoding(refused, tmp_path):
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_bytes(b"# @package _global_\n# \xe9\nseed: 1\n")
    assert f"{file}: not UTF-8 text" in refused(f"--config-dir={tmp_path}", "experiment=mine")


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
@pytest.mark.parametrize("below", ["", "/x"])
def test_directory_that_cannot_be_created_is_named_by_its_key(key, below, refused, tmp_path):
    (tmp_path / "file").touch()
    override = f"{key}={tmp_path / 'file'}{below}"
    arguments = ("device=cpu", override, *(("-m",) if key == "hydra.sweep.dir" else ()))
    message = refused(*arguments)
    assert message.startswith(f"blitz-train: {override}: ")
    assert message.endswith("; expected a directory that can be created and written")


def test_device_is_named_as_the_user_typed_it(refused, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for override in ("device=ddp", "device=dp", "trainer.accelerator=cuda"):
        message = refused(override, f"hydra.run.dir={tmp_path / 'run'}")
        assert message.startswith(f"blitz-train: {override}: this machine has no cuda device"), message


EVAL = {
    "truth value for a file": (["checkpoint=false"], "checkpoint='false': no such run or checkpoint; expected a run"),
    "group of the training": (["task=classify"], "task=classify: blitz-eval has no group task; expected one of device"),
    "group of the training, added": (["+data=digits"], "+data=digits: blitz-eval has no group data; expected one of"),
    "recipe": (["+debug=limit"], "+debug=limit: blitz-eval has no group debug; expected one of device, hydra"),
    "key of that name deleted": (["~trainer"], "~trainer: blitz-eval has no group trainer; expected one of device"),
}


@pytest.mark.parametrize("name", EVAL)
def test_wrong_override_of_blitz_eval(name, command, tmp_path):
    overrides, expected = EVAL[name]
    message = error_of(command, "blitz-eval", "device=cpu", *overrides, f"hydra.run.dir={tmp_path / 'a' / 'b'}")
    assert expected in message, message
    assert not (tmp_path / "a").exists()


def test_refused_run_leaves_no_directories(refused, tmp_path):
    refused("device=cpu", "optimizer.lr=-1", f"hydra.run.dir={tmp_path / 'a' / 'b' / 'c'}")
    assert not (tmp_path / "a").exists()


def test_value_of_the_device_by_its_own_key_in_blitz_eval(command, finished, tmp_path):
    directory = f"hydra.run.dir={tmp_path / 'eval'}"
    message = error_of(command, "blitz-eval", f"run={finished}", "device.accelerator=abc", directory)
    assert message.startswith("blitz-eval: device.accelerator=abc: this machine has no abc device"), message
    assert "eval.yaml" not in message
