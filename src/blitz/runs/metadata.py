"""Metadata of a run: command, packages, machine and git commit."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

from blitz.config.paths import PROJECT

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "tensorboard",
    "numpy",
    "blitz",
)


def environment() -> dict[str, Any]:
    """Return the entries of ``environment.json`` about this process and machine."""
    import torch  # here, because a run directory can be read without it

    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git_commit": git("rev-parse", "HEAD").decode().strip() or None,
        "git_status": git("status", "--porcelain").decode(errors="replace").splitlines(),
    }


def uncommitted() -> bytes:
    """Return the uncommitted changes of the project as a patch, including new files in src/ and configs/."""
    new = git("ls-files", "--others", "--exclude-standard", "-z", "--", "src", "configs").decode(
        errors="surrogateescape"
    )
    patches = [git("diff", "--no-index", "--binary", "--", os.devnull, name) for name in new.split("\0") if name]
    return b"".join([git("diff", "HEAD", "--binary"), *patches])


def git(*arguments: str) -> bytes:
    """Return the output of a git command in the project; empty if there is no git or no repository."""
    try:
        # "status" would lock the index to refresh it, and a killed run would leave the lock behind.
        done = subprocess.run(["git", "--no-optional-locks", *arguments], cwd=PROJECT, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode in (0, 1) else b""  # 1: diff --no-index found a difference
