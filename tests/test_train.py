"""Whole runs of blitz-train: the files of a run directory, and its metrics against counts by hand."""

import csv
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from blitz import runs
from blitz.config.paths import PROJECT
from blitz.data.digits import DIGITS, Digits
from blitz.runs.folder import Run
from tests.conftest import QUICK


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """Run ``blitz-train`` with its defaults, in a new process and from another directory."""
    directory = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-m", "blitz.train", "device=cpu", f"hydra.run.dir={directory / 'run'}"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return directory / "run", done.stdout, done.stderr


def test_digits_reach_97_percent(digits_run):
    run, stdout, _ = digits_run
    accuracy = json.loads((run / "metrics.json").read_text())["test/acc"]
    assert accuracy >= 0.97
    assert f"test accuracy  {accuracy * 100:.2f} %" in stdout


def test_terminal_output(digits_run):
    _run, stdout, stderr = digits_run
    assert stderr == ""
    lines = stdout.rstrip().splitlines()
    assert lines[-1] == "run            run", "the last line is the run directory, relative to the working directory"
    assert re.fullmatch(r"dashboard      \S*tensorboard --logdir \.", lines[-2])
    assert sum(" %" in line and "/10" in line for line in lines) == 10, "one line per epoch"
    assert any("best" in line for line in lines)
    assert any("worst" in line for line in lines)
    assert max(map(len, lines)) < 100


def test_files_of_a_run(digits_run):
    run, _, _ = digits_run
    names = {path.name.partition(".out")[0] for path in run.iterdir()}
    assert {
        "config.yaml",
        "overrides.yaml",
        "environment.json",
        "metrics.json",
        "per_class.csv",
        "checkpoints",
    } <= names
    assert "events" in names
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert isinstance(config["seed"], int), "a random seed is recorded"
    assert config["model"] == {"_target_": "blitz.model.net.Net", "in_channels": 1, "num_classes": 10, "image_size": 32}
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True).stdout.strip()
    assert environment["git_commit"] == (head or None)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "best.ckpt",
        "resume.ckpt",
        "resume-previous.ckpt",
    }


def test_metrics_equal_a_count_by_hand(digits_run):
    """Evaluate the checkpoint on the images directly, without the loader, Lightning or torchmetrics."""
    run, _, _ = digits_run
    task = runs.load(run)
    data = Digits(**_data_arguments(run))
    data.setup("test")
    images, labels = data.splits["test"][:2]
    with torch.no_grad():
        predicted = task(task.transform(images)).argmax(1)
    correct = predicted == labels
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/acc"] == pytest.approx(correct.float().mean().item(), abs=1e-7)
    confusion = list(csv.reader((run / "confusion.csv").open()))
    assert confusion[0] == ["true", *task.classes]
    assert [[int(n) for n in row[1:]] for row in confusion[1:]] == [
        [int(((labels == true) & (predicted == guess)).sum()) for guess in range(10)] for true in range(10)
    ]
    rows = list(csv.DictReader((run / "per_class.csv").open()))
    for label, row in enumerate(rows):
        count, right = int((labels == label).sum()), int(correct[labels == label].sum())
        assert (row["class"], int(row["count"]), int(row["correct"])) == (str(label), count, right)
        assert metrics[f"test/acc/{label}"] == pytest.approx(right / count, abs=1e-7)


def _data_arguments(run):
    arguments = yaml.safe_load((run / "config.yaml").read_text())["data"]
    return {key: value for key, value in arguments.items() if key != "_target_"}


def test_loaded_model_classifies_image_files(digits_run):
    """Load the model without a config, as an application does, and classify images of the data set."""
    run, _, _ = digits_run
    task = runs.load(run / "checkpoints" / "best.ckpt")
    digits = np.load(DIGITS)
    right = 0
    for pixels, label in list(zip(digits["images"], digits["labels"], strict=True))[:50]:
        image = Image.fromarray((pixels * (255 / 16)).round().astype("uint8"))
        right += task.classes[task(task.transform(image)).argmax(1)] == str(label)
    assert right >= 48


def test_checkpoints_hold_plain_data(digits_run):
    run, _, _ = digits_run
    for name in ("best.ckpt", "resume.ckpt"):
        checkpoint = torch.load(run / "checkpoints" / name, weights_only=True)
        assert checkpoint["config"]["data"]["classes"] == [str(i) for i in range(10)]
        assert all(key.startswith("net.") for key in checkpoint["state_dict"])


def test_best_checkpoint_is_that_of_the_best_epoch(digits_run):
    run, stdout, _ = digits_run
    accuracies = [
        float(line.split("%")[1].split()[-1]) for line in stdout.splitlines() if "/10" in line and "%" in line
    ]
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert accuracies[best["epoch"]] == max(accuracies)


def test_eval_reproduces_the_test_metrics_exactly(digits_run, command, tmp_path):
    run, _, _ = digits_run
    overrides = {"a": f"run={run}", "b": f"checkpoint={run / 'checkpoints' / 'best.ckpt'}"}
    trained = _metrics(run)
    for name, override in overrides.items():
        command("blitz-eval", override, "device=cpu", f"hydra.run.dir={tmp_path / name}")
        evaluated = _metrics(tmp_path / name)
        assert evaluated == {key: value for key, value in trained.items() if key.startswith("test/")}
        assert (tmp_path / name / "per_class.csv").read_text() == (run / "per_class.csv").read_text()


def test_same_seed_gives_the_same_run(train):
    first, second = (train(*QUICK, "seed=3", into=name) for name in ("a", "b"))
    assert _metrics(first) == _metrics(second)
    weights = [runs.load(run).state_dict() for run in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert _metrics(train(*QUICK, "seed=4", into="c")) != _metrics(first)


def _metrics(run):
    return json.loads((run / "metrics.json").read_text())


def test_accuracy_of_an_absent_class_is_none_and_not_zero(train, folder, capsys):
    for image in (folder / "test" / "blueberry").iterdir():
        image.unlink()
    run = train("data=image_folder", f"data.root={folder}", "data.batch_size=8", "trainer.max_epochs=2")
    assert _metrics(run)["test/acc/blueberry"] is None
    rows = {row["class"]: row for row in csv.DictReader((run / "per_class.csv").open(encoding="utf-8"))}
    assert rows["blueberry"] == {"class": "blueberry", "count": "0", "correct": "0", "accuracy": "n/a"}
    assert rows["grün"]["count"] == "4"
    assert "n/a" in capsys.readouterr().out


def test_last_weights_are_tested_without_validation(train):
    run = train(
        *QUICK, "data.val_fraction=0", "callback.checkpoint=null", "optimized_metric=train/loss", "direction=min"
    )
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["resume.ckpt"]
    assert not any(key.startswith("val/") for key in _metrics(run))


@pytest.mark.parametrize("preset", ["one_batch", "overfit", "profiler", "limit"])
def test_debug_preset_runs(preset, train, capsys):
    run = train(f"debug={preset}", *(["trainer.max_epochs=50", "schedule=constant"] if preset == "overfit" else []))
    metrics = _metrics(run)
    assert 0 <= metrics["test/acc"] <= 1
    if preset == "overfit":
        assert metrics["train/loss"] < 0.1
    if preset == "profiler":
        assert "run_training_batch" in "".join(capsys.readouterr())


def test_early_stopping_ends_the_run(train, capsys):
    train("callback=early_stopping", "callback.early_stopping.patience=1", "optimizer.lr=0", "trainer.max_epochs=9")
    assert sum("/9 " in line for line in capsys.readouterr().out.splitlines()) == 2


def test_resnet18_needs_only_a_yaml_file(train, folder):
    run = train(*QUICK, "model=resnet18", "data=image_folder", f"data.root={folder}", "data.batch_size=4")
    assert type(runs.load(run).net).__name__ == "ResNet"


def test_mnist_reaches_93_percent_in_100_steps(train, mnist):
    """Train on 12,800 official images and test on the whole official test split."""
    run = train("experiment=mnist", f"data.root={mnist}", "trainer.max_epochs=1", "trainer.limit_train_batches=100")
    assert _metrics(run)["test/acc"] > 0.93
    rows = list(csv.DictReader((run / "per_class.csv").open()))
    assert [int(row["count"]) for row in rows] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_cifar10_tutorial_learns_in_2000_steps(train, cifar10_folder, capsys):
    images = ("data=image_folder", f"data.root={cifar10_folder}")
    limits = ("trainer.max_epochs=1", "trainer.limit_train_batches=2001")
    run = train("experiment=cifar10_tutorial", *images, *limits, "seed=0")
    metrics = _metrics(run)
    assert metrics["test/acc"] > 0.2, "chance is 0.1, and 8,000 images are seen"
    assert math.isfinite(metrics["train/loss"])
    out = capsys.readouterr().out
    assert re.search(r"^\[1,  2000\] loss: \d\.\d{3}$", out, re.MULTILINE)
    assert "val" not in out, "no validation columns"


def test_compiled_net_has_equal_weights_and_keys(train, command, tmp_path, capsys):
    """Compile in place: the keys of the checkpoint stay, and the terminal shows the compile time separately."""
    run = train(*QUICK, "compile=true", "seed=1", into="compiled")
    assert re.search(r"compiled in \d+\.\d s\n.*trained in \d+\.\d s", capsys.readouterr().out, re.DOTALL)
    plain = train(*QUICK, "seed=1", into="plain")
    compiled, eager = (runs.load(path).state_dict() for path in (run, plain))
    assert compiled.keys() == eager.keys()
    for key in compiled:
        torch.testing.assert_close(compiled[key], eager[key], rtol=1e-4, atol=1e-5)


def test_memory_format_and_fused_optimizer_do_not_change_the_weights(train):
    overrides = (*QUICK, "seed=1", "data.batch_size=4")
    weights = [
        runs.load(train(*overrides, f"channels_last={layout}", f"optimizer.fused={fused}", into=layout)).state_dict()
        for layout, fused in (("null", "true"), ("true", "true"), ("false", "false"))
    ]
    for key in weights[0]:
        for others in weights[1:]:
            torch.testing.assert_close(others[key], weights[0][key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "threads"), [(["data.batch_size=4"], 1), (["data.batch_size=128"], 4), (["threads=3"], 3)]
)
def test_number_of_threads_depends_on_the_work_in_a_batch(overrides, threads, train, monkeypatch):
    """Pretend that the machine has four cores."""
    monkeypatch.setattr("blitz.training.tune.CORES", 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    train("debug=one_batch", *overrides)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)


NAMES = ["${oc.env:HOME}", "123", "???", "[red]", "a\x85b", "x\ny", "\\${seed}", "0x1f"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
def test_class_names_are_data_everywhere(train, command, tmp_path, capsys):
    """In config, tables, metrics, curves and checkpoints, of a run that is evaluated, resumed and reproduced."""
    root = tmp_path / "images"
    for split in ("train", "test"):
        for label, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (8, 8), (label * 30, i, 0)).save(root / split / name / f"{i}.png")
    data = ("data=image_folder", f"data.root={root}", "data.batch_size=8", "data.val_fraction=0.25")
    run = train(*data, "trainer.max_epochs=1", "schedule=constant", "seed=1", "logger=[tensorboard,csv]")
    assert r"a\x85b" in capsys.readouterr().out
    names = sorted(NAMES)

    def check(path):
        config = Run(path).config
        assert config["data"]["classes"] == config["task"]["classes"] == names
        assert {f"test/acc/{name}" for name in names} <= set(_metrics(path))
        rows = list(csv.DictReader((path / "per_class.csv").open(encoding="utf-8", newline="")))
        assert [row["class"] for row in rows] == names
        if (path / "checkpoints").exists():
            assert runs.load(path).classes == names

    check(run)
    before = _metrics(run)
    command("blitz-eval", f"run={run}", f"hydra.run.dir={tmp_path / 'eval'}", "device=cpu")
    check(tmp_path / "eval")
    capsys.readouterr()
    check(train(f"reproduce={run}", into="again"))
    assert "identical: all" in capsys.readouterr().out
    command("blitz-train", f"resume={run}", "trainer.max_epochs=2")
    check(run)
    assert _metrics(run).keys() == before.keys()
