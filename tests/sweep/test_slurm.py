"""Settings of the launchers that use submitit, and what they refuse."""

import subprocess
import sys

import pytest

from blitz.errors import UserError
from blitz.sweep.slurm import SlurmLauncher
from tests.cluster import Cluster
from tests.conftest import error_of


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path / "cluster", run=False)
    monkeypatch.setenv("PATH", cluster.env["PATH"])
    yield cluster
    cluster.close()


@pytest.fixture
def refusal(command, tmp_path):
    """``refusal(launcher, *overrides)`` returns the one line with which a sweep fails."""

    def run(launcher, *overrides):
        fixed = ("-m", f"hydra/launcher={launcher}", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
        return error_of(command, "blitz-train", *fixed, *overrides).removeprefix("blitz-train: ")

    return run


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"n_jobs": 0}, "expected a whole number >= 1"),
        ({"timeout_min": 0}, "expected a whole number >= 1"),
        ({"max_num_timeout": -1}, "expected a whole number >= 0"),
        ({"gpus_per_node": -1}, "expected a whole number >= 0"),
        ({"cpus_per_task": 0}, "expected a whole number >= 1"),
        ({"mem_gb": 0}, "expected GiB > 0, or null"),
        ({"signal_delay_s": 14400}, "expected seconds between 1 and 14399, less than timeout_min=240"),
    ],
)
def test_invalid_settings(settings, expected):
    ((name, value),) = settings.items()
    with pytest.raises(UserError) as error:
        SlurmLauncher(**settings)
    assert str(error.value) == f"hydra.launcher.{name}={value}: not a valid value; {expected}"


def test_invalid_setting_of_a_local_sweep(refusal):
    assert refusal("submitit_local", "hydra.launcher.n_jobs=0").startswith("hydra.launcher.n_jobs=0: not a valid value")


@pytest.mark.parametrize(
    ("option", "expected"),
    [("ntasks", "a job has one task on one node"), ("time", "expected hydra.launcher.timeout_min")],
)
def test_options_that_other_settings_set(option, expected):
    with pytest.raises(
        UserError, match=f"additional_parameters.{option}: blitz sets this option of sbatch; {expected}"
    ):
        SlurmLauncher(additional_parameters={option: 1})


def test_unknown_setting_is_refused(refusal):
    assert refusal("slurm", "hydra.launcher.nodes=2").startswith("hydra.launcher.nodes")


def test_jobs_must_fit_on_a_node(cluster, refusal):
    assert refusal("slurm", "device=ddp_cpu", "trainer.num_nodes=2") == (
        "trainer.num_nodes=2: not possible in a sweep; expected 1, because a job has one node"
    )
    assert refusal("slurm", "device=ddp", "trainer.devices=4", "hydra.launcher.gpus_per_node=2") == (
        "trainer.devices=4: more than hydra.launcher.gpus_per_node=2; expected at most 2 devices, or more GPUs"
    )
    assert not cluster.jobs


def test_without_slurm(refusal, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal("slurm") == (
        "hydra/launcher=slurm: there is no sbatch on PATH; expected a machine of a SLURM cluster, or "
        "hydra/launcher=process"
    )


def test_without_submitit(refusal, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert refusal("submitit_local") == (
        "hydra/launcher=submitit_local: submitit is not installed; "
        "install it with: python -m uv pip install -e '.[slurm]'"
    )


def test_refusal_of_slurm_is_one_line(cluster, refusal):
    assert refusal("slurm", "hydra.launcher.partition=nowhere") == (
        "hydra.launcher: SLURM refused a job: sbatch: error: invalid partition specified: nowhere"
    )


def test_hydra_finds_the_launchers_without_importing_submitit():
    """Hydra imports the plugins at every start."""
    program = "import sys, hydra_plugins.blitz_sweeps; sys.exit('submitit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
