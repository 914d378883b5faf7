"""torchvision's download, with an answer for the day that the network is not there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchvision.datasets.utils import check_integrity

from blitz.errors import UserError


def download(dataset: Any, root: str, archives: Mapping[str, str]) -> None:
    """Have torchvision find, verify, or else download and verify ``dataset`` below ``root``.

    Args:
        dataset: a torchvision data set's class.
        archives: path below ``root`` to MD5 of what the data set is downloaded as.

    Raises:
        UserError: it is not there, or damaged, and cannot be downloaded.
    """
    folder = Path(root).expanduser()
    folders = sorted(
        {parent for name in archives for parent in (folder / name).parents if parent.is_relative_to(folder)}
    )
    made = [path for path in folders if not path.exists()]
    try:
        dataset(folder, train=False, download=True)  # verifies all, and loads the smaller split
    except (OSError, RuntimeError, EOFError) as error:
        for path in reversed(made):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        damaged = [
            name
            for name, md5 in archives.items()
            if (folder / name).exists() and not check_integrity(folder / name, md5)
        ]
        state = (
            f"{damaged[0]} in {folder} is incomplete or corrupt"
            if damaged
            else f"{dataset.__name__} is not in {folder}"
        )
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{state}, and downloading it failed ({reason}): "
            f"put {', '.join(archives)} there, or take data=digits, which needs nothing"
        ) from error
