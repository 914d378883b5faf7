"""Run directories: create, read, lock, resume and reproduce them, and load their models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blitz.runs.checkpoint import load as load


def __getattr__(name: str) -> Any:
    """Import ``load`` on first use: it needs torch, which the checks of a command line do not wait for."""
    if name == "load":
        from blitz.runs.checkpoint import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
