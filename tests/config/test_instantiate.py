"""Plain containers become objects as Hydra makes them, and text stays text."""

from functools import partial

import pytest
import torch

from blitz.config.instantiate import instantiate, without_pretrained_weights
from blitz.training import build
from tests.test_configs import compose

TEXTS = ["${oc.env:HOME}", "${", "a${b}c", "\\${a}", "\\\\${a}", "${a", "???", "\\", "$x", "{}", "ü", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_not_interpolated(text):
    node = {"a": text, "b": [text, [text]], "c": {"d": text}}
    assert instantiate({"_target_": "builtins.dict", **node}) == node
    nested = {"_target_": "builtins.dict", "inner": {"_target_": "builtins.dict", **node}, "list": [dict(node)]}
    assert instantiate(nested) == {"inner": node, "list": [node]}
    assert instantiate({"_target_": "builtins.dict", "_partial_": True, **node})() == node


def test_arguments_are_plain_containers():
    made = instantiate({"_target_": "builtins.dict", "betas": [0.9, 0.99], "options": {"a": None}})
    assert made == {"betas": [0.9, 0.99], "options": {"a": None}}
    assert (type(made["betas"]), type(made["options"])) == (list, dict)


def test_partial_and_nested_objects():
    made = instantiate({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1})
    assert isinstance(made, partial)
    assert (made.func, made.keywords) == (torch.optim.SGD, {"lr": 0.1})
    net = instantiate({"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Linear", "in_features": 2,
                                                                      "out_features": 3}]})  # fmt: skip
    assert net[0].weight.shape == (3, 2)


def test_class_directory_named_like_an_interpolation(folder):
    for split in ("train", "test"):
        (folder / split / "apple").rename(folder / split / "${oc.env:HOME}")
    config = build.resolve(compose("data=image_folder", f"data.root={folder}", "data.batch_size=4"))
    data, task = build.data(config), build.task(config)
    data.setup("fit")
    assert data.classes == task.classes == ["${oc.env:HOME}", "blueberry", "grün"]


def test_pretrained_weights_are_not_fetched():
    node = {"net": {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT", "num_classes": 1000}, "lr": [1]}
    changed = without_pretrained_weights(node)
    assert changed == {"net": {**node["net"], "weights": None}, "lr": [1]}
    assert instantiate(changed["net"]).fc.out_features == 1000
    timm = {"_target_": "timm.create_model", "model_name": "resnet18", "pretrained": True}
    assert without_pretrained_weights([timm]) == [{**timm, "pretrained": False}]
    blitz = {"_target_": "blitz.model.pretrained.timm_model", "name": "resnet18", "pretrained": "weights.pth"}
    assert without_pretrained_weights({"net": blitz}) == {"net": {**blitz, "pretrained": False}}
    own = {"_target_": "my.Net", "weights": [1.0, 2.0]}
    assert without_pretrained_weights(own) == own
