"""Whole runs: what a run's folder holds, and that its figures are the data's."""

import csv
import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from blitz import runs, terminal
from blitz.config.paths import PROJECT
from blitz.data.digits import DIGITS, Digits
from tests.conftest import QUICK


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """The default run, for real: `blitz-train`, in a process of its own and from another folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    words = [sys.executable, "-m", "blitz.train", "device=cpu", f"hydra.run.dir={folder / 'run'}"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout, done.stderr


def test_digits_reach_97_percent(digits_run):
    run, stdout, _ = digits_run
    accuracy = json.loads((run / "metrics.json").read_text())["test/acc"]
    assert accuracy >= 0.97
    assert f"test accuracy  {accuracy * 100:.2f} %" in stdout


def test_the_terminal(digits_run):
    _run, stdout, stderr = digits_run
    assert stderr == ""
    lines = stdout.rstrip().splitlines()
    assert lines[-1] == "run            run", "the summary ends with the folder, as one would type it from here"
    assert re.fullmatch(r"dashboard      \S*tensorboard --logdir \.", lines[-2])
    assert sum(" %" in line and "/10" in line for line in lines) == 10, "a line an epoch"
    assert any("best" in line for line in lines)
    assert any("worst" in line for line in lines)
    assert max(map(len, lines)) < 100


def test_what_a_run_holds(digits_run):
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
    assert isinstance(config["seed"], int), "the seed drawn"
    assert config["model"] == {"_target_": "blitz.model.net.Net", "in_channels": 1, "num_classes": 10, "image_size": 32}
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True).stdout.strip()
    assert environment["git_commit"] == (head or None)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}


def test_figures_equal_a_count_by_hand(digits_run):
    """The checkpoint's model, on the pictures themselves, without the loader, Lightning or torchmetrics."""
    run, _, _ = digits_run
    task = runs.load(run)
    data = Digits(**_arguments(run))
    data.setup("test")
    images, labels, _ = data.splits["test"]
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


def _arguments(run):
    arguments = yaml.safe_load((run / "config.yaml").read_text())["data"]
    return {key: value for key, value in arguments.items() if key != "_target_"}


def test_the_model_takes_a_picture(digits_run):
    """As somebody deploys it: one of the set's own images, written to a file and read again."""
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
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = torch.load(run / "checkpoints" / name, weights_only=True)
        assert checkpoint["config"]["data"]["classes"] == [str(i) for i in range(10)]
        assert all(key.startswith("net.") for key in checkpoint["state_dict"])


def test_best_checkpoint_is_the_best_epochs(digits_run):
    run, stdout, _ = digits_run
    accuracies = [
        float(line.split("%")[1].split()[-1]) for line in stdout.splitlines() if "/10" in line and "%" in line
    ]
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert accuracies[best["epoch"]] == max(accuracies)


def test_eval_reproduces_the_figures_exactly(digits_run, command, tmp_path):
    run, _, _ = digits_run
    words = {"a": f"run={run}", "b": f"checkpoint={run / 'checkpoints' / 'best.ckpt'}"}
    trained = json.loads((run / "metrics.json").read_text())
    for name, word in words.items():
        command("blitz-eval", word, "device=cpu", f"hydra.run.dir={tmp_path / name}")
        again = json.loads((tmp_path / name / "metrics.json").read_text())
        assert again == {key: value for key, value in trained.items() if key.startswith("test/")}
        assert (tmp_path / name / "per_class.csv").read_text() == (run / "per_class.csv").read_text()


def test_the_same_seed_gives_the_same_run(train):
    first, second = (train(*QUICK, "seed=3", into=name) for name in ("a", "b"))
    assert _figures(first) == _figures(second)
    weights = [runs.load(run).state_dict() for run in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert _figures(train(*QUICK, "seed=4", into="c")) != _figures(first)


def _figures(run):
    return json.loads((run / "metrics.json").read_text())


def test_an_absent_class_is_not_zero(train, folder, capsys):
    for image in (folder / "test" / "blueberry").iterdir():
        image.unlink()
    run = train("data=image_folder", f"data.root={folder}", "data.batch_size=8", "trainer.max_epochs=2")
    assert _figures(run)["test/acc/blueberry"] is None
    rows = {row["class"]: row for row in csv.DictReader((run / "per_class.csv").open(encoding="utf-8"))}
    assert rows["blueberry"] == {"class": "blueberry", "count": "0", "correct": "0", "accuracy": "n/a"}
    assert rows["grün"]["count"] == "4"
    assert "n/a" in capsys.readouterr().out


def test_without_validation_the_last_weights_are_tested(train):
    run = train(*QUICK, "data.val_fraction=0", "callback.checkpoint=null", "optimized_metric=train/loss")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert not any(key.startswith("val/") for key in _figures(run))


@pytest.mark.parametrize("preset", ["one_batch", "overfit", "profiler", "limit"])
def test_debug_presets(preset, train, capsys):
    run = train(f"debug={preset}", *(["trainer.max_epochs=50", "schedule=constant"] if preset == "overfit" else []))
    figures = _figures(run)
    assert 0 <= figures["test/acc"] <= 1
    if preset == "overfit":
        assert figures["train/loss"] < 0.1
    if preset == "profiler":
        assert "run_training_batch" in "".join(capsys.readouterr())


def test_early_stopping(train, capsys):
    train("callback=early_stopping", "callback.early_stopping.patience=1", "optimizer.lr=0", "trainer.max_epochs=9")
    assert sum("/9 " in line for line in capsys.readouterr().out.splitlines()) == 2


def test_resnet18_from_yaml_alone(train, folder):
    run = train(*QUICK, "model=resnet18", "data=image_folder", f"data.root={folder}", "data.batch_size=4")
    assert type(runs.load(run).net).__name__ == "ResNet"


def test_mnist_learns_for_real(train, mnist):
    """A few seconds of the real thing: 12,800 official images, and the whole official test split."""
    run = train("experiment=mnist", f"data.root={mnist}", "trainer.max_epochs=1", "trainer.limit_train_batches=100")
    assert _figures(run)["test/acc"] > 0.93
    rows = list(csv.DictReader((run / "per_class.csv").open()))
    assert [int(row["count"]) for row in rows] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_cifar10_tutorial_learns_for_real(train, cifar10_folder, capsys):
    words = (
        "data=image_folder",
        f"data.root={cifar10_folder}",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2001",
    )
    run = train("experiment=cifar10_tutorial", *words, "seed=0")
    figures = _figures(run)
    assert figures["test/acc"] > 0.2, "chance is 0.1, and 8,000 images are seen"
    assert math.isfinite(figures["train/loss"])
    out = capsys.readouterr().out
    assert re.search(r"^\[1,  2000\] loss: \d\.\d{3}$", out, re.MULTILINE)
    assert "val" not in out, "no column for what is not measured"


def test_compiled(train, command, tmp_path, capsys):
    """In place: the checkpoint's keys are as ever, and compilation is not counted as training."""
    run = train(*QUICK, "compile=true", "seed=1", into="compiled")
    assert re.search(r"compiled in \d+\.\d s\n.*trained in \d\.\d s", capsys.readouterr().out, re.DOTALL)
    plain = train(*QUICK, "seed=1", into="plain")
    ours, theirs = (runs.load(path).state_dict() for path in (run, plain))
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5)


def test_the_layout_changes_nothing_but_the_speed(train):
    words = (*QUICK, "seed=1", "data.batch_size=4")
    weights = [
        runs.load(train(*words, f"channels_last={layout}", f"optimizer.fused={fused}", into=layout)).state_dict()
        for layout, fused in (("null", "true"), ("true", "true"), ("false", "false"))
    ]
    for key in weights[0]:
        for others in weights[1:]:
            torch.testing.assert_close(others[key], weights[0][key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "threads"), [(["data.batch_size=4"], 1), (["data.batch_size=128"], 4), (["threads=3"], 3)]
)
def test_threads_by_the_work_in_a_batch(words, threads, train, monkeypatch):
    """On a machine of four cores."""
    monkeypatch.setattr("blitz.training.build.CORES", 4)
    train("debug=one_batch", *words)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)


def test_the_dashboards_command_can_be_pasted():
    spaced = Path("logs", "my runs")
    assert shlex.split(terminal.dashboard_command(spaced))[1:] == ["--logdir", str(spaced)]
    assert terminal.dashboard_command(spaced.parent).endswith("--logdir logs"), "no quotes where none are needed"


def test_the_saved_diff_can_be_applied(monkeypatch, tmp_path):
    repository = tmp_path / "project"
    repository.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (repository / "file.txt").write_bytes(b"one\n\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=repository, check=True)
    (repository / "file.txt").write_bytes("zwölf\n\n".encode("latin-1"))
    monkeypatch.setattr(runs, "PROJECT", repository)
    run = runs.begin(tmp_path / "run", {}, [])
    subprocess.run([*git, "apply", "--check", "-R", str(run.path / "git.diff")], cwd=repository, check=True)
