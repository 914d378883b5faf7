"""Sweeps through submitit: on a stand-in for a SLURM cluster, and with submitit's local executor."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from blitz.runs.status import read_status
from blitz.sweep import cluster as sweep_cluster
from blitz.sweep.cluster import JOB_ID, SlurmExecutor
from blitz.sweep.display import Display
from blitz.sweep.job import Job
from tests import processes
from tests.cluster import Cluster

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for a cluster forks its jobs")
SABOTAGE = "+callback.sabotage={_target_:tests.sabotage.Sabotage,directory:'${hydra:runtime.output_dir}'}"
FAST = "from blitz.sweep import cluster; cluster.POLL_SECONDS, cluster.RESULT_SECONDS = 0.3, 0.5"
TRAIN = f"{FAST}; {processes.TRAIN}"
STEPS = ("trainer.max_epochs=4", "trainer.limit_train_batches=3", "trainer.log_every_n_steps=1")


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path / "cluster")
    yield cluster
    cluster.close()


def arguments(directory, launcher, *swept):
    fixed = ("-m", "device=cpu", "schedule=constant", "callback.last.every_n_steps=1", "threads=1", "seed=1", *STEPS)
    return [*fixed, f"hydra/launcher={launcher}", *swept, f"hydra.sweep.dir={directory}"]


def wait_for(condition, seconds=40):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(cluster, *command, program=TRAIN):
    """Start a sweep and write its output to files, so that a test can read it while the sweep runs."""
    files = [cluster.bin / f"{name}-{len(list(cluster.bin.iterdir()))}" for name in ("out", "err")]
    with files[0].open("wb") as out, files[1].open("wb") as err:
        process = processes.start(program, *command, env=cluster.env, stdout=out.fileno(), stderr=err.fileno())
    return process, *files


def job_of(sweep, how):
    return next(path for path in sweep.iterdir() if path.name.startswith(f"how-{how}-"))


def test_sweep_on_a_cluster_outlives_its_process_and_its_jobs_are_requeued(cluster, tmp_path):
    """One job raises. The other is pre-empted, then reaches its time limit too often, and is resumed each time."""
    sweep = tmp_path / "sweep"
    limits = ("hydra.launcher.timeout_min=5", "hydra.launcher.max_num_timeout=1")
    command = arguments(sweep, "slurm", SABOTAGE, "+callback.sabotage.how=slow,raise", *limits)
    cluster.held = True

    process, out, _ = start(cluster, *command)  # it is killed while both jobs are in the queue
    wait_for(lambda: len(list(sweep.glob(f"*/{JOB_ID}"))) == 2)
    wait_for(lambda: out.read_text().count("queued") == 2)
    process.kill()
    process.wait()
    cluster.release()

    process, out, err = start(cluster, *command)  # it finds them again
    slow = job_of(sweep, "slow")
    number = (slow / JOB_ID).read_text().strip()
    wait_for((slow / "checkpoints" / "resume.ckpt").exists)
    cluster.signal(number, signal.SIGTERM)  # pre-emption
    wait_for(lambda: cluster.jobs[number].starts == 2)
    wait_for(lambda: "resumed" in (slow / "output.log").read_text())
    cluster.signal(number, signal.SIGUSR2)  # the end of its time
    assert process.wait(90) == 1
    assert len(cluster.jobs) == 2
    assert (
        re.findall(r"^(queued|started|failed) +how=(\w+)", out.read_text(), re.MULTILINE).count(("failed", "raise"))
        == 1
    )
    assert "how=slow: it reached its time limit too often (hydra.launcher.max_num_timeout)" in err.read_text()
    assert (
        err.read_text().splitlines()[-1]
        == "blitz-train: 2 of 2 jobs failed; run the same command again to retry only these"
    )
    assert read_status(job_of(sweep, "raise")).reason.startswith("RuntimeError: sabotaged (")

    process, out, err = start(cluster, *command)  # it runs them again
    assert process.wait(90) == 0, err.read_text()
    assert len(cluster.jobs) == 4
    assert {cluster.jobs[number].state for number in ("3", "4")} == {"COMPLETED"}
    assert not list(sweep.glob(f"*/{JOB_ID}"))
    assert (slow / "output.log").read_text().count("resumed        after step") == 2

    process, out, _ = start(cluster, *command)
    assert process.wait(90) == 0
    assert "all 2 jobs are done already" in out.read_text()
    assert len(cluster.jobs) == 4


def test_ctrl_c_leaves_the_jobs_in_the_queue_and_says_how_to_cancel_them(cluster, tmp_path):
    cluster.held = True
    command = arguments(tmp_path / "sweep", "slurm", "optimizer.lr=0.1,0.2", "hydra.launcher.partition=short")
    process, out, err = start(cluster, *command)
    wait_for(lambda: out.read_text().count("queued") == 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert [job.state for job in cluster.jobs.values()] == ["PENDING"] * 2
    assert len(re.findall(r"^running +lr=0\.\d .*SLURM job", out.read_text(), re.MULTILINE)) == 2
    assert not list(tmp_path.rglob("status.json"))
    cancel = re.search(r"^to save and cancel them: (.+)$", err.read_text(), re.MULTILINE)[1]
    subprocess.run(["sh", "-c", cancel], env={**os.environ, **cluster.env}, cwd=processes.PROJECT, check=True)
    assert [job.state for job in cluster.jobs.values()] == ["CANCELLED"] * 2

    process, out, _ = start(cluster, *command)  # the same command submits them again
    wait_for(lambda: len(cluster.jobs) == 4)
    process.kill()
    process.wait()


def test_submission_script(cluster, tmp_path):
    """It asks for what the settings say. srun has to be told the number of CPUs again."""
    cluster.held = True
    settings = "n_jobs=1 partition=gpu account=lab qos=high constraint=a100 gpus_per_node=2 cpus_per_task=8 mem_gb=32"
    more = ["additional_parameters={mail_type:END}", "setup=['module load cuda']", "signal_delay_s=120"]
    overrides = [f"hydra.launcher.{text}" for text in settings.split() + more]
    process, out, _ = start(cluster, *arguments(tmp_path / "sweep", "slurm", "optimizer.lr=0.1,0.2", *overrides))
    wait_for(lambda: "queued" in out.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    (job,) = cluster.jobs.values()
    asked = {name: value for name, value in job.options.items() if name not in ("output", "job-name")}
    assert asked == {
        "account": "lab", "constraint": "a100", "cpus-per-task": "8", "gpus-per-node": "2", "mail-type": "END",
        "mem": "32GB", "nodes": "1", "ntasks-per-node": "1", "open-mode": "append", "partition": "gpu", "qos": "high",
        "requeue": "", "signal": "USR2@120", "time": "240",
        "wckey": "submitit",
    }  # fmt: skip
    assert re.fullmatch(r"lr-0\.1-\w{8}", job.options["job-name"])
    script = job.script.resolve().read_text()
    assert re.search(r"^module load cuda\n(.*\n)+srun .* --cpus-per-task=8 ", script, re.MULTILINE)


@pytest.fixture
def executor(tmp_path, monkeypatch):
    """Return a cluster that does not run its jobs, a function that makes an executor, and a job."""
    cluster = Cluster(tmp_path / "cluster", run=False)
    monkeypatch.setenv("PATH", cluster.env["PATH"])
    monkeypatch.setattr(sweep_cluster, "POLL_SECONDS", 0)
    monkeypatch.setattr(sweep_cluster, "RESULT_SECONDS", 0)
    job = Job(0, [], "lr=0.1", tmp_path / "sweep" / "lr-0.1-abc", None, queued=True)
    yield cluster, lambda: SlurmExecutor(None, print, tmp_path / "sweep", 1, 0, {}), job
    cluster.close()


@pytest.mark.parametrize("state", ["OUT_OF_MEMORY", "NODE_FAIL", "TIMEOUT", "CANCELLED", "FAILED", "COMPLETED"])
def test_job_that_slurm_ends_fails_with_its_state_and_log(state, executor):
    cluster, make, job = executor
    slurm = make()
    slurm.start(job)
    assert slurm.wait(0) == []
    assert job.queued
    cluster.jobs["1"].state = "RUNNING"
    assert slurm.wait(0) == []
    assert not job.queued
    cluster.jobs["1"].state = state
    ((_, outcome),) = slurm.wait(0)
    assert outcome.state == "failed"
    log = re.fullmatch(rf"SLURM ended job 1: {state}; its log is (.+)", outcome.reason)[1]
    assert Path(log).parts[-2:] == (".submitit", "1_0_log.out")
    assert not (job.path / JOB_ID).exists()


def test_preempted_job_that_slurm_does_not_requeue_is_submitted_again(executor):
    cluster, make, job = executor
    slurm = make()
    slurm.start(job)
    cluster.jobs["1"].state = "PREEMPTED"
    assert slurm.wait(0) == []
    assert list(cluster.jobs) == ["1", "2"]
    assert job.queued
    assert (job.path / JOB_ID).read_text() == "2\n"


@pytest.mark.parametrize(
    ("state", "accounting", "reason"),
    [
        ("OUT_OF_MEMORY", True, "SLURM ended job 1: OUT_OF_MEMORY; "),
        ("CANCELLED", True, None),
        ("FAILED", False, None),
    ],
)
def test_job_that_ended_while_no_sweep_watched(state, accounting, reason, executor):
    """Squeue has forgotten it. If sacct knows how it failed, that is reported; otherwise it is submitted again."""
    cluster, make, job = executor
    make().start(job)
    cluster.jobs["1"].state = state
    cluster.forgotten.add("1")
    cluster.accounting = accounting
    slurm = make()
    slurm.start(job)
    assert len(cluster.jobs) == 1
    ended = slurm.wait(0)
    if reason:
        assert ended[0][1].reason.startswith(reason)
    else:
        assert ended == []
        assert len(cluster.jobs) == 2


def test_jobs_are_kept_if_slurm_does_not_answer(executor, monkeypatch):
    cluster, make, job = executor
    slurm = make()
    slurm.start(job)
    (cluster.bin / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert slurm.wait(0) == []
    assert list(cluster.jobs) == ["1"]
    slurm.stop()
    ((_, outcome),) = slurm.wait(0)
    assert (outcome.state, outcome.reason) == ("running", "SLURM job 1")


def local(cluster):
    """Return a program that runs blitz-train, and in which submitit forks its jobs."""
    return f"import sys; sys.executable = {str(cluster.bin / 'python')!r}; {processes.TRAIN}"


def test_local_sweep_runs_n_jobs_at_a_time_and_then_only_what_failed(cluster, tmp_path):
    sweep = tmp_path / "sweep"
    command = arguments(sweep, "submitit_local", SABOTAGE, "+callback.sabotage.how=none,raise")
    process, out, err = start(cluster, *command, program=local(cluster))
    assert process.wait(120) == 1, err.read_text()
    states = re.findall(r"^(\w+) +how=(\w+)", out.read_text(), re.MULTILINE)
    assert states[:4] == [("started", "none"), ("done", "none"), ("started", "raise"), ("failed", "raise")]
    assert read_status(job_of(sweep, "raise")).reason.startswith("RuntimeError: sabotaged (")
    process, out, err = start(cluster, *command, program=local(cluster))
    assert process.wait(120) == 0, err.read_text()
    assert re.findall(r"^started +how=(\w+)", out.read_text(), re.MULTILINE) == ["raise"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_local_jobs_end_with_their_sweep(number, status, cluster, tmp_path):
    """Ctrl-C saves them. In both cases no process is left, and the same command could resume the job."""
    command = arguments(tmp_path / "sweep", "submitit_local", SABOTAGE, "+callback.sabotage.how=slow")
    process, out, _ = start(cluster, *command, program=local(cluster))
    saved = (tmp_path / "sweep").glob
    wait_for(lambda: list(saved("*/checkpoints/resume.ckpt")))
    run = next(saved("*/config.yaml")).parent
    pid = int((run / ".lock").read_text().split()[0])
    process.send_signal(number)
    assert process.wait(60) == status
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2], 20)
    assert not (run / "metrics.json").exists()
    wait_for(lambda: read_status(run).state == "interrupted", 5)  # its other threads may end later
    if number == signal.SIGINT:
        assert "interrupted" in out.read_text()


def test_table_tells_queued_jobs_from_running_ones(tmp_path):
    jobs = [Job(n, [], f"lr=0.{n}", tmp_path / str(n), None, queued=True) for n in range(2)]
    console = Console(width=80, height=20, force_terminal=True, color_system=None, file=io.StringIO())
    display = Display(3, console)
    for job in jobs:
        display.start(job)
    jobs[1].queued = False
    display.refresh(force=True)
    console.print(display._table(), display._summary())
    text = console.file.getvalue()
    assert re.findall(r"lr=0\.(\d) +(queued)?", text) == [("1", ""), ("0", "queued")]
    assert "3 jobs: 1 running, 1 queued, 1 waiting" in text
