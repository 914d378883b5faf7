"""The resolvers of the config files."""

import os
import subprocess
import sys

import pytest

from blitz.config.literals import plain
from blitz.config.paths import PROJECT
from blitz.config.resolvers import (
    RESOLVERS,
    class_folders,
    class_names,
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


def test_project_resolver():
    assert RESOLVERS["project"]() == str(PROJECT)


def test_config_groups_are_those_of_the_defaults_list():
    assert RESOLVERS["config_groups"]("eval").startswith("device: auto, cpu, ")
    lines = RESOLVERS["config_groups"]("train").splitlines()
    assert "data: cifar10, digits, friedman, image_folder, mnist" in lines
    assert [line.partition(":")[0] for line in lines][:4] == ["callback", "callback/dashboard", "data", "debug"]


def test_first_given():
    assert RESOLVERS["coalesce"](None, "b", "c") == "b"
    assert RESOLVERS["coalesce"](None, None) is None
