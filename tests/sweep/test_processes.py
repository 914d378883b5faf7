"""Places for jobs: processes, threads and GPUs."""

import signal
import time

import pytest
from omegaconf import OmegaConf

from blitz.process import ranks
from blitz.sweep import processes
from blitz.sweep.job import Job, Outcome
from blitz.sweep.processes import Places, places


def config(accelerator="cpu", devices=1, **device):
    return OmegaConf.create({"trainer": {"accelerator": accelerator, "devices": devices}, "device": device})


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch):
    monkeypatch.setattr(ranks, "num_cores", lambda: 8)
    monkeypatch.setattr(processes, "_gpus", lambda: [])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_cores_are_divided_among_the_jobs(monkeypatch):
    assert places(config(), 100, None, 1) == Places(8, threads=1)
    assert places(config(), 3, None, 1) == Places(3, threads=2)
    assert places(config("auto"), 100, 2, 1) == Places(2, threads=4)
    assert places(config(), 100, 20, 1) == Places(20, threads=1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert places(config(), 100, 2, 1) == Places(2, threads=3)


def test_one_job_per_gpu_unless_more_are_asked_for(monkeypatch):
    monkeypatch.setattr(processes, "_gpus", lambda: ["2", "GPU-5"])
    assert places(config("auto"), 100, None, 1) == Places(2, 4, ["2", "GPU-5"])
    assert places(config("cuda"), 100, None, 2) == Places(4, 2, ["2", "GPU-5", "2", "GPU-5"])
    assert places(config("cuda"), 100, 3, 1) == Places(3, 2, ["2", "GPU-5", "2"])
    assert places(config("cpu"), 100, None, 1) == Places(8, 1), "a job on the CPU needs no GPU"


def test_job_with_several_devices_runs_alone():
    assert places(config("cpu", 2, process_per_device=True), 10, None, 1) == Places(1, threads=None)
    assert places(config("cuda", "auto"), 10, None, 1) == Places(1, threads=None)
    assert places(config("mps"), 10, None, 1).slots == 1


def test_visible_gpus_are_those_of_the_variable(monkeypatch):
    monkeypatch.undo()
    for value, names in (("3,5", ["3", "5"]), ("", []), ("-1", []), ("GPU-8a", ["GPU-8a"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert processes._gpus() == names


def test_number_of_gpus_is_asked_in_another_process(monkeypatch):
    """A context of CUDA in this process would take memory of the GPU for as long as the sweep runs."""
    import torch

    monkeypatch.undo()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(processes, "START_METHOD", "fork")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes._gpus() == ["0", "1"]


def test_reason_of_a_death():
    assert processes._death(-signal.SIGKILL) == "its process was killed by SIGKILL; out of memory?"
    assert processes._death(-signal.SIGSEGV) == "its process was killed by SIGSEGV"
    assert processes._death(7) == "its process ended with status 7"


def test_outcome_that_is_larger_than_a_pipe(tmp_path, monkeypatch):
    """The job cannot end before somebody has read it."""
    monkeypatch.undo()
    monkeypatch.setattr(processes, "START_METHOD", "fork")
    monkeypatch.setattr(processes, "run_attempt", lambda *_: Outcome("failed", reason="x" * 1_000_000))
    monkeypatch.setattr(processes, "pickled_work", lambda *_: b"")
    executor = processes.ProcessExecutor(None, None, lambda: Places(1, threads=1), timeout=None)
    executor.start(Job(0, [], "job", tmp_path / "job", None))
    deadline = time.monotonic() + 60
    while not (ended := executor.wait(0.2)):
        assert time.monotonic() < deadline
    ((_, outcome),) = ended
    assert (outcome.state, len(outcome.reason)) == ("failed", 1_000_000)
