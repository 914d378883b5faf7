"""Check which code a checkpoint may call. Loading it calls every ``_target_`` in its config."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from blitz.config.paths import PROJECT
from blitz.errors import UserError

PACKAGES = ("blitz", "torch", "torchvision", "torchmetrics", "lightning", "timm")
# Modules of these packages that hold networks, data sets and optimizers. Others, such as torch.hub, torch.load and
# blitz.process, can run commands or load other files.
PARTS = (
    *(f"blitz.{part}" for part in ("data", "model", "task", "optimizer", "schedule", "callback", "logger", "device")),
    *("torch.nn", "torch.optim", "torch.utils.data", "torchvision", "torchmetrics", "lightning", "timm"),
)


def check_trusted(node: Any, key: str, source: Path) -> None:
    """Refuse a config with a target outside of ``PARTS`` and this project.

    This keeps someone else's checkpoint from running a command. It does not make such a file harmless.

    Args:
        node: a part of the config, as nested dicts and lists.
        key: dotted key of ``node``, for the message.
        source: file that holds the config, for the message.

    Raises:
        UserError: a target is not trusted; the message names it.
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
        return False  # not imported: an import runs code
    try:
        module = str(getattr(get_object(target), "__module__", package))
    except Exception:  # it does not exist in this version: instantiating it explains that
        return True
    return module == "torch" or any(f"{module}.".startswith(f"{part}.") for part in PARTS)  # torch.os.system is in os


def _is_of_project(package: str) -> bool:
    """Return whether a top-level package, other than those of ``PACKAGES``, lies in this project."""
    spec = find_spec(package) if package.isidentifier() and package not in PACKAGES else None
    origin = Path(spec.origin) if spec and spec.origin else None
    locations = list(spec.submodule_search_locations or []) if spec else []
    folder = origin or (Path(locations[0]) if locations else None)
    return folder is not None and folder.is_relative_to(PROJECT) and "site-packages" not in folder.parts
