"""The line of a config file that sets a key."""

import pytest

from blitz.cli.origin import config_files, file_and_line, line_with
from blitz.config.paths import CONFIGS


@pytest.fixture
def configs(tmp_path):
    for name, text in {
        "experiment/mine": "# @package _global_\nseed: 1\noptimizer:\n  lr: 1\ndata:\n  mean: [1, 2]\n",
        "optimizer/mine": "lr: 2\n",
    }.items():
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return f"--config-dir={tmp_path}", tmp_path


@pytest.mark.parametrize(
    ("key", "overrides", "found"),
    [
        ("seed", ["experiment=mine"], "experiment/mine.yaml:2"),
        ("optimizer.lr", ["experiment=mine"], "experiment/mine.yaml:4"),
        ("data.mean.1", ["experiment=mine"], "experiment/mine.yaml:6"),
        ("optimizer.lr", ["optimizer=mine"], "optimizer/mine.yaml:1"),
        ("optimizer.lr", ["experiment=mine", "optimizer.lr=3"], None),
        ("optimizer.lr", [], None),
        ("model.x", ["experiment=mine"], None),
    ],
)
def test_file_and_line(configs, key, overrides, found):
    option, directory = configs
    line = file_and_line(key, [option, *overrides], "train")
    assert line == (found and f"{directory}/{found}")


def test_line_with(configs):
    option, directory = configs
    assert line_with(r"lr: \d", [option, "experiment=mine"]) == f"{directory / 'experiment' / 'mine.yaml'}:4"


def test_config_files(configs):
    option, directory = configs
    files = list(config_files([option, "optimizer=mine", "model=net"]))
    assert files == [CONFIGS / "train.yaml", CONFIGS / "model" / "net.yaml", directory / "optimizer" / "mine.yaml"]
