"""Lint and run every example of CONTRIBUTING.md in a copy of the project."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from blitz.config.paths import PROJECT
from tests.conftest import QUICK

TEXT = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### Add an? (.+?)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = {  # by section and number: a section may show two examples
    f"{title} {number}": shlex.split(command)
    for title, body in SECTIONS.items()
    for number, command in enumerate(re.findall(r"^```bash\nblitz-train (.+?)\n```$", body, re.MULTILINE), start=1)
}
RUN_ALL = """
import json, sys
import blitz.train
from tests.compositions import remember

remember()

for directory, overrides in json.loads(sys.argv[1]).items():
    sys.argv = ["blitz-train", *overrides, f"hydra.run.dir={directory}"]
    try:
        blitz.train.main()
    except SystemExit as stop:
        print(stop, file=sys.stderr)
"""


def files(body):
    """Return the files of a section, by their path: a line with the path, and then a code block."""
    return dict(re.findall(r"^`((?:src|configs)/\S+)`:\n\n```\w+\n(.*?)^```$", body, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a copy of the project, to which the examples have been added."""
    path = tmp_path_factory.mktemp("project")
    for name in ("src", "configs"):
        shutil.copytree(PROJECT / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", path)
    if (PROJECT / ".mypy_cache").is_dir():  # left by `make lint`; without it mypy takes 13 s longer
        shutil.copytree(PROJECT / ".mypy_cache", path / ".mypy_cache")
    for body in SECTIONS.values():
        for name, content in files(body).items():
            assert not (path / name).exists(), f"{name} exists already"
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(content, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def examples(project):
    """Run the command of every example for three steps, in one process."""
    limits = ("device=cpu", "seed=0", *QUICK)
    jobs = {f"runs/{name.replace(' ', '_')}": [*overrides, *limits] for name, overrides in COMMANDS.items()}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (project / "src", PROJECT)))}
    command = [sys.executable, "-c", RUN_ALL, json.dumps(jobs)]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)
    return SimpleNamespace(errors=done.stderr, directory=project / "runs")


def test_every_kind_of_extension_has_an_example():
    assert set(SECTIONS) == {
        "model", "data set", "LightningModule", "task", "optimizer", "schedule", "metric", "loss", "callback"
    }  # fmt: skip
    assert {name.rpartition(" ")[0] for name in COMMANDS} == set(SECTIONS)
    for body in SECTIONS.values():
        assert body.count("```python") + body.count("```yaml") == len(files(body)), (
            "each block has the path of its file"
        )


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_examples_pass_the_linters(command, project):
    arguments = (
        [] if command == "mypy" else [name for body in SECTIONS.values() for name in files(body) if ".py" in name]
    )
    linter = [sys.executable, "-m", *command.split(), *arguments]
    done = subprocess.run(linter, cwd=project, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_examples_use_no_private_names_of_libraries(project):
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    command = [sys.executable, PROJECT / "scripts" / "private_names.py"]
    listed = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300).stdout
    assert "private names of libraries" in listed
    assert [name for body in SECTIONS.values() for name in files(body) if name in listed] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_command_of_the_example_finishes_a_run(name, examples):
    run = examples.directory / name.replace(" ", "_")
    assert (run / "metrics.json").exists(), examples.errors
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics
    assert all(value is not None for value in metrics.values())
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    group, choice = next(re.fullmatch(r"([\w/]+)=(\w+)", override).groups() for override in COMMANDS[name])
    content = yaml.safe_load(files(SECTIONS[name.rpartition(" ")[0]])[f"configs/{group}/{choice}.yaml"])
    for key in () if group == "experiment" else group.split("/"):
        recorded = recorded[key]
    assert target(recorded, choice) == target(content, choice), "the run used the example's class"


def target(node, choice):
    """Return the class of a config, which may be under its own name, or the task's or the scheduler's."""
    inner = next((node[key] for key in (choice, "task", "scheduler") if key in node), node)
    return inner["_target_"]


def test_metrics_of_the_examples_are_logged(examples):
    logged = {
        name: json.loads((examples.directory / name / "metrics.json").read_text())
        for name in ("metric_1", "callback_1", "task_1")
    }
    assert {"train/kappa", "val/kappa", "test/kappa"} <= logged["metric_1"].keys()
    assert logged["callback_1"]["train/gradient_norm"] > 0
    assert {key for key in logged["task_1"] if "loss" in key} == {"train/loss", "val/loss", "test/loss"}
