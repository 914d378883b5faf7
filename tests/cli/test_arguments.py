"""The command line is checked before Hydra reads it."""

import argparse
import re
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from blitz.cli.arguments import OPTIONS, Parser, prepare
from blitz.errors import UserError


def test_options_are_those_of_hydra():
    program = "import hydra; hydra.main(version_base='1.3')(print)()"
    usage = subprocess.run([sys.executable, "-c", program, "--nope"], capture_output=True, text=True).stderr
    in_usage = set(re.findall(r"--[a-z-]+", usage.partition("error:")[0]))
    assert in_usage == {names[0] for names in OPTIONS}


def test_overrides_come_before_options():
    """Hydra's parser refuses an override after an option."""
    assert prepare("blitz-train", ["a=1", "--cfg", "job", "b=2"]) == ["a=1", "b=2", "--cfg", "job"]
    assert prepare("blitz-train", ["-m", "a=1,2"]) == ["a=1,2", "-m"]


@pytest.mark.parametrize("value", ["2024", "1e3", "007", "1_2", "true", "-inf"])
@pytest.mark.parametrize("key", ["resume", "hydra.run.dir", "run", "+data.root"])
def test_path_is_text(key, value):
    assert prepare("blitz-train", [f"{key}={value}"]) == [f"{key}='{value}'"]


@pytest.mark.parametrize("override", ["resume=null", "resume=a/b", "seed=12", "resume", "resume='12'", "data.root=1,2"])
def test_other_override_is_unchanged(override):
    assert prepare("blitz-train", [override]) == [override]


@pytest.mark.parametrize("value", ["a (1).png", "a[0-9].jpg", "{a}.png", "grün.png", "2024", "a*", "it's.png"])
def test_names_of_images_are_text(value):
    (quoted,) = prepare("blitz-predict", [f"inputs={value}"])
    parsed = OverridesParser.create().parse_override(quoted)
    assert parsed.value() == value
    assert prepare("blitz-predict", [quoted]) == [quoted]


def test_splits_are_not_quoted():
    assert prepare("blitz-predict", ["inputs=test", "inputs=a/b.png"]) == ["inputs=test", "inputs=a/b.png"]


def test_version_is_that_of_blitz(capsys):
    with pytest.raises(SystemExit) as stop:
        prepare("blitz-train", ["--version"])
    assert not stop.value.code
    assert re.fullmatch(r"blitz-train \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_error_of_a_parser_is_for_the_user():
    parser = Parser(prog="x")
    assert isinstance(parser, argparse.ArgumentParser)
    with pytest.raises(UserError, match=r"^unrecognized arguments: y$"):
        parser.parse_args(["y"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete a directory that is in use")
def test_working_directory_was_deleted(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UserError, match="the working directory was deleted; change to one that exists"):
        prepare("blitz-train", ["--help"])
