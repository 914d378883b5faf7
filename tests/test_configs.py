"""Compose every config file, check it, and build the parts of a task from it."""

import itertools
import re

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from blitz.config.checks import check_arguments, check_values
from blitz.config.paths import CONFIGS
from blitz.config.schema import register
from blitz.training import build

GROUPS = (
    "data",
    "model",
    "task",
    "optimizer",
    "schedule",
    "trainer",
    "device",
    "callback",
    "logger",
    "experiment",
    "debug",
    "sweep",
)
FILES = sorted(
    f"{group}={path.stem}" for group in GROUPS for path in (CONFIGS / group).glob("*.yaml") if path.stem[0] != "_"
)
COMPANIONS = {  # configs that do not fit the default task, model or data
    "model=autoencoder": ["task=autoencode"],
    "task=autoencode": ["model=autoencoder"],
    "model=mlp": ["task=regress", "data=friedman"],
    "task=regress": ["model=mlp", "data=friedman"],
    "data=friedman": ["task=regress", "model=mlp"],
}
TASK_CONFIGS = [choice for choice in FILES if choice.startswith(("model", "task", "optimizer", "schedule"))]


def compose(*overrides):
    register()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose("train", list(overrides))
    cfg.run_dir = "logs/test"
    cfg.seed = cfg.seed or 0
    return cfg


def test_every_group_has_configs():
    assert {choice.partition("=")[0] for choice in FILES} == set(GROUPS)


@pytest.mark.parametrize("choice", FILES)
def test_config_passes_the_checks(choice, folder):
    root = [f"data.root={folder}"] if choice == "data=image_folder" else []
    cfg = compose(choice, *COMPANIONS.get(choice, []), *root)
    check_values(cfg)
    check_arguments(cfg)


@pytest.mark.parametrize("choice", TASK_CONFIGS)
def test_optimizer_of_the_built_task_changes_its_weights(choice):
    if choice == "model=timm":
        pytest.importorskip("timm")
    cfg = compose("data=cifar10", choice, *COMPANIONS.get(choice, []))
    task = build.task(build.resolve(cfg))
    task.trainer = _Trainer()
    built = task.configure_optimizers()
    optimizer = built["optimizer"] if isinstance(built, dict) else built
    before = [p.clone() for p in task.parameters()]
    task.net(torch.randn_like(task.example_input_array)).square().sum().backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))


class _Trainer:
    estimated_stepping_batches = 100


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_schedule_ends_with_the_training(name):
    """``total_steps`` is the trainer's number of steps: the learning rate of the last step is almost 0."""
    task = build.task(build.resolve(compose(f"schedule={name}", "optimizer=sgd")))
    task.trainer = _Trainer()
    built = task.configure_optimizers()
    rates = []
    for _ in range(100):
        rates.append(built["optimizer"].param_groups[0]["lr"])
        built["optimizer"].step()
        built["lr_scheduler"]["scheduler"].step() if len(rates) < 100 else None
    assert rates[-1] < 1e-3 * max(rates)
    assert max(rates) == pytest.approx(0.05, rel=1e-6)


def test_experiments_state_command_machine_time_and_result():
    for path in (CONFIGS / "experiment").glob("*.yaml"):
        lines = path.read_text(encoding="utf-8").splitlines()
        header = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
        assert f"blitz-train experiment={path.stem}" in header, path
        assert re.search(r"\d CPU cores|GPU", header), path
        assert re.search(r"\d+ (s|min)\b", header), path
        assert re.search(r"\d\d\.\d\d? %|test loss \d", header), path


def test_model_takes_channels_and_classes_from_the_data():
    cfg = OmegaConf.to_container(compose("data=cifar10"), resolve=True)
    assert cfg["model"]["in_channels"] == 3
    assert cfg["model"]["num_classes"] == len(cfg["data"]["classes"]) == 10
