"""Composition of the jobs of a sweep, and what is recorded about a job that did not finish."""

import json
import pickle

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from blitz.config.names import digest
from blitz.config.paths import CONFIGS
from blitz.config.schema import register
from blitz.runs.status import Status, read_status
from blitz.sweep.job import Composer, Job, Outcome, find_directory, in_directory

JOBS = [
    ["seed=1", "optimizer=sgd", "optimizer.lr=0.1"],
    ["seed=2", "optimizer=sgd", "optimizer.lr=1"],
    ["seed=3", "optimizer=adam", "optimizer.lr=0.1"],
    ["seed=4", "optimizer=sgd", "optimizer.lr=1e-05"],
    ["optimizer.lr=0.1", "seed=5", "optimizer=sgd"],
    ["seed=6", "+trainer.min_epochs=2", "compile=true"],
    ["seed=7", "+trainer.min_epochs=3", "compile=false"],
    ["seed=null", "+trainer.min_epochs=2", "compile=true"],
    ["data={batch_size:7}", "data.batch_size=8"],
    ["data={batch_size:7}", "data.batch_size=9"],
    ["data.batch_size=9", "data={batch_size:7}"],
]


@pytest.fixture(scope="module")
def hydra():
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        yield hydra.config_loader, hydra.compose_config("train", ["hydra.verbose=true"], RunMode.MULTIRUN)


def test_shared_composition_equals_hydras_own(hydra):
    loader, master = hydra
    composer = Composer(loader, master)
    for overrides in JOBS:
        expected = loader.load_sweep_config(master, overrides)
        assert OmegaConf.to_container(composer.compose(overrides)) == OmegaConf.to_container(expected), overrides


def test_jobs_that_differ_in_numbers_are_composed_once(hydra, monkeypatch):
    loader, master = hydra
    calls = []
    monkeypatch.setattr(
        loader, "load_sweep_config", lambda *a: calls.append(a) or type(loader).load_sweep_config(loader, *a)
    )
    composer = Composer(loader, master)
    digests = {digest(composer.compose([f"seed={seed}", "optimizer=sgd"])) for seed in range(20)}
    assert (len(digests), len(calls)) == (20, 1)


def test_invalid_value_is_reported_as_hydra_reports_it(hydra):
    composer = Composer(*hydra)
    composer.compose(["seed=1"])
    with pytest.raises(HydraException, match=r"seed=1\.5"):
        composer.compose(["seed=1.5"])
    assert composer.compose(["seed=2"]).seed == 2


def test_directory_of_a_job_is_found_by_its_config(hydra, tmp_path):
    config = Composer(*hydra).compose(["seed=1"])
    new = find_directory(tmp_path, "seed-1", digest(config))
    assert new.name == f"seed-1-{digest(config)}"
    new.mkdir()
    assert find_directory(tmp_path, "other-name", digest(config)) == new
    prepared = pickle.loads(in_directory(config, 7, new))
    assert (prepared.hydra.job.num, prepared.hydra.job.id) == (7, "7")
    assert f"{prepared.hydra.sweep.dir}/{prepared.hydra.sweep.subdir}" == str(new)


def test_record_of_a_job_that_did_not_finish(tmp_path):
    job = Job(0, ["seed=1"], "seed=1", tmp_path / "job", "val/acc")
    assert job.finished() is None
    job.record(Outcome("failed", reason="it was killed", seconds=1.26))
    assert read_status(job.path) == Status("failed", "it was killed")
    assert json.loads((job.path / "status.json").read_text())["seconds"] == 1.3
    (job.path / "metrics.json").write_text('{"val/acc": 0.5}')
    assert job.finished() == Outcome("done", 0.5)
