"""One attempt of a job, in a process of its own."""

import os
import pickle
from pathlib import Path

from hydra.core.utils import JobStatus, run_job, setup_globals
from omegaconf import open_dict

from blitz.config.schema import register
from blitz.errors import PrunedError
from blitz.process import ranks
from blitz.runs.status import STATUS
from blitz.sweep.job import OUTPUT, Outcome


def run_attempt(work: bytes, config: bytes, path: Path) -> Outcome:
    """Run a job, or resume it if its directory holds a run, and return its outcome.

    What it prints is added to ``output.log``.

    Args:
        work: pickled Hydra context and task.
        config: pickled config of the job.
        path: the directory of the job.

    Raises:
        SystemExit: a signal stopped the job.
    """
    setup_globals()
    register()
    if "OMP_NUM_THREADS" in os.environ:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # a fork has imported torch before it was set
    context, task = pickle.loads(work)
    cfg = pickle.loads(config)
    path.mkdir(parents=True, exist_ok=True)
    if (path / "error.txt").exists():
        (path / "metrics.json").unlink(missing_ok=True)  # they were not finite
    for name in (STATUS, "error.txt"):
        (path / name).unlink(missing_ok=True)
    if (path / "config.yaml").exists():
        with open_dict(cfg):
            cfg.resume = str(path)
    ranks.redirect_output(path / OUTPUT)
    job = run_job(task, cfg, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    if job.status is JobStatus.COMPLETED:
        return Outcome("done", job.return_value)
    try:
        job.return_value  # noqa: B018 raises the exception of the job
    except PrunedError as pruned:
        return Outcome("pruned", reason=str(pruned))
    except Exception as error:
        return Outcome("failed", reason=str(error))
    raise AssertionError("a job that failed returns an exception")
