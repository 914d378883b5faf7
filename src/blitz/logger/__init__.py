"""Loggers that resume: a resumed run continues the files of the interrupted one.

``position(step)`` returns how much has been written; it is saved in checkpoints. ``truncate_to(position)`` removes what
was written later. Call it before anything is logged; an empty position removes everything.
"""

import os
from pathlib import Path


def sync_to_disk(path: Path) -> None:
    """Make the content of a file survive a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
