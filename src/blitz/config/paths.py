"""Paths of the project and of run directories, and paths as the user types them."""

import os
import re
import shlex
from pathlib import Path

import yaml

from blitz.errors import UserError

PROJECT = Path(__file__).resolve().parents[3]
CONFIGS = PROJECT / "configs"
# Values that Hydra's grammar reads as a number, a truth value or null unless they are quoted.
NOT_TEXT = r"[+-]?[\d_]*\.?[\d_]*(e[+-]?[\d_]+)?|[+-]?(inf|nan)|null|true|false"


def existing_run(key: str, run: str) -> Path:
    """Return the absolute path of a training run's directory.

    Args:
        key: the override that names the run, for the error message.

    Raises:
        UserError: the directory does not exist, or does not hold a training run.
    """
    path = Path(run).expanduser().absolute()
    if not path.is_dir():
        raise UserError(f"{key}={run}: no such directory; expected a run directory such as logs/runs/NAME")
    if not (path / "config.yaml").is_file():
        raise UserError(f"{key}={run}: it holds no config.yaml; expected a run directory such as logs/runs/NAME")
    overrides = path / "overrides.yaml"
    if overrides.is_file() and overrides.read_text(encoding="utf-8").startswith("- checkpoint="):
        raise UserError(f"{key}={run}: this is the directory of an evaluation; expected a training run")
    return path


def shorten(path: Path) -> str:
    """Return the path relative to the working directory if it lies below it, otherwise the path itself."""
    relative = os.path.relpath(path) if path.drive == Path.cwd().drive else str(path)
    return str(path) if relative.startswith("..") else relative


def as_text(path: str | os.PathLike[str]) -> str:
    """Return a path as text that can be encoded in UTF-8. Bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def as_override(key: str, path: str | Path) -> str:
    """Return ``key=path`` for a command line, quoted for Hydra's grammar and for the shell if either needs it."""
    text = str(path)
    if not re.fullmatch(r"[A-Za-z0-9_./:+-]+", text) or re.fullmatch(NOT_TEXT, text, re.IGNORECASE):
        text = as_hydra_text(text)
    override = f"{key}={text}"
    needs_single_quotes = re.search(r'["$`\\!]', override)  # a shell expands these in double quotes
    return f'"{override}"' if "'" in override and not needs_single_quotes else shlex.quote(override)


def as_hydra_text(text: str) -> str:
    """Return ``text`` in single quotes, so that Hydra's grammar takes it literally."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"


def groups(config_name: str) -> dict[str, str | None]:
    """Return the config groups in the defaults list of a config, with their choices."""
    defaults = yaml.safe_load((CONFIGS / f"{config_name}.yaml").read_text(encoding="utf-8"))["defaults"]
    found = {name: choice for entry in defaults if isinstance(entry, dict) for name, choice in entry.items()}
    return {name: choice for name, choice in found.items() if " " not in name}  # not "override hydra/launcher"


def choices(group: str) -> list[str]:
    """Return the names that ``group=`` accepts. Files that begin with an underscore are parts of other configs."""
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml") if not file.stem.startswith("_"))
