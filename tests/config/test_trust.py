"""A checkpoint of somebody else must not run a command."""

import pytest
import torch

from blitz import runs
from blitz.config.trust import check_trusted
from blitz.errors import UserError
from tests.conftest import QUICK, error_of


@pytest.mark.parametrize(
    "target",
    [
        "blitz.task.classify.Classify",
        "torch.optim.Adam",
        "torch.optim.lr_scheduler.OneCycleLR",
        "torch.nn.ReLU",
        "torch.device",
        "torchvision.models.resnet18",
        "torchvision.transforms.v2.Compose",
        "torchmetrics.MeanMetric",
        "lightning.pytorch.Trainer",
        "timm.create_model",
        "tests.conftest.call",
        "torch.nn.RemovedInALaterVersion",
    ],
)
def test_trusted(target, tmp_path):
    check_trusted({"net": [{"_target_": target}]}, "task", tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "hydra.utils.instantiate",
        "torch.os.system",
        "torch.hub.load",
        "torch.load",
        "torch.utils.collect_env.run",
        "torch.utils.cpp_extension.load",
        "lightning.pytorch.trainer.trainer.os.system",
        "blitz.process.ranks.run",
        "blitz.runs.metadata.git",
        "pytest.main",
        "..x",
        "",
    ],
)
def test_not_trusted(target, tmp_path):
    with pytest.raises(UserError) as error:
        check_trusted({"net": [{"_target_": target}]}, "task", tmp_path / "best.ckpt")
    assert str(error.value).startswith(f"{tmp_path / 'best.ckpt'}: task.net.0._target_={target} is not trusted")
    assert str(error.value).endswith("add trust=true")


def test_checkpoint_runs_no_command_unless_it_is_trusted(finished, command, tmp_path):
    path, marker = tmp_path / "best.ckpt", tmp_path / "executed"
    content = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    content["config"]["task"]["label_smoothing"] = {"_target_": "os.mkdir", "_args_": [str(marker)]}
    torch.save(content, path)
    message = error_of(command, "blitz-eval", f"checkpoint={path}", f"hydra.run.dir={tmp_path / 'eval'}")
    assert "task.label_smoothing._target_=os.mkdir is not trusted" in message
    with pytest.raises(UserError, match="is not trusted"):
        runs.load(path)
    assert not marker.exists()
    assert not (tmp_path / "eval").exists()
    runs.load(path, trust=True)
    assert marker.exists()


FORK = """
from torch import nn


class Tiny(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(width, 10))

    def forward(self, images):
        return self.layers(images)

    @classmethod
    def make(cls, width: int = 1024):
        return cls(width)
"""


def test_class_method_of_another_package(train, command, tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(FORK)
    monkeypatch.syspath_prepend(tmp_path)
    without = ("~model.in_channels", "~model.num_classes", "~model.image_size")
    run = train(*QUICK, "model._target_=elsewhere.Tiny.make", *without)
    assert "elsewhere.Tiny.make is not trusted" in error_of(command, "blitz-eval", f"run={run}")
    command("blitz-eval", f"run={run}", "trust=true", f"hydra.run.dir={tmp_path / 'eval'}")
    assert (tmp_path / "eval" / "metrics.json").exists()
