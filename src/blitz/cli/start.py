"""Start a console script. Imports almost nothing, so that a Ctrl-C during the imports of Hydra ends it silently."""

import os
from collections.abc import Callable
from typing import Any

from blitz.process import signals


def run(task: Callable[[Any], Any], config_name: str) -> None:
    """Import ``cli.app`` and run the task. A signal ends the process at once until then: there is nothing to save."""
    with signals.handled_by(lambda number, _: os._exit(signals.exit_status(number))):
        from blitz.cli import app
    app.run(task, config_name)
