"""OmegaConf resolvers that the files in ``configs/`` use."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blitz.config.literals import protect
from blitz.config.paths import PROJECT, as_text, choices, existing_run, groups
from blitz.errors import UserError

AUTO = "auto"  # resume=auto: resume the run if there is one, otherwise start it


def class_folders(root: str) -> list[str]:
    """Return the class names of an image folder, the directories in ``root/train``, protected from interpolation."""
    train = Path(root).expanduser() / "train"
    if not train.is_dir():
        raise UserError(
            f"data.root={root}: no directory {train}; expected train/<class>/* and test/<class>/* in data.root"
        )
    names = class_names(train)
    if not names:
        raise UserError(f"data.root={root}: {train} has no class directories; expected images in {train}/<class>/")
    return list(protect(names))


def class_names(directory: Path) -> list[str]:
    """Return the names of the class directories in the directory of a split, in code-point order.

    Names are decoded as UTF-8 in any locale. Hidden directories are not classes.

    Raises:
        UserError: a name is not UTF-8. Config, tables and curves could not hold such a name.
    """
    names = []
    for entry in directory.iterdir():
        if not entry.name.startswith(".") and entry.is_dir():
            try:
                names.append(os.fsencode(entry.name).decode())
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{as_text(entry)}: the name of this class directory is not UTF-8; expected a name in UTF-8"
                ) from error
    return sorted(names)


def number_of(values: Any) -> int:
    """Return the length of a list. Return 0 for anything else: the class that receives the value refuses it."""
    return len(values) if hasattr(values, "__len__") else 0


def directory_name(overrides: str) -> str:
    """Return overrides as a directory name of at most 150 bytes that needs no quotes in a shell, Hydra or Windows."""
    name = re.sub(r"[^\w.+-]+", "-", overrides).strip("-.") or "defaults"
    if len(name.encode()) > 150:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[:140].decode(errors='ignore')}-{digest}"
    return name


def run_directory(resume: str | None, default: str) -> str:
    """Return the directory that Hydra runs a job in: the one of the resumed run, otherwise ``default``."""
    if resume is None:
        return default
    if resume == AUTO:
        raise UserError("resume=auto: it resumes the run in hydra.run.dir; add hydra.run.dir=DIR")
    return str(existing_run("resume", resume))


def sweep_directory(overrides: Sequence[str], default: str) -> str:
    """Return ``default``, the directory of a sweep. Refuse ``resume=``, which names a single run."""
    for override in overrides:
        if override.lstrip("+").startswith("resume="):
            raise UserError(f"{override}: a sweep cannot resume a single run; leave out -m")
    return default


def config_groups(config_name: str) -> str:
    """Return one line per config group in the defaults list of a config, with the choices that it accepts."""
    return "\n".join(f"{name}: {', '.join(choices(name))}" for name in sorted(groups(config_name)) if name != "hydra")


RESOLVERS: dict[str, Callable[..., Any]] = {
    "project": lambda: str(PROJECT),
    "len": number_of,
    "class_folders": class_folders,
    "directory_name": directory_name,
    "run_directory": run_directory,
    "sweep_directory": sweep_directory,
    "config_groups": config_groups,
    "coalesce": lambda *values: next((value for value in values if value is not None), None),
}
