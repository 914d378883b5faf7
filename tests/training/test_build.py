"""Data, task and trainer from a config, and the checks that they fit each other."""

import re
import sys

import pytest
import torch
from lightning import Callback
from lightning.pytorch.profilers import PassThroughProfiler

from blitz import runs
from blitz.errors import UserError
from blitz.runs.checkpoint import CheckpointIO
from blitz.training import build
from blitz.training.rehearsal import rehearse
from tests.conftest import OVERRIDES, QUICK, error_of
from tests.test_configs import compose


def config(*overrides, **replaced):
    return build.resolve(compose("device=cpu", *overrides)) | replaced


def test_resolved_config_is_plain_and_not_resumed():
    cfg = compose("data=cifar10")
    cfg.resume = "logs/runs/a"
    plain = build.resolve(cfg)
    assert "${" not in str(plain)
    assert plain["resume"] is None
    assert type(plain["data"]["classes"]) is list
    assert plain["task"]["net"] == plain["model"]
    assert plain["model"]["in_channels"] == plain["task"]["transform"]["channels"] == 3


def test_task_is_the_one_that_load_rebuilds(finished):
    """The checkpoint's config and weights make the same network, transform and classes as training did."""
    built = build.task(config(*OVERRIDES))
    loaded = runs.load(finished)
    assert type(loaded) is type(built)
    assert repr(loaded.net) == repr(built.net)
    assert loaded.classes == built.classes
    built.load_state_dict(loaded.state_dict())
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(built.transform(images), loaded.transform(images))
    with torch.no_grad():
        assert torch.equal(built.eval()(built.transform(images)), loaded(loaded.transform(images)))


def test_task_changes_no_setting_of_the_process(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    before = (torch.get_num_threads(), torch.backends.mkldnn.enabled, torch.get_default_dtype())
    build.task(config("threads=2", "channels_last=true"))
    assert before == (torch.get_num_threads(), torch.backends.mkldnn.enabled, torch.get_default_dtype())


class Recorder(Callback):
    def __init__(self, name: str, first: bool = False) -> None:
        self.name = name
        self.runs_first = first


def test_callbacks_that_run_first_are_first_and_others_keep_their_order():
    nodes = {
        name: {"_target_": f"{__name__}.Recorder", "name": name, "first": name in "cd"} for name in ("b", "c", "a", "d")
    }
    trainer = build.trainer(config(callback={**nodes, "removed": None}, logger={}))
    assert [callback.name for callback in trainer.callbacks if isinstance(callback, Recorder)] == ["c", "d", "b", "a"]


def test_trainer_writes_checkpoints_atomically_with_the_config():
    settings = config()
    trainer = build.trainer(settings)
    assert isinstance(trainer.strategy.checkpoint_io, CheckpointIO)
    assert trainer.strategy.checkpoint_io.config == settings


def test_profiler_measures_only_if_one_is_chosen():
    assert isinstance(build.trainer(config()).profiler, PassThroughProfiler)
    with build.trainer(config()).profiler.profile("run_training_batch") as measured:
        assert measured is None
    assert type(build.trainer(config("trainer.profiler=simple")).profiler).__name__ == "SimpleProfiler"


def test_missing_device_is_refused():
    missing = next(name for name in ("mps", "cuda") if not getattr(torch.backends, name).is_available())
    device = {"cuda": "gpu"}.get(missing, missing)
    for override in (f"device={device}", f"trainer.accelerator={missing}"):
        problem = rf"^{re.escape(override)}: this machine has no {missing} device .*; expected cpu"
        with pytest.raises(UserError, match=problem):
            build.trainer(config(override))


def test_strategy_that_starts_processes_is_refused():
    """Lightning's own launcher would replay Hydra's command line in each process."""
    settings = config("trainer.devices=2", "trainer.strategy=ddp")
    problem = r"^trainer\.devices=2 with trainer\.strategy=ddp: several devices need a device config; expected device="
    with pytest.raises(UserError, match=problem):
        build.trainer(settings)


def test_logger_whose_package_is_missing_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    node = {"_target_": f"{__name__}.logger_of_wandb"}
    with pytest.raises(
        UserError, match=r"^logger=wandb: its package is not installed; install it with: python -m uv pip install"
    ):
        build.trainer(config(logger={"wandb": node}))


def logger_of_wandb() -> None:
    import wandb  # noqa: F401


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["optimized_metric=val/accuracy"], "optimized_metric=val/accuracy will not be logged; did you mean val/acc?"),
        (["optimized_metric=test/acc"], "callback.checkpoint.monitor=test/acc: only the test logs it; expected a"),
        (["optimized_metric=zzz"], "optimized_metric=zzz will not be logged; expected train/"),
        (["callback.checkpoint.monitor=val/los"], "callback.checkpoint.monitor=val/los will not be logged; did you"),
        (["trainer.limit_val_batches=0"], "optimized_metric=val/acc will not be logged"),
        (["data.val_fraction=0"], "optimized_metric=val/acc will not be logged"),
    ],
)
def test_metric_that_is_never_logged_is_refused(overrides, problem):
    arguments = parts(overrides)
    with pytest.raises(UserError) as error:
        build.check_metrics(*arguments)
    assert str(error.value).startswith(problem)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimized_metric=null"],
        ["optimized_metric=val/acc/3"],
        ["optimized_metric=test/acc", "callback.checkpoint.monitor=val/acc"],
        ["optimized_metric=train/loss", "data.val_fraction=0", "callback.checkpoint=null"],
        ["trainer.check_val_every_n_epoch=9", "trainer.max_epochs=8"],
        ["trainer.check_val_every_n_epoch=9", "trainer.max_epochs=-1", "schedule=constant", "trainer.max_steps=5"],
        ["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=5"],
    ],
)
def test_metric_that_is_logged_is_accepted(overrides):
    build.check_metrics(*parts(overrides))


def parts(overrides):
    settings = config(*overrides)
    data = build.data(settings)
    task = build.task(settings)
    return settings, task, rehearse(settings, build.trainer(settings), task, data)


def test_hparams():
    overrides = ("optimizer=adam", "schedule=cosine", "seed=3", "+data.augment.flip._target_=a.b.Flip")
    found = build.hparams(compose(*overrides))
    assert found["optimizer"] == "Adam"
    assert found["model"] == "Net"
    assert found["data.augment.flip"] == "Flip"
    assert {"optimizer.lr", "optimizer.betas.0", "data.batch_size", "trainer.max_epochs", "seed"} <= found.keys()
    groups = {key.partition(".")[0] for key in found}
    assert groups == {"data", "model", "task", "optimizer", "schedule", "trainer", "seed"}, "no callbacks, no loggers"
    assert (
        not {"data.channels", "data.root", "data.mean.0", "trainer.profiler", "trainer", "task.classes.0"}
        & found.keys()
    )
    assert "model.in_channels" not in found, "an interpolated key repeats another one"
    assert None not in found.values()
    assert not [key for key in found if key.endswith("_")]


def test_metadata():
    cfg = compose(
        "device=cpu", "callback.last.every_n_steps=${data.batch_size}", "logger.tensorboard.name=${oc.env:HOME}"
    )
    settings = config()
    data = build.data(settings)
    data.setup("fit")
    data.setup("test")
    metadata = build.metadata(cfg, build.trainer(settings), data)
    assert (metadata["device"], metadata["threads"]) == ("1 x cpu", torch.get_num_threads())
    references = metadata["references"]
    assert references["callback.last.every_n_steps"] == "${data.batch_size}"
    assert references["data.num_classes"].startswith("${len:")
    assert "logger.tensorboard.name" not in references, "the environment may be another one when the run resumes"
    assert "run_dir" not in references
    assert metadata["data"].keys() == {"train", "val", "test"}


@pytest.mark.parametrize(("device", "threads"), [("1 x cpu", 3), ("2 x cpu", 1), (None, 1)])
def test_threads_are_kept_on_the_same_device(device, threads):
    torch.set_num_threads(1)
    try:
        build.keep_threads({"device": device, "threads": 3}, build.trainer(config()))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


def test_data_is_prepared_before_it_is_set_up():
    calls = []

    class Data:
        def prepare_data(self) -> None:
            calls.append("prepare")

        def setup(self, stage: str) -> None:
            calls.append(stage)

    build.setup_data(Data(), build.trainer(config()), "fit", "test")
    assert calls == ["prepare", "fit", "test"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["optimizer=sgd", "schedule.cycle_momentum=true"], "optimizer.momentum=0.9: it has no effect, because torch."),
        (["schedule.cycle_momentum=true"], "optimizer.betas=[0.9, 0.999]: it has no effect, because torch."),
        (["schedule.max_lr=0.1"], "schedule.max_lr=0.1: it replaces optimizer.lr=0.003; expected optimizer.lr=0.1"),
    ],
)
def test_value_that_the_schedule_replaces_is_refused(overrides, problem, train, tmp_path):
    assert error_of(train, *QUICK, *overrides).startswith(f"blitz-train: {problem}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
@pytest.mark.parametrize(("optimizer", "key", "value"), [("sgd", "momentum", 0.7), ("adam", "betas", (0.7, 0.9))])
def test_momentum_of_the_config_is_used(schedule, optimizer, key, value, train):
    text = list(value) if isinstance(value, tuple) else value
    run = train(*QUICK, f"optimizer={optimizer}", f"optimizer.{key}={text}".replace(" ", ""), f"schedule={schedule}")
    saved = torch.load(run / "checkpoints" / "resume.ckpt", weights_only=True)
    assert [group[key] for group in saved["optimizer_states"][0]["param_groups"]] == [value]
