"""Ranks without torch: how they are started, supervised and ended; and SLURM's variables."""

import os
import re
import signal
import sys
import threading
import time
from functools import partial

import pytest

from blitz.errors import PrunedError, UserError
from blitz.process import ranks


def rendezvous(directory, failing=None, how=None):
    """Wait for all ranks, or forever if rank ``failing`` fails."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    (directory / f"arrived{rank}").touch()
    print(f"hello from {rank}")
    if rank == failing:
        if how == "raise":
            raise ValueError("no more")
        os._exit(7)
    while failing is not None or len(list(directory.glob("arrived*"))) < count:
        time.sleep(0.01)
    return rank, sorted(name for name in os.environ if name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def test_rank_0_returns_the_value_and_the_environment_stays_unchanged(tmp_path, capfd):
    before = dict(os.environ)
    assert ranks.run(partial(rendezvous, tmp_path), 3, tmp_path, str) == (0, ["LOCAL_RANK", "RANK", "WORLD_SIZE"])
    assert dict(os.environ) == before
    assert capfd.readouterr().out.splitlines() == ["hello from 0"]
    assert (tmp_path / "rank2.log").read_text() == "hello from 2\n"


@pytest.mark.parametrize(
    ("rank", "how", "message"),
    [(1, "raise", "rank 1: no more"), (0, "raise", "no more"), (1, "exit", "rank 1 ended with status 7")],
)
def test_a_failed_rank_ends_the_others(rank, how, message, tmp_path):
    with pytest.raises(ranks.RankError, match=re.escape(message)):
        ranks.run(partial(rendezvous, tmp_path, rank, how), 2, tmp_path, str)


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows os.kill ends a process, whatever the signal")
def test_an_interrupt_of_the_parent_ends_the_ranks(tmp_path):
    interrupt = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(SystemExit, match="130"):
        ranks.run(partial(rendezvous, tmp_path, 5), 2, tmp_path, str)


def prune():
    raise PrunedError("worse than the others")


def test_ranks_that_are_pruned_do_not_count_as_failed(tmp_path):
    with pytest.raises(PrunedError, match="worse than the others"):
        ranks.run(prune, 2, tmp_path, str)


def fail_everywhere():
    raise ValueError("as in every rank")


def test_a_failure_of_all_ranks_is_reported_once(tmp_path):
    with pytest.raises(ranks.RankError) as error:
        ranks.run(fail_everywhere, 2, tmp_path, str)
    assert str(error.value) == "as in every rank"
    assert "fail_everywhere" in str(error.value.__cause__)


# -- SLURM ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[07-09,12],big1", "gpu07"), ("a1,a2", "a1"), ("rack1-[3,5]", "rack1-3"), ("n[2]", "n2"), ("one", "one")],
)
def test_first_host(nodes, first):
    assert ranks.first_host(nodes) == first


def _slurm(rank):
    return {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "blitz", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost",
    }  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """An environment without the variables of launchers; changes are undone."""
    remaining = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SLURM_", "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_", "MASTER_"))
    }
    monkeypatch.setattr(os, "environ", remaining)
    return remaining


def test_slurm_variables(environment):
    assert ranks.launched() is None
    environment |= _slurm(1) | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "gpu[07-08]"}
    environment["SLURM_PROCID"] = "3"
    assert ranks.launched() == (3, 4)
    contract = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [environment[name] for name in contract] == ["3", "1", "1", "4", "gpu07", "19711"]


def test_torchrun_inside_a_slurm_job(environment):
    environment |= _slurm(0) | {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
    assert ranks.launched() == (5, 8)


def test_a_slurm_allocation_without_a_step(environment):
    """A batch script or a shell runs outside of any step of srun."""
    environment |= _slurm(0)
    del environment["SLURM_STEP_NUM_TASKS"]
    assert ranks.launched() is None


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "abc"}, r"^RANK=abc: not a valid value of this environment variable; expected a whole number >= 0"),
        ({"RANK": "-1"}, "^RANK=-1: not a valid value"),
        ({"RANK": "", "LOCAL_RANK": "", "WORLD_SIZE": ""}, "^RANK=: not a valid value"),
        ({"WORLD_SIZE": "0"}, "^WORLD_SIZE=0: not a valid value .* >= 1"),
        ({"RANK": "5", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "^RANK=5: not smaller than WORLD_SIZE=2"),
        ({"SLURM_STEP_NUM_TASKS": "x"}, "^SLURM_STEP_NUM_TASKS=x: not a valid value"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "^SLURM_STEP_NUM_TASKS=2: SLURM_PROCID is not set"),
    ],
)
def test_malformed_variables_of_a_launcher(variables, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        ranks.launched()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cores_are_those_that_a_scheduler_grants():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert ranks.num_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("4,2", 4), ("", None), ("0", None), ("many", None)])
def test_requested_threads(value, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert ranks.requested_threads() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert ranks.requested_threads() is None
