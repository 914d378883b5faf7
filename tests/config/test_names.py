"""Names of run, job and sweep directories."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from blitz.config.names import (
    checked_name,
    digest,
    directory_name,
    overrides_name,
    run_directory,
    short_overrides,
    sweep_directory,
)
from blitz.errors import UserError

CONFIG = OmegaConf.create({"seed": None, "optimizer": {"lr": 0.1}, "hydra": {"mode": "MULTIRUN"}, "name": None})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "defaults"),
        ("optimizer=sgd,optimizer.lr=0.1", "optimizer-sgd-optimizer.lr-0.1"),
        ("data.root='/a b/c',+x=[1,2]", "data.root-a-b-c-+x-1-2"),
        ("x=../..", "x"),
        ("x=ü", "x-ü"),
    ],
)
def test_directory_name(text, name):
    assert directory_name(text) == name


def test_long_directory_names_stay_apart_and_fit_into_a_file_system():
    names = {directory_name("ü" * 300 + end) for end in "abc"}
    assert len(names) == 3
    assert all(len(name.encode()) <= 150 for name in names)
    assert all(re.fullmatch(r"ü+-[0-9a-f]{8}", name) for name in names)


@pytest.mark.parametrize("name", [directory_name("a=1,b=[x,'y z']"), directory_name("z" * 999)])
def test_directory_name_needs_no_quotes(name):
    assert OverridesParser.create().parse_override(f"run={name}").value() == name


def test_keys_are_shortened_unless_two_become_the_same():
    assert short_overrides(["optimizer=adam", "optimizer.lr=0.1", "task/loss=focal", "+a.b=1"]) == [
        "optimizer=adam",
        "lr=0.1",
        "loss=focal",
        "b=1",
    ]
    assert short_overrides(["optimizer.lr=1", "schedule.lr=2", "~x.y"]) == ["optimizer.lr=1", "schedule.lr=2", "y"]
    assert overrides_name(["optimizer=adam", "optimizer.lr=1e-3"]) == "optimizer-adam_lr-1e-3"
    assert overrides_name([]) == ""


def test_run_directory(tmp_path):
    """A resumed run keeps its directory; a name comes next; otherwise time and overrides tell runs apart."""
    (tmp_path / "config.yaml").touch()
    overrides = ["optimizer=adam", "optimizer.lr=0.1"]
    assert run_directory(None, None, overrides, "logs/runs", "NOW") == "logs/runs/NOW_optimizer-adam_lr-0.1"
    assert run_directory(None, None, ["init_from=a/b"], "logs/runs", "NOW") == "logs/runs/NOW"
    assert run_directory(None, "mine", overrides, "logs/runs", "NOW") == "logs/runs/mine"
    assert run_directory("auto", "mine", overrides, "logs/runs", "NOW") == "logs/runs/mine"
    assert run_directory(str(tmp_path), None, overrides, "logs/runs", "NOW") == str(tmp_path)
    with pytest.raises(UserError, match=r"^resume=auto: .* expected name=NAME or hydra\.run\.dir=DIR"):
        run_directory("auto", None, [], "logs/runs", "NOW")


def test_override_that_refers_to_the_directory_itself():
    cfg = OmegaConf.create(
        {"run_dir": "${run_directory:null,null,${task},logs/runs,NOW}", "task": ["a.b=${run_dir}/x"]}
    )
    OmegaConf.register_new_resolver("run_directory", run_directory, replace=True)
    assert cfg.run_dir == "logs/runs/NOW_b-run_dir-x"


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "", "x" * 200])
def test_name_that_is_no_directory_name(name):
    assert checked_name("my_run-1.2") == "my_run-1.2"
    with pytest.raises(UserError, match=r"^name=.*: not a directory name; expected letters, digits"):
        checked_name(name)


def test_same_command_finds_its_sweep_and_another_does_not():
    def directory(*overrides, name=None, params=None, config=CONFIG):
        return sweep_directory(name, list(overrides), params, "logs/sweeps", _root_=config)

    found = directory("seed=1,2", "optimizer=sgd")
    assert re.fullmatch(r"logs/sweeps/seed-1-2-[0-9a-f]{8}", found), "only what is swept"
    assert directory("optimizer=sgd", "seed=1,2") == found
    assert directory("seed=1,2", "optimizer=adam") != found
    edited = OmegaConf.merge(CONFIG, {"optimizer": {"lr": 0.2}})
    assert directory("seed=1,2", "optimizer=sgd", config=edited) != found
    other_hydra = OmegaConf.merge(CONFIG, {"hydra": {"mode": "RUN"}})
    assert directory("seed=1,2", "optimizer=sgd", config=other_hydra) == found
    assert directory("seed=1,2", name="mine") == "logs/sweeps/mine"
    assert re.fullmatch(r"logs/sweeps/seed-range-1-6-[0-9a-f]{8}", directory(params={"seed": "range(1,6)"}))


def test_sweep_file_names_its_sweep():
    def directory(*overrides, params):
        return sweep_directory(None, list(overrides), params, "logs/sweeps", _root_=CONFIG)

    found = directory("sweep=seeds", params={"seed": "1,2"})
    assert re.fullmatch(r"logs/sweeps/sweep-seeds-[0-9a-f]{8}", found)
    assert directory("sweep=seeds", params={"seed": "1,2,3"}) != found, "the file was edited"
    assert directory(params={"seed": "1,2"}).startswith("logs/sweeps/seed-1-2-"), "an experiment chose the file"


@pytest.mark.parametrize("override", ["resume=a", "+resume=a", "++resume=a,b"])
def test_sweep_cannot_resume(override):
    with pytest.raises(UserError, match="a sweep cannot resume a single run; leave out -m"):
        sweep_directory(None, ["seed=1,2", override], {}, "logs/sweeps", _root_=CONFIG)


def test_digest_depends_on_the_config_but_not_on_its_name():
    assert digest(CONFIG) == digest(OmegaConf.merge(CONFIG, {"name": "mine"}))
    assert digest(CONFIG) != digest(OmegaConf.merge(CONFIG, {"seed": 1}))
