"""Start a console script. This imports almost nothing, so that Ctrl-C ends it silently even while Hydra is imported."""

import os
from collections.abc import Callable
from typing import Any

from blitz.process import signals


def run(task: Callable[[Any], Any], config_name: str) -> None:
    """Import ``cli.app`` and run the task. Until then a signal ends the process at once: there is nothing to save."""
    with signals.handled_by(lambda number, _: os._exit(signals.exit_status(number))):
        from blitz.cli import app
    app.run(task, config_name)
