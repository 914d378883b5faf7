"""OmegaConf resolvers that the files in ``configs/`` use."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blitz.config.literals import protect
from blitz.config.names import run_directory, sweep_directory
from blitz.config.paths import PROJECT, as_text, choices, groups
from blitz.errors import UserError


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


def config_groups(config_name: str) -> str:
    """Return one line per config group in the defaults list of a config, with the choices that it accepts."""
    return "\n".join(f"{name}: {', '.join(choices(name))}" for name in sorted(groups(config_name)) if name != "hydra")


RESOLVERS: dict[str, Callable[..., Any]] = {
    "project": lambda: str(PROJECT),
    "len": number_of,
    "class_folders": class_folders,
    "run_directory": run_directory,
    "sweep_directory": sweep_directory,
    "config_groups": config_groups,
    "coalesce": lambda *values: next((value for value in values if value is not None), None),
}
