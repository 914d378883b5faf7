"""Download through torchvision, with a message that helps if there is no network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchvision.datasets.utils import check_integrity

from blitz.errors import UserError


def download(dataset: Any, root: str, archives: Mapping[str, str]) -> None:
    """Find and verify a torchvision data set below ``root``; otherwise download and verify it.

    Args:
        dataset: the data set's class.
        archives: MD5 of each archive of the data set, by its path below ``root``.

    Raises:
        UserError: the data set is missing or damaged, and cannot be downloaded.
    """
    directory = Path(root).expanduser()
    new = _missing_directories(directory, archives)
    try:
        dataset(directory, train=False, download=True)  # verifies all archives, and loads the smaller split
    except (OSError, RuntimeError, EOFError) as error:
        for path in reversed(new):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"data.root={root}: {_state(dataset, directory, archives)}, and downloading it failed ({reason}); "
            f"put {', '.join(archives)} there, or use data=digits, which needs no download"
        ) from error


def _missing_directories(root: Path, archives: Mapping[str, str]) -> list[Path]:
    """Return the directories that a download will create, outer ones first."""
    parents = {parent for name in archives for parent in (root / name).parents if parent.is_relative_to(root)}
    return sorted(path for path in parents if not path.exists())


def _state(dataset: Any, directory: Path, archives: Mapping[str, str]) -> str:
    for name, md5 in archives.items():
        if (directory / name).exists() and not check_integrity(directory / name, md5):
            return f"{name} in {directory} is incomplete or corrupt"
    return f"{dataset.__name__} is not in {directory}"
