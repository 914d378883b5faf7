"""Read checkpoints, load models from them, and start a run with their weights."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback

from blitz import runs
from blitz.errors import UserError
from blitz.runs import checkpoint
from blitz.runs.folder import Run
from tests.conftest import QUICK, error_of


def test_save_is_atomic_and_adds_the_config(tmp_path):
    path = tmp_path / "checkpoints" / "resume.ckpt"
    writer = checkpoint.CheckpointIO({"task": {"net": {}}, "device": {}}, lambda: {"val/acc": torch.tensor(0.5)})
    writer.save_checkpoint({"state_dict": {"a": torch.ones(2)}}, path)
    read = checkpoint.read_checkpoint(path)
    assert read["config"]["task"] == {"net": {}}
    assert torch.equal(read["state_dict"]["a"], torch.ones(2))
    assert read["metrics"] == {"val/acc": 0.5}
    assert [file.name for file in path.parent.iterdir()] == ["resume.ckpt"]


def test_one_damaged_bit_is_found(finished, tmp_path):
    """torch.load does not compare checksums: it would load other weights."""
    path = tmp_path / "best.ckpt"
    content = bytearray((finished / "checkpoints" / "best.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"best\.ckpt: not a checkpoint, or a damaged one"):
        checkpoint.read_checkpoint(path)


def test_checkpoint_of_another_program(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of blitz; expected one that holds the config of its run"):
        runs.load(tmp_path / "model.ckpt")


def test_load_takes_a_run_or_a_checkpoint(finished, monkeypatch):
    monkeypatch.chdir(finished.parent)
    paths = (finished, Path("run"), "run/checkpoints/best.ckpt", finished / "checkpoints" / "best.ckpt")
    first, *others = (runs.load(path) for path in paths)
    assert not first.training
    for other in others:
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in first.state_dict().items())


def test_load_prefers_the_best_checkpoint(finished, tmp_path):
    run = Run(shutil.copytree(finished, tmp_path / "run"))
    best = torch.load(run.checkpoints / "best.ckpt", weights_only=True)
    best["state_dict"] = {key: torch.zeros_like(value) for key, value in best["state_dict"].items()}
    torch.save(best, run.checkpoints / "best.ckpt")
    assert not any(value.any() for value in runs.load(run.path).net.state_dict().values())


def test_loaded_classes_are_text_even_if_they_look_like_interpolations(finished, tmp_path):
    path = tmp_path / "model.ckpt"
    content = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    classes = ["${oc.env:HOME}", "\\${a}", *map(str, range(8))]
    content["config"]["task"]["classes"] = classes
    torch.save(content, path)
    assert runs.load(path).classes == classes


@pytest.mark.parametrize("file", ["", "checkpoints/resume.ckpt"])
def test_init_from(file, finished, train, monkeypatch, capsys):
    monkeypatch.chdir(finished.parent)
    path = train(*QUICK, f"init_from={Path('run') / file}", "optimizer.lr=0")
    before, after = (runs.load(start).state_dict() for start in (finished / file, path))
    assert all(torch.equal(before[key], after[key]) for key in before), "a learning rate of 0 changes no weight"
    run = Run(path)
    assert run.config["init_from"] == str(finished / file).rstrip("/")
    weights = finished / (file or "checkpoints/best.ckpt")
    assert run.environment["init_from"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "init from      " in capsys.readouterr().out


def test_run_killed_before_its_first_checkpoint_starts_with_the_same_weights(finished, train, command):
    run = train(*QUICK, "schedule=constant", f"init_from={finished}", "optimizer.lr=0")
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.json").unlink()
    command("blitz-train", f"resume={run}")
    before, after = (runs.load(path).state_dict() for path in (finished, run))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_init_from_refused(finished, train, tmp_path):
    (tmp_path / "file.ckpt").write_text("no checkpoint")
    assert "no such run or checkpoint" in error_of(train, f"init_from={tmp_path / 'none'}")
    assert "not a checkpoint, or a damaged one" in error_of(train, f"init_from={tmp_path / 'file.ckpt'}")
    message = error_of(train, f"init_from={finished}", "data.image_size=64")
    assert "its weights do not fit Net (" in message
    assert not (tmp_path / "run").exists()


class Unreadable(Callback):
    """Its state cannot be loaded with ``weights_only=True``, from the start or after some steps."""

    def __init__(self, value: Any = None, late: bool = False) -> None:
        self.value = value or np.zeros(2)
        self.late = late

    def state_dict(self) -> dict[str, Any]:
        return {} if self.late else {"value": self.value}

    def on_train_batch_end(self, *_: Any) -> None:
        self.late = False


def test_callback_with_a_state_that_no_checkpoint_can_hold_is_named_before_the_run(train, tmp_path):
    message = error_of(train, *QUICK, f"+callback.mine._target_={__name__}.Unreadable")
    assert message.startswith("blitz-train: callback Unreadable: a checkpoint with its state could not be loaded again")
    assert "numpy" in message
    assert not list(tmp_path.iterdir())


def test_callback_with_such_a_state_later_is_named_by_the_first_save(train, tmp_path):
    message = error_of(train, *QUICK, f"+callback.mine._target_={__name__}.Unreadable", "+callback.mine.late=true")
    assert "callback Unreadable: a checkpoint with its state could not be loaded again" in message
    assert not Run(tmp_path / "run").saved


@pytest.mark.parametrize(
    ("value", "kind"),
    [(Path("x"), "pathlib"), (np.float64(1), "numpy"), (print, "print"), (lambda: 1, "PicklingError")],
)
def test_unreadable_values(value, kind):
    with pytest.raises(UserError, match=rf"^callback Bad: .*{kind}.*; expected a state_dict of"):
        checkpoint.serialize({"state_dict": {}, "callbacks": {"Good": {"a": 1}, "Bad": {"b": [value]}}})
    with pytest.raises(UserError, match=rf"^'optimizer_states' of the checkpoint: .*{kind}"):
        checkpoint.serialize({"callbacks": {"Good": {"a": 1}}, "optimizer_states": [value]})
