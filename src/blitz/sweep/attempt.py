"""One attempt of a job, in a process of its own."""

import pickle
from pathlib import Path
from typing import Any

from hydra import version
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import open_dict

from blitz.config.schema import register
from blitz.errors import PrunedError
from blitz.process import ranks
from blitz.runs.status import STATUS
from blitz.sweep.job import OUTPUT, Outcome


def pickled_work(context: HydraContext, task: TaskFunction) -> bytes:
    """Return the task and the context that all jobs of a sweep share."""
    return pickle.dumps((context, task))


def run_attempt(work: bytes, config: bytes, path: Path) -> Outcome:
    """Run a job, or resume it if its directory holds a run, and return its outcome.

    Its output is added to ``output.log``.

    Args:
        work: from ``pickled_work``.
        config: pickled config of the job.
        path: the directory of the job.

    Raises:
        SystemExit: a signal stopped the job.
    """
    setup_globals()
    register()
    if threads := ranks.requested_threads():
        import torch

        torch.set_num_threads(threads)  # a fork has imported torch before the variable was set
    context, task = pickle.loads(work)
    cfg = pickle.loads(config)
    version.setbase(cfg.hydra.runtime.version_base)
    path.mkdir(parents=True, exist_ok=True)
    if (path / "error.txt").exists():
        (path / "metrics.json").unlink(missing_ok=True)  # they were not finite
    for name in (STATUS, "error.txt"):
        (path / name).unlink(missing_ok=True)
    if (path / "config.yaml").exists():
        with open_dict(cfg):
            cfg.resume = str(path)
    ranks.redirect_output(path / OUTPUT)
    errors: list[Exception] = []

    def call(cfg: Any) -> Any:
        try:
            return task(cfg)
        except Exception as error:
            errors.append(error)
            raise

    job = run_job(call, cfg, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    if not errors:
        return Outcome("done", job.return_value)
    outcome = Outcome("pruned" if isinstance(errors[0], PrunedError) else "failed", reason=str(errors[0]))
    print(f"{outcome.state}: {outcome.reason}", flush=True)
    return outcome
