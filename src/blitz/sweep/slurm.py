"""Launchers that submit the jobs of a sweep to SLURM, or start them on this machine as SLURM would."""

import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

from blitz.errors import UserError
from blitz.sweep.job import Job
from blitz.sweep.launcher import JobLauncher
from blitz.sweep.runner import Executor

# Options of sbatch that other keys set, or without which a job could not be queued again and found again.
RESERVED = {
    "time": "timeout_min", "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint",
    "gpus-per-node": "gpus_per_node", "cpus-per-task": "cpus_per_task", "mem": "mem_gb", "signal": "signal_delay_s",
    **dict.fromkeys(("array", "nodes", "ntasks", "ntasks-per-node", "job-name", "output", "error", "open-mode",
                     "requeue", "no-requeue", "wrap"), ""),
}  # fmt: skip


class SubmititLauncher(JobLauncher):
    """Run jobs through submitit. Subclasses say where.

    Args:
        n_jobs: jobs that are submitted at the same time. None: all.
        timeout_min: time limit in minutes. A job that reaches it is saved and queued again.
        signal_delay_s: seconds before the time limit at which the job is told to save.
        max_num_timeout: times that a job is queued again because of its time limit. Pre-emption does not count.
        gpus_per_node: GPUs of a job.
    """

    def __init__(
        self, n_jobs: int | None, timeout_min: int, signal_delay_s: int, max_num_timeout: int, gpus_per_node: int | None
    ) -> None:
        _check_number("n_jobs", n_jobs, 1)
        _check_number("timeout_min", timeout_min, 1)
        _check_number("max_num_timeout", max_num_timeout, 0)
        _check_number("gpus_per_node", gpus_per_node, 0)
        if not 0 < signal_delay_s < 60 * timeout_min:
            raise UserError(
                f"hydra.launcher.signal_delay_s={signal_delay_s}: not a valid value; expected seconds between 1 and "
                f"{60 * timeout_min - 1}, less than timeout_min={timeout_min}"
            )
        self.n_jobs, self.gpus_per_node, self.max_num_timeout = n_jobs, gpus_per_node, max_num_timeout
        self.parameters: dict[str, Any] = {"timeout_min": timeout_min, "gpus_per_node": gpus_per_node}
        self.signal_delay_s = signal_delay_s

    def check(self, config: DictConfig) -> None:
        """Check that the jobs fit where they are to run.

        Raises:
            UserError: they do not, or a program or package is missing.
        """
        if find_spec("submitit") is None:
            launcher = self.config.hydra.runtime.choices["hydra/launcher"]
            raise UserError(
                f"hydra/launcher={launcher}: submitit is not installed; "
                "install it with: python -m uv pip install -e '.[slurm]'"
            )
        if (nodes := OmegaConf.select(config, "trainer.num_nodes")) not in (None, 1):
            raise UserError(
                f"trainer.num_nodes={nodes}: not possible in a sweep; expected 1, because a job has one node"
            )
        devices = OmegaConf.select(config, "trainer.devices")
        on_gpus = OmegaConf.select(config, "trainer.accelerator") in ("cuda", "gpu")
        if on_gpus and isinstance(devices, int) and self.gpus_per_node is not None and devices > self.gpus_per_node:
            raise UserError(
                f"trainer.devices={devices}: more than hydra.launcher.gpus_per_node={self.gpus_per_node}; "
                f"expected at most {self.gpus_per_node} devices, or more GPUs"
            )


class SlurmLauncher(SubmititLauncher):
    """Submit each job to SLURM. They run on without this process, and the same command waits for them again.

    Args:
        partition: passed to sbatch, like ``account``, ``qos`` and ``constraint``.
        mem_gb: memory of a job in GiB.
        additional_parameters: other options of sbatch and their values, such as ``{mail-type: END}``.
        setup: lines of shell that run before the job, such as ``module load cuda``.
    """

    def __init__(
        self,
        n_jobs: int | None = None,
        timeout_min: int = 240,
        signal_delay_s: int = 90,
        max_num_timeout: int = 10,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        gpus_per_node: int | None = None,
        cpus_per_task: int | None = None,
        mem_gb: float | None = None,
        additional_parameters: Mapping[str, Any] | None = None,
        setup: Sequence[str] | None = None,
    ) -> None:
        super().__init__(n_jobs, timeout_min, signal_delay_s, max_num_timeout, gpus_per_node)
        _check_number("cpus_per_task", cpus_per_task, 1)
        if mem_gb is not None and not mem_gb > 0:
            raise UserError(f"hydra.launcher.mem_gb={mem_gb}: not a valid value; expected GiB > 0, or null")
        additional = {str(key).replace("_", "-"): value for key, value in (additional_parameters or {}).items()}
        for name in additional:
            if name in RESERVED:
                use = (
                    f"expected hydra.launcher.{RESERVED[name]}" if RESERVED[name] else "a job has one task on one node"
                )
                raise UserError(f"hydra.launcher.additional_parameters.{name}: blitz sets this option of sbatch; {use}")
        self.parameters |= {
            "cpus_per_task": cpus_per_task,
            "mem_gb": mem_gb,
            "nodes": 1,
            "tasks_per_node": 1,
            "stderr_to_stdout": True,
            "slurm_signal_delay_s": signal_delay_s,
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_qos": qos,
            "slurm_constraint": constraint,
            "slurm_setup": list(setup or ()),
            # srun does not take the number of CPUs from sbatch since SLURM 22.05.
            "slurm_srun_args": [f"--cpus-per-task={cpus_per_task}"] if cpus_per_task else None,
            "slurm_additional_parameters": {**additional, "requeue": True},  # clusters may have turned this off
        }

    def job(self, number: int, overrides: Sequence[str], swept: Sequence[str]) -> Job:
        job = super().job(number, overrides, swept)
        job.queued = True
        return job

    def executor(self, config: DictConfig, total: int) -> Executor:
        self.check(config)
        for program in ("sbatch", "srun", "squeue"):
            if shutil.which(program) is None:
                raise UserError(
                    f"hydra/launcher=slurm: there is no {program} on PATH; expected a machine of a SLURM cluster, or "
                    "hydra/launcher=process"
                )
        from blitz.sweep.cluster import SlurmExecutor

        slots = self.n_jobs or total
        return SlurmExecutor(self.context, self.task, self.sweep_dir, slots, self.max_num_timeout, self.parameters)


class SubmititLocalLauncher(SubmititLauncher):
    """Start jobs on this machine through submitit, to try a sweep before it goes to a cluster. They end with it."""

    def __init__(
        self, n_jobs: int = 1, timeout_min: int = 240, signal_delay_s: int = 90, gpus_per_node: int | None = None
    ) -> None:
        super().__init__(n_jobs, timeout_min, signal_delay_s, 5, gpus_per_node)  # submitit starts a job six times
        self.slots = n_jobs
        self.parameters |= {"signal_delay_s": signal_delay_s, "stderr_to_stdout": True}

    def executor(self, config: DictConfig, total: int) -> Executor:
        self.check(config)
        from blitz.sweep.cluster import LocalExecutor

        return LocalExecutor(self.context, self.task, self.sweep_dir, self.slots, self.max_num_timeout, self.parameters)


def _check_number(name: str, value: int | None, minimum: int) -> None:
    if value is not None and value < minimum:
        raise UserError(f"hydra.launcher.{name}={value}: not a valid value; expected a whole number >= {minimum}")
