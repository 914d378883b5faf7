"""The override that cannot be composed is found by composing them one by one."""

import pytest
from hydra.core.global_hydra import GlobalHydra

from blitz.cli.composition import compose, parse, refused
from blitz.config.schema import register


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["seed=1", "optimizer.betas.a=1"], "optimizer.betas.a=1"),
        (["optimizr.lr=1", "sed=1"], "optimizr.lr=1"),
        (["optimizer.momentum=0.5", "--cfg", "job", "optimizer=sgd"], None),
        (["optimizer.momentum=0.5", "seed=x", "optimizer=sgd"], "seed=x"),
    ],
)
def test_first_override_that_is_refused(overrides, text):
    register()
    found = refused("train", overrides)
    assert (found and found[0].input_line) == text


def test_configs_of_another_directory_are_found(tmp_path):
    register()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("width: 1\n")
    found = refused("train", [f"--config-dir={tmp_path}", "model=mine", "model.width=2", "model.depth=3"])
    assert found is not None
    assert found[0].input_line == "model.depth=3"


def test_a_running_hydra_goes_on():
    register()
    running = GlobalHydra.instance().hydra
    assert compose("train", ["seed=5"])["seed"] == 5
    assert GlobalHydra.instance().hydra is running


def test_options_are_no_overrides():
    assert [override.input_line for override in parse(["-m", "--cfg", "job", "seed=1"])] == ["seed=1"]
