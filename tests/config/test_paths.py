"""Paths as the user types them, and as messages print them."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from blitz.config.paths import CONFIGS, PROJECT, as_override, existing_run, shorten
from blitz.errors import UserError


def test_project_is_the_repository():
    assert (PROJECT / "pyproject.toml").is_file()
    assert (CONFIGS / "train.yaml").is_file()


@pytest.mark.parametrize(
    "path",
    [
        "logs/runs/2026-11-24_03-00-00_123", "a b", "it's", "a,b", "[x]", "{x}", "(x)", "a=b", "a:b", "$HOME", "ü",
        "#c", "~/x", "a\tb", '"q"', "a;b|c&d*?", "a\\b", "a\\'b", "\\\\'", "x\\", "C:\\new\\test\\", "", "null", "True",
        "1e3", "12", "1_2", ".5", "-inf", "nan",
    ],
)  # fmt: skip
def test_override_is_read_as_written_by_the_shell_and_hydra(path):
    (argument,) = shlex.split(as_override("resume", path))
    override = OverridesParser.create().parse_override(argument)
    assert (override.key_or_group, override.value()) == ("resume", path)


def test_override_is_quoted_only_if_it_must_be():
    for path in ("logs/runs/2026-11-24_03-00-00_123", "2026-11-24_03-00-00_123", "./1", "run"):
        assert as_override("resume", path) == f"resume={path}"


def test_path_below_the_working_directory_is_shortened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shorten(tmp_path / "logs" / "run") == str(Path("logs", "run"))
    assert shorten(tmp_path) == "."
    assert shorten(tmp_path.parent / "other") == str(tmp_path.parent / "other")


def test_existing_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^resume=run: no such directory; expected a run directory"):
        existing_run("resume", "run")
    Path("run").mkdir()
    with pytest.raises(UserError, match=r"^resume=run: it holds no config\.yaml; expected a run directory"):
        existing_run("resume", "run")
    Path("run", "config.yaml").touch()
    assert existing_run("resume", "run") == tmp_path / "run"
    Path("run", "overrides.yaml").write_text("- checkpoint=best.ckpt\n")
    with pytest.raises(UserError, match=r"^reproduce=run: this is the directory of an evaluation; expected a training"):
        existing_run("reproduce", "run")
