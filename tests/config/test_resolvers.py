"""The resolvers of the config files."""

import os
import re
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from blitz.config.literals import plain
from blitz.config.paths import PROJECT
from blitz.config.resolvers import (
    RESOLVERS,
    class_folders,
    class_names,
    directory_name,
    run_directory,
    sweep_directory,
)
from blitz.errors import UserError


def test_class_folders(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"^data.root={tmp_path}: no directory .*; expected train/<class>"):
        class_folders(str(tmp_path))
    train = tmp_path / "train"
    train.mkdir()
    with pytest.raises(UserError, match="has no class directories; expected images in"):
        class_folders(str(tmp_path))
    for name in ("b", "B", "ü", "a", "10", "9", ".hidden"):
        (train / name).mkdir()
    (train / "file").touch()
    assert class_folders(str(tmp_path)) == ["10", "9", "B", "a", "b", "ü"]
    (train / "${oc.env:HOME}").mkdir()
    assert class_names(train)[0] == plain(class_folders(str(tmp_path)))[0] == "${oc.env:HOME}"
    (train / "${oc.env:HOME}").rmdir()
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.setenv("USERPROFILE", str(tmp_path.parent))
    assert class_folders(f"~/{tmp_path.name}") == ["10", "9", "B", "a", "b", "ü"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_class_name_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "train" / os.fsdecode(b"caf\xe9")).mkdir(parents=True)
    with pytest.raises(UserError, match=r"train/caf\\xe9: the name of this class directory is not UTF-8; expected"):
        class_folders(str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not read names by the locale")
def test_class_names_are_the_same_in_any_locale(tmp_path):
    (tmp_path / "train" / "grün").mkdir(parents=True)
    code = f"from blitz.config.resolvers import class_folders; print(ascii(class_folders({str(tmp_path)!r})))"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ascii(["grün"]), done.stderr


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("", "defaults"),
        ("optimizer=sgd,optimizer.lr=0.1", "optimizer-sgd-optimizer.lr-0.1"),
        ("data.root='/a b/c',+x=[1,2]", "data.root-a-b-c-+x-1-2"),
        ("x=../..", "x"),
        ("x=ü", "x-ü"),
    ],
)
def test_directory_name(overrides, name):
    assert directory_name(overrides) == name


def test_long_directory_names_stay_apart_and_fit_into_a_file_system():
    names = {directory_name("ü" * 300 + end) for end in "abc"}
    assert len(names) == 3
    assert all(len(name.encode()) <= 150 for name in names)
    assert all(re.fullmatch(r"ü+-[0-9a-f]{8}", name) for name in names)


@pytest.mark.parametrize("name", [directory_name("a=1,b=[x,'y z']"), directory_name("z" * 999)])
def test_directory_name_needs_no_quotes(name):
    assert OverridesParser.create().parse_override(f"run={name}").value() == name


def test_run_directory(tmp_path):
    (tmp_path / "config.yaml").touch()
    assert run_directory(None, "logs/runs/new") == "logs/runs/new"
    assert run_directory(str(tmp_path), "logs/runs/new") == str(tmp_path)
    with pytest.raises(UserError, match=r"^resume=auto: .* add hydra\.run\.dir=DIR"):
        run_directory("auto", "logs/runs/new")


@pytest.mark.parametrize("override", ["resume=a", "+resume=a", "++resume=a,b"])
def test_sweep_cannot_resume(override):
    assert sweep_directory(["seed=1,2"], "logs/sweeps/new") == "logs/sweeps/new"
    with pytest.raises(UserError, match="a sweep cannot resume a single run; leave out -m"):
        sweep_directory(["seed=1,2", override], "logs/sweeps/new")


def test_project_resolver():
    assert RESOLVERS["project"]() == str(PROJECT)


def test_config_groups_are_those_of_the_defaults_list():
    assert RESOLVERS["config_groups"]("eval").startswith("device: auto, cpu, ")
    lines = RESOLVERS["config_groups"]("train").splitlines()
    assert "data: cifar10, digits, friedman, image_folder, mnist" in lines
    assert [line.partition(":")[0] for line in lines][:3] == ["callback", "data", "debug"]


def test_first_given():
    assert RESOLVERS["coalesce"](None, "b", "c") == "b"
    assert RESOLVERS["coalesce"](None, None) is None
