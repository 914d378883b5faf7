"""ddp against one process: the same metrics for any number of processes, and no process that outlives its run.

The gloo processes and the signals are real. No size divides evenly: 1,295 training images make batches of 647, 647 and
1, and 359 test images make batches of 179, 179 and 1, so some processes have an empty part.
"""

import contextlib
import csv
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from torch.utils.data import DataLoader

import blitz.train
from blitz.data.seeding import generator
from blitz.device.ddp import DDP
from tests.conftest import call
from tests.processes import EVAL_WITH_FORKED_RANKS, TRAIN, TRAIN_WITH_FORKED_RANKS, start

COMMON = (
    "data.batch_size=647", "data.eval_batch_size=179", "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
    "logger=csv", "+data.augment.translate._target_=blitz.data.augment.Translate",
)  # fmt: skip


# -- steps of one process ------------------------------------------------------------------------------------------


class Task(LightningModule):
    """A task unlike those of blitz: steps without batch_idx, a dict as output, and a plain DataLoader."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch):
        return {"loss": self.layer(batch).square().mean()}

    def validation_step(self, batch):
        self.log("val/output", self.layer(batch).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def fit(tmp_path):
    """``fit(strategy, loader)`` trains for an epoch and returns the task and its metrics."""

    def run(strategy, loader):
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(accelerator="cpu", devices=1, strategy=strategy, max_epochs=1, **quiet)
        task = Task()
        trainer.fit(task, loader, loader)
        return task, trainer.callback_metrics

    yield run
    if distributed.is_initialized():
        distributed.destroy_process_group()
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)


def test_any_loader_and_training_step_behaves_as_in_lightning(fit):
    loader = DataLoader(torch.randn(10, 2, generator=generator("x")), 4)
    ours, metrics = fit(DDP(), loader)
    reference, expected = fit(DDPStrategy(), loader)
    assert torch.equal(ours.layer.weight, reference.layer.weight)
    assert not torch.equal(ours.layer.weight, Task().layer.weight)
    assert metrics == expected


class Parts:
    """A loader whose second batch is an empty part, and whose third counts half."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

    def weight(self, batch_idx):
        return (1.0, 0.0, 0.5)[batch_idx]

    def is_empty(self, batch):
        return not len(batch)


def test_an_empty_part_takes_part_with_zeros_and_is_not_evaluated(fit):
    batches = list(torch.randn(2, 4, 2, generator=generator("x")))
    empty = torch.empty(0, 2)
    ours, metrics = fit(DDP(), Parts(batches[0], empty, batches[1]))
    reference = Task()
    optimizer = reference.configure_optimizers()
    for weight, batch in zip((1.0, 0.5), batches, strict=True):
        optimizer.zero_grad()
        (reference.training_step(batch)["loss"] * weight).backward()
        optimizer.step()
    torch.testing.assert_close(ours.layer.weight, reference.layer.weight)
    assert metrics["val/output"].isfinite(), "the mean of an empty part would be nan"
    assert "training_step" not in vars(ours)


# -- whole runs ----------------------------------------------------------------------------------------------------


def end(*started):
    """Return standard output and error of each process; all of them must succeed."""
    texts = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * len(started), texts
    return texts


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The reference: this process alone, with device=cpu."""
    directory = tmp_path_factory.mktemp("single")
    with pytest.MonkeyPatch.context() as patch:
        for seed in (1, 2):
            call(patch, blitz.train.main, "blitz-train", *COMMON, "device=cpu", f"seed={seed}",
                 f"hydra.run.dir={directory / str(seed)}")  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sweep")
    overrides = ("-m", *COMMON, "trainer.devices=1,2", "seed=1,2", "device=ddp_cpu", f"hydra.sweep.dir={directory}")
    (out, err), = end(start(TRAIN_WITH_FORKED_RANKS, *overrides))  # fmt: skip
    assert err == ""
    jobs = [path.parent for path in directory.glob("*/metrics.json")]
    found = {(config["trainer"]["devices"], config["seed"]): job for job in jobs for config in [_config(job)]}
    return found, out


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Three processes, started in another directory, with overrides that are hard to quote."""
    directory = tmp_path_factory.mktemp("else where")
    run = directory / "it's [3] of, them"
    overrides = (
        *COMMON, "device=ddp_cpu", "trainer.devices=3", "seed=1", f'hydra.run.dir="{run}"',
        """data.classes=["0 or O",'[1]',"it's","3=3",'4"',"5","6","7","8","9"]""",
    )  # fmt: skip
    (out, err), = end(start(TRAIN_WITH_FORKED_RANKS, *overrides, cwd=directory))  # fmt: skip
    assert err == ""
    return run, out


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """Two torchruns of one process each, as on two machines. Only rank 0 reads the command line."""
    directory = tmp_path_factory.mktemp("nodes")
    address = ("--master-addr=127.0.0.1", f"--master-port={free_port()}", "--nnodes=2", "--nproc-per-node=1")
    torchrun = "from torch.distributed.run import main; main()"
    overrides = (*COMMON, "device=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2", "seed=2")
    command = ("-m", "blitz.train", *overrides, f"hydra.run.dir={directory}/now-${{now:%f}}")
    nodes = [start(torchrun, *address, f"--node-rank={rank}", *command) for rank in (0, 1)]
    (out, _), (other, _) = end(*nodes)
    assert other == "", "nothing is printed twice"
    (run,) = directory.iterdir()
    return run, out


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Two tasks of one node, with the variables that srun sets."""
    directory = tmp_path_factory.mktemp("slurm")
    overrides = (*COMMON, "device=ddp_cpu", "trainer.devices=2", "seed=1", f"hydra.run.dir={directory / 'run'}")
    port = free_port()
    tasks = [start(TRAIN, *overrides, env=_slurm(rank) | {"MASTER_PORT": port}) for rank in (0, 1)]
    (out, _), (other, _) = end(*tasks)
    assert other == ""
    return directory / "run", out


def _slurm(rank):
    return {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "blitz", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost",
    }  # fmt: skip


def _config(run):
    return yaml.safe_load((run / "config.yaml").read_text())


def _metrics(run):
    return json.loads((run / "metrics.json").read_text())


def _losses(run):
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    losses = [(float(row["train/loss_step"]), float(row["train/acc_step"])) for row in rows if row["train/loss_step"]]
    assert len(losses) == 6
    return torch.tensor(losses, dtype=torch.float64)


def _counts(run):
    """Return the counts by class and the confusion matrix, without the names of the classes: one run has others."""
    tables = []
    for name in ("per_class.csv", "confusion.csv"):
        with (run / name).open() as file:
            tables.append([row[1:] for row in csv.reader(file)][1:])
    return tables


def _all(single, sweep, alone, two_nodes, slurm):
    found, _ = sweep
    by_seed = {
        1: [found[1, 1], found[2, 1], alone[0], slurm[0]],
        2: [found[1, 2], found[2, 2], two_nodes[0]],
    }
    return [(single / str(seed), run) for seed, runs in by_seed.items() for run in runs]


def test_the_loss_curve_equals_that_of_one_process(single, sweep, alone, two_nodes, slurm):
    for one, run in _all(single, sweep, alone, two_nodes, slurm):
        torch.testing.assert_close(_losses(run), _losses(one), rtol=1e-4, atol=1e-6)
        assert _metrics(run)["train/loss"] == pytest.approx(_metrics(one)["train/loss"], rel=1e-4)
    assert not torch.allclose(_losses(single / "1"), _losses(single / "2"), rtol=1e-2), "the seed matters"


def test_evaluation_neither_repeats_nor_drops_an_image(single, sweep, alone, two_nodes, slurm):
    for one, run in _all(single, sweep, alone, two_nodes, slurm):
        assert _counts(run) == _counts(one)
        assert sum(int(count) for row in _counts(run)[1] for count in row) == 359
        assert _metrics(run)["test/acc"] == _metrics(one)["test/acc"]
        assert _metrics(run)["val/acc"] == _metrics(one)["val/acc"]
        assert _metrics(run)["test/loss"] == pytest.approx(_metrics(one)["test/loss"], rel=1e-4)


def test_the_weights_equal_those_of_one_process(single, sweep, alone, two_nodes, slurm):
    for one, run in _all(single, sweep, alone, two_nodes, slurm):
        ours, reference = (torch.load(path / "checkpoints/resume.ckpt", weights_only=True) for path in (run, one))
        assert ours["state_dict"].keys() == reference["state_dict"].keys()
        for name, weight in reference["state_dict"].items():
            torch.testing.assert_close(ours["state_dict"][name], weight, rtol=0, atol=1e-4)


def test_a_job_of_a_sweep_equals_the_same_run_alone(sweep, two_nodes, slurm):
    found, _ = sweep
    assert found.keys() == {(1, 1), (1, 2), (2, 1), (2, 2)}
    shown = [(job / "output.log").read_text().count("on each of 2 devices") for job in found.values()]
    assert shown == [devices - 1 for devices, _ in found]
    for job, run in ((found[2, 2], two_nodes[0]), (found[2, 1], slurm[0])):
        assert torch.equal(_losses(job), _losses(run)), "bit for bit"
        assert _metrics(job) == _metrics(run)


def test_the_other_ranks_add_nothing_to_the_run_directory(single, sweep, alone, two_nodes, slurm):
    may_be_absent = {"git.diff", "output.log"}  # the working tree may change meanwhile; only jobs of a sweep have a log
    expected = {path.name for path in (single / "1").iterdir()} | may_be_absent
    for _, run in _all(single, sweep, alone, two_nodes, slurm):
        assert {path.name for path in run.iterdir()} | may_be_absent == expected


def test_both_batch_sizes_are_printed(alone, two_nodes):
    assert "batch          647 images, 216 on each of 3 devices" in alone[1]
    assert "batch          647 images, 324 on each of 2 devices" in two_nodes[1]


def test_overrides_reach_every_rank_unchanged(alone):
    run, out = alone
    assert _config(run)["data"]["classes"][:5] == ["0 or O", "[1]", "it's", "3=3", '4"']
    assert "test/acc/0 or O" in _metrics(run)
    assert out.rstrip().endswith(run.name)
    assert _losses(run).isfinite().all()


def test_eval_on_two_processes_equals_the_test_of_the_run(single, tmp_path):
    end(start(EVAL_WITH_FORKED_RANKS, f"run={single / '1'}", "device=ddp_cpu", f"hydra.run.dir={tmp_path / 'eval'}"))
    again, trained = _metrics(tmp_path / "eval"), _metrics(single / "1")
    assert again.pop("test/loss") == pytest.approx(trained["test/loss"], rel=1e-5)
    assert again == {key: value for key, value in trained.items() if key.startswith("test/") and key != "test/loss"}
    assert _counts(tmp_path / "eval") == _counts(single / "1")


# -- processes that fail -------------------------------------------------------------------------------------------


class RaiseOnRank(Callback):
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == self.rank and trainer.current_epoch == 1:
            raise RuntimeError(f"rank {self.rank} has had enough")


def test_a_rank_that_raises_ends_the_run(tmp_path):
    run = tmp_path / "run"
    overrides = ("+callback.broken._target_=tests.device.test_ddp.RaiseOnRank", "+callback.broken.rank=1")
    began = start(TRAIN_WITH_FORKED_RANKS, *COMMON, *overrides, "device=ddp_cpu", f"hydra.run.dir={run}")
    _out, err = began.communicate(timeout=120)
    assert began.returncode == 1
    assert re.fullmatch(
        r"blitz-train: rank 1: RuntimeError: rank 1 has had enough \(.*; HYDRA_FULL_ERROR=1 .*\)\n", err
    ), err
    assert "in on_train_batch_start" in (run / "error.txt").read_text(), "the traceback of the rank"
    assert not (run / "metrics.json").exists()


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")


@linux
@pytest.mark.parametrize("when", ["start-up", "mid-epoch"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_the_run(victim, when, tmp_path):
    began, ranks = _under_way(tmp_path / "run", when, TRAIN if when == "start-up" else TRAIN_WITH_FORKED_RANKS)
    os.kill(ranks[victim], signal.SIGKILL)
    killed = time.monotonic()
    _out, err = began.communicate(timeout=60)
    assert time.monotonic() - killed < 10
    assert began.returncode == 1
    assert err.splitlines()[-1] == f"blitz-train: rank {victim} was killed by SIGKILL", err
    assert not [pid for pid in ranks if _alive(pid)]
    assert (tmp_path / "run").exists() == (when == "mid-epoch"), "a run that never began leaves no directory"


@linux
def test_ranks_end_with_the_process_that_made_them(tmp_path):
    began, ranks = _under_way(tmp_path / "run", "mid-epoch")
    began.kill()
    began.communicate(timeout=30)
    deadline = time.monotonic() + 5
    while any(map(_alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in ranks if _alive(pid)]


class KillAt(Callback):
    """Kill rank 0 once, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        mark = Path(trainer.default_root_dir, "killed")
        if trainer.is_global_zero and trainer.global_step == self.step and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@linux
def test_three_processes_resume_bit_for_bit(tmp_path):
    """The order in which three numbers are added matters, unlike that of two."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    overrides = ("device=ddp_cpu", "trainer.devices=3", "seed=1", "trainer.max_epochs=1", "logger=csv",
                 "trainer.limit_train_batches=12", "trainer.log_every_n_steps=2", "callback.last.every_n_steps=3",
                 "callback.last.time_share=null")  # fmt: skip
    kill = (f"+callback.kill._target_={__name__}.KillAt", "+callback.kill.step=8")
    end(start(TRAIN_WITH_FORKED_RANKS, *overrides, f"hydra.run.dir={whole}"))
    killed = start(TRAIN_WITH_FORKED_RANKS, *overrides, *kill, f"hydra.run.dir={run}")
    _out, err = killed.communicate(timeout=120)
    assert err == "blitz-train: rank 0 was killed by SIGKILL\n"
    ((out, _err),) = end(start(TRAIN_WITH_FORKED_RANKS, f"resume={run}"))
    assert re.search(r"^resumed +after step (?!0)", out, re.MULTILINE)
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert _metrics(run) == _metrics(whole)
    mine, its = (torch.load(path / "checkpoints/resume.ckpt", weights_only=True)["state_dict"] for path in (run, whole))
    assert all(torch.equal(mine[name], weight) for name, weight in its.items())


@linux
@pytest.mark.parametrize("line", ["batch +", " +1/10000 "])
def test_a_signal_to_all_processes_while_workers_fetch(line, tmp_path):
    """SLURM and systemd signal all processes of a job; the first line is printed before the workers start."""
    run = tmp_path / "run"
    overrides = ("device=ddp_cpu", "trainer.max_epochs=10000", "data.loader=workers", f"hydra.run.dir={run}")
    began = start(TRAIN_WITH_FORKED_RANKS, *overrides, env={"PYTHONUNBUFFERED": "1"}, start_new_session=True)
    assert began.stdout is not None
    assert any(re.match(line, text) for text in began.stdout)
    os.killpg(began.pid, signal.SIGTERM)
    _out, err = began.communicate(timeout=60)  # until the workers have closed standard output, too
    assert began.returncode == 143, err
    assert (run / "checkpoints" / "resume.ckpt").exists() or line == "batch +"
    assert err.splitlines()[-1].startswith("to resume: blitz-train resume=")


@linux
def test_workers_end_with_a_rank_that_is_killed(tmp_path):
    overrides = ("device=ddp_cpu", "trainer.max_epochs=10000", "data.loader=workers", f"hydra.run.dir={tmp_path}/run")
    began = start(TRAIN, *overrides)
    assert any(re.match(" +1/10000 ", text) for text in began.stdout)
    ranks = _ranks(began.pid)
    workers = [int(pid) for rank in ranks for pid in Path(f"/proc/{rank}/task/{rank}/children").read_text().split()]
    assert len(workers) >= 4
    assert b"spawn_main" in _proc(workers[0], "cmdline"), "forked from the rank, with its command line"
    for pid in (began.pid, *ranks):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 1
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in workers if _alive(pid)]
    began.communicate(timeout=30)


def _under_way(run, when, program=TRAIN):
    """Return a long run of two processes, and its processes by rank."""
    overrides = ("device=ddp_cpu", "trainer.max_epochs=10000", "seed=0", f"hydra.run.dir={run}")
    began = start(program, *overrides)
    deadline = time.monotonic() + 60
    while len(ranks := _ranks(began.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    if when == "mid-epoch":
        assert any(re.match(r" +1/10000 ", line) for line in began.stdout)
    return began, ranks


def _ranks(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"resource_tracker" not in _proc(child, "cmdline")]


def _alive(pid):
    state = _proc(pid, "stat").rpartition(b")")[2].split()[:1]
    return state not in ([], [b"Z"])


def _proc(pid, name):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        (["device=cpu"], "device=cpu: it takes one process, but 2 were started; expected device=ddp or ddp_cpu"),
        (
            ["device=ddp_cpu", "trainer.devices=3"],
            "trainer.devices=3 with trainer.num_nodes=1: expected 3 processes, but 2 were started",
        ),
    ],
)
def test_a_wrong_number_of_processes_is_refused(overrides, answer, tmp_path):
    """Only rank 0 says so, and the other ranks do not wait for it."""
    run_dir, port = f"hydra.run.dir={tmp_path / 'run'}", free_port()
    tasks = [start(TRAIN, *overrides, run_dir, env=_slurm(rank) | {"MASTER_PORT": port}) for rank in (0, 1)]
    (_, err), (_, other) = (task.communicate(timeout=60) for task in tasks)
    assert answer in err.splitlines()[-1]
    assert (tasks[0].returncode, other) == (1, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        (
            ["device=ddp_cpu", "trainer.devices=3", "data.batch_size=2"],
            "data.batch_size=2: smaller than the number of processes",
        ),
        (["device=ddp_cpu", "trainer.num_nodes=2"], "trainer.num_nodes=2: start one process per device on every node"),
        (["device=ddp_cpu", "trainer.devices=0"], "trainer.devices=0: not a valid value"),
        (["device=ddp_cpu", "trainer.devices=some"], "trainer.devices=some: not a valid value"),
        (["device=cpu", "trainer.devices=2"], "several devices need a device config; expected device=ddp, ddp_cpu"),
        (["device=dp_cpu", "trainer.devices=1"], "dp needs at least two devices, got 1"),
        (["device=dp"], "this machine has no cuda device"),
    ],
)
def test_devices_that_do_not_fit_are_refused(overrides, answer, train, tmp_path):
    if "device=dp" in overrides and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as exit:
        train(*overrides)
    assert answer in str(exit.value.code)
    assert "\n" not in str(exit.value.code)
    assert not (tmp_path / "run").exists()
