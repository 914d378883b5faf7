"""Which code a checkpoint may name. Its config holds ``_target_`` values, and loading it calls them."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from blitz.config.paths import PROJECT
from blitz.errors import UserError

PACKAGES = ("blitz", "torch", "torchvision", "torchmetrics", "lightning", "timm")
# Parts of these packages that a network, a data set or an optimizer comes from. The others can run commands or load
# other files: torch.hub, torch.load, blitz.process.
PARTS = (
    *(f"blitz.{part}" for part in ("data", "model", "task", "optimizer", "schedule", "callback", "logger", "device")),
    *("torch.nn", "torch.optim", "torch.utils.data", "torchvision", "torchmetrics", "lightning", "timm"),
)


def check_trusted(node: Any, key: str, source: Path) -> None:
    """Refuse a config whose targets are not in ``PACKAGES`` or in this project.

    This keeps a checkpoint of somebody else from running a command. It does not make such a file harmless.

    Args:
        key: of the node, for the message, like ``source``, the file that it comes from.

    Raises:
        UserError: the message names the target.
    """
    for path, target in _targets(node, key):
        if not _is_trusted(target):
            raise UserError(
                f"{source}: {path}._target_={target} is not trusted; expected a class of {', '.join(PACKAGES)} "
                "or of this project; if you trust the file, add trust=true"
            )


def _targets(node: Any, path: str) -> Iterator[tuple[str, str]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key == "_target_":
            yield path, str(value)
        yield from _targets(value, f"{path}.{key}")


def _is_trusted(target: str) -> bool:
    package = target.partition(".")[0]
    if _is_of_project(package):
        return True
    if package not in PACKAGES:
        return False  # without importing it
    try:
        module = str(getattr(get_object(target), "__module__", package))
    except Exception:  # it does not exist in this version: instantiating it explains that
        return True
    return module == "torch" or any(f"{module}.".startswith(f"{part}.") for part in PARTS)  # torch.os.system is of os


def _is_of_project(package: str) -> bool:
    """Return whether a top-level package other than blitz lies in this project."""
    spec = find_spec(package) if package.isidentifier() and package not in PACKAGES else None
    origin = Path(spec.origin) if spec and spec.origin else None
    locations = list(spec.submodule_search_locations or []) if spec else []
    folder = origin or (Path(locations[0]) if locations else None)
    return folder is not None and folder.is_relative_to(PROJECT) and "site-packages" not in folder.parts
