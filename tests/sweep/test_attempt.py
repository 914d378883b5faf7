"""One attempt of a job, in a process of its own."""

import json
import multiprocessing
import sys

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode

from blitz.config.paths import CONFIGS
from blitz.config.schema import register
from blitz.errors import PrunedError, UserError
from blitz.sweep.attempt import pickled_work, run_attempt
from blitz.sweep.job import Composer, Outcome, in_directory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the attempts are forks of this process")


class NoCallbacks:
    """Hydra's callbacks of a config that has none."""

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda **_: None


def task(cfg):
    """Do what the seed says, and return the seed and what the job resumes."""
    print(f"seed {cfg.seed}")
    if cfg.seed == 2:
        raise UserError("seed=2: wrong")
    if cfg.seed == 3:
        raise PrunedError("worse than the median")
    return cfg.seed, cfg.resume


@pytest.fixture(scope="module")
def attempt(tmp_path_factory):
    """``attempt(seed)`` returns the outcome and the directory of a job."""
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        composer = Composer(hydra.config_loader, hydra.compose_config("train", [], RunMode.MULTIRUN))
        directory = tmp_path_factory.mktemp("sweep")

        def run(seed):
            path = directory / f"seed-{seed}"
            config = in_directory(composer.compose([f"seed={seed}"]), seed, path)
            context = HydraContext(config_loader=hydra.config_loader, callbacks=NoCallbacks())
            fork = multiprocessing.get_context("fork")
            queue = fork.SimpleQueue()
            arguments = (queue, pickled_work(context, task), config, path)
            process = fork.Process(target=lambda queue, *work: queue.put(run_attempt(*work)), args=arguments)
            process.start()
            process.join(60)
            return queue.get(), path

        yield run


def test_value_of_the_task(attempt):
    outcome, path = attempt(1)
    assert outcome == Outcome("done", (1, None))
    assert (path / "output.log").read_text() == "seed 1\n"


def test_failed_and_pruned_jobs(attempt):
    outcome, path = attempt(2)
    assert outcome == Outcome("failed", reason="seed=2: wrong")
    assert (path / "output.log").read_text() == "seed 2\nfailed: seed=2: wrong\n"
    outcome, path = attempt(3)
    assert outcome == Outcome("pruned", reason="worse than the median")


def test_second_attempt_resumes_the_run_and_removes_the_record_of_the_first(attempt):
    _, path = attempt(4)
    (path / "config.yaml").touch()
    for name in ("status.json", "error.txt", "metrics.json"):
        (path / name).write_text(json.dumps({}))
    outcome, _ = attempt(4)
    assert outcome.value == (4, str(path))
    assert sorted(file.name for file in path.iterdir()) == ["config.yaml", "output.log"]
    assert (path / "output.log").read_text() == "seed 4\nseed 4\n", "the output of both attempts"
