"""Whole runs of the recipes for a StageTask: stopped and resumed, evaluated again, swept, and on two processes."""

import pytest
import torch

from blitz import runs
from blitz.runs.folder import Run
from blitz.training import build
from tests import processes
from tests.callback.test_last_checkpoint import differences
from tests.conftest import QUICK
from tests.processes import TRAIN_WITH_FORKED_RANKS
from tests.runs.test_resume import POSIX

RECIPES = {  # with data that has a few batches in an epoch, of different sizes
    "autoencode": ("experiment=autoencode", "model.width=2", "data.batch_size=300", "data.eval_batch_size=70"),
    "regression": ("experiment=regression", "data.num_train=500", "data.batch_size=120", "data.eval_batch_size=300"),
}
TWO_EPOCHS = ("seed=1", "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "logger=csv")


def metrics(run):
    return Run(run).metrics


@pytest.fixture(params=RECIPES)
def recipe(request):
    return RECIPES[request.param]


@POSIX
@pytest.mark.parametrize("batch", [3, 5], ids=["within an epoch", "at its end"])
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(batch, recipe, train, command, tmp_path):
    stop = "+callback.stop._target_=tests.callback.test_last_checkpoint.StopAt"
    whole = train(*recipe, *TWO_EPOCHS, stop, "+callback.stop.batch=null", into="whole")
    run = tmp_path / "run"
    with pytest.raises(SystemExit):
        train(*recipe, *TWO_EPOCHS, stop, f"+callback.stop.batch={batch}")
    assert not (run / "metrics.json").exists()
    command("blitz-train", f"resume={run}")
    for name in ("metrics.json", "metrics.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    for name in ("best.ckpt", "resume.ckpt"):
        mine, its = (torch.load(path / "checkpoints" / name, weights_only=True) for path in (run, whole))
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert differences(mine.get(key), its.get(key)) == [], (name, key)


def test_a_finished_run_is_loaded_and_evaluated_again(recipe, train, command, tmp_path):
    run = train(*recipe, *QUICK, "seed=1")
    for stage in ("test", "val"):
        command("blitz-eval", f"run={run}", f"stage={stage}", "device=cpu", f"hydra.run.dir={tmp_path / stage}")
        expected = {name: value for name, value in metrics(run).items() if name.startswith(stage)}
        assert metrics(tmp_path / stage) == expected
        assert f"{stage}/loss" in expected
    config = Run(run).config
    data, task = build.data(config), runs.load(run)
    data.setup("test")
    batches = list(data.test_dataloader())
    assert len(batches) > 1
    with torch.no_grad():
        pairs = [task.predictions_and_targets(batch) for batch in batches]
    predictions, targets = (torch.cat(parts).double() for parts in zip(*pairs, strict=True))
    assert metrics(run)["test/loss"] == pytest.approx((predictions - targets).square().mean().item(), rel=1e-5)
    pictured = "autoencode" in str(recipe)
    for path in (run, tmp_path / "test", tmp_path / "val"):
        assert (path / "reconstructions.png").exists() == pictured


def test_a_sweep_shows_the_loss(recipe, command, tmp_path, capsys):
    command("blitz-train", "-m", *recipe, *QUICK, "device=cpu", "seed=1,2", f"hydra.sweep.dir={tmp_path}")
    losses = [metrics(path.parent)["test/loss"] for path in sorted(tmp_path.glob("*/metrics.json"))]
    assert len(losses) == 2
    table = capsys.readouterr().out.partition("run  ")[2]
    assert "loss" in table
    assert all(f"{loss:.4f}" in table for loss in losses)


def test_two_processes_log_the_metrics_of_one(recipe, train, tmp_path):
    """Also with a part of a batch that is empty, and parts of different sizes."""
    uneven = ("data.batch_size=647",) if "autoencode" in str(recipe) else ("data.num_train=510",)
    same = (*recipe, *uneven, "seed=1", "trainer.max_epochs=1", "optimizer=sgd", "schedule=constant")
    rate = "optimizer.lr=0.01" if "autoencode" in str(recipe) else "optimizer.lr=0"  # DataLoaders change their order
    one, two = train(*same, rate, "device=cpu", into="one"), tmp_path / "two"
    ended = processes.run(TRAIN_WITH_FORKED_RANKS, *same, rate, "device=ddp_cpu", f"hydra.run.dir={two}")
    assert ended.returncode == 0, ended.stderr
    names = [name for name in metrics(one) if not name.endswith("_step")]
    assert len(names) >= 3
    assert {name: metrics(two)[name] for name in names} == pytest.approx(
        {name: metrics(one)[name] for name in names}, rel=1e-5
    )


def test_a_loss_that_is_not_finite_stops_the_run(train, tmp_path):
    with pytest.raises(SystemExit, match=r"loss is \w+ after step \d: try a lower optimizer.lr"):
        train(*RECIPES["regression"], *QUICK, "optimizer=sgd", "optimizer.lr=1e30", "schedule=constant")
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
