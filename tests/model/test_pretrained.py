"""Networks of timm and torchvision: their weights, heads and channels, in real files and real short runs."""

import json
import socket
import sys
import time

import pytest
import torch
import torchvision
from torch import nn

from blitz import runs
from blitz.errors import UserError
from blitz.model.pretrained import adapt_channels, head_entries, load_weights, timm_model, torchvision_model
from blitz.runs.checkpoint import read_checkpoint
from tests.conftest import OVERRIDES

BUILDERS = {"torchvision": torchvision_model, "timm": timm_model}
RUN = (*OVERRIDES, "data=digits", "data.batch_size=16", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1")


@pytest.fixture(params=["torchvision", "timm"])
def library(request):
    if request.param == "timm":
        pytest.importorskip("timm")
    return request.param


@pytest.fixture
def build(library):
    return BUILDERS[library]


def images(channels=3, size=32):
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def saved(weights, path):
    torch.save(weights, path)
    return str(path)


def body(net):
    return {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("pretrained", [False, None])
def test_random_weights(build, channels, pretrained):
    torch.manual_seed(0)
    net = build("resnet18", num_classes=5, in_channels=channels, pretrained=pretrained).eval()
    assert net(images(channels)).shape == (2, 5)
    torch.manual_seed(0)
    assert_equal(build("resnet18", num_classes=5, in_channels=channels).state_dict(), net.state_dict())


def test_options_reach_the_library(build, library):
    option = {"timm": {"drop_rate": 0.5}, "torchvision": {"zero_init_residual": True}}[library]
    net = build("resnet18", num_classes=5, **option)
    if library == "timm":
        assert net.drop_rate == 0.5
    else:
        assert not net.layer1[0].bn2.weight.any()


# -- weights of a file ---------------------------------------------------------------------------------------------


def test_all_weights_of_a_file_with_the_same_number_of_classes(build, tmp_path):
    source = build("resnet18", num_classes=5)
    path = saved(source.state_dict(), tmp_path / "weights.pth")
    net = build("resnet18", num_classes=5, pretrained=path)
    assert_equal(net.state_dict(), source.state_dict())
    assert torch.equal(net.eval()(images()), source.eval()(images()))


def test_head_of_another_size_is_new(build, tmp_path):
    source = build("resnet18", num_classes=7)
    path = saved(source.state_dict(), tmp_path / "weights.pth")
    net = build("resnet18", num_classes=5, pretrained=path)
    assert_equal(body(net), body(source))
    assert net(images()).shape == (2, 5)
    assert net.fc.weight.std() > 0.01, "drawn, as in a network with random weights"


def test_head_may_be_absent(build, tmp_path):
    source = build("resnet18", num_classes=7)
    path = saved(body(source), tmp_path / "weights.pth")
    assert_equal(body(build("resnet18", num_classes=5, pretrained=path)), body(source))


def test_random_numbers_after_the_network_do_not_depend_on_its_weights(build, tmp_path):
    path = saved(build("resnet18", num_classes=7).state_dict(), tmp_path / "weights.pth")
    heads, drawn = [], []
    for pretrained in (False, path):
        torch.manual_seed(3)
        heads.append(build("resnet18", num_classes=5, pretrained=pretrained).fc.weight)
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)
    assert torch.equal(*heads)


def of_lightning(weights):
    return {"state_dict": {f"net.{name}": value for name, value in weights.items()} | {"loss.weight": torch.ones(2)}}


@pytest.mark.parametrize("wrap", [
    of_lightning,
    lambda weights: {"state_dict": weights, "epoch": 3},
    lambda weights: {"model": weights, "args": {"lr": 0.1}},
    lambda weights: {f"module.{name}": value for name, value in weights.items()},
])  # fmt: skip
def test_checkpoints_of_trainers(wrap, tmp_path):
    source = torchvision_model("resnet18", num_classes=5)
    path = saved(wrap(source.state_dict()), tmp_path / "checkpoint.ckpt")
    net = torchvision_model("resnet18", num_classes=5, pretrained=path)
    assert_equal(net.state_dict(), source.state_dict())


def test_safetensors(build, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    source = build("resnet18", num_classes=5)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    net = build("resnet18", num_classes=5, pretrained=str(tmp_path / "model.safetensors"))
    assert_equal(net.state_dict(), source.state_dict())


def test_safetensors_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.pretrained=.*: the package safetensors is not installed; install it"):
        torchvision_model("resnet18", num_classes=5, pretrained=str(tmp_path / "model.safetensors"))


def test_files_from_before_batch_norm_counted_its_batches(tmp_path):
    weights = torchvision_model("resnet18", num_classes=5).state_dict()
    old = {name: value for name, value in weights.items() if "num_batches_tracked" not in name}
    net = torchvision_model("resnet18", num_classes=5, pretrained=saved(old, tmp_path / "old.pth"))
    assert_equal(net.state_dict(), weights)


def changed(**entries):
    def change(weights):
        return {name: value for name, value in (weights | entries).items() if value is not None}

    return change


REFUSED = {
    "missing": (changed(**{"layer1.0.conv1.weight": None}), "layer1.0.conv1.weight is missing"),
    "shape": (changed(**{"bn1.bias": torch.ones(3)}), "bn1.bias is 3 instead of 64"),
    "unexpected": (changed(extra=torch.ones(3)), "extra is unexpected"),
    "first convolution": (
        changed(**{"conv1.weight": torch.ones(64, 2, 7, 7)}), "conv1.weight is 64x2x7x7 instead of 64x3x7x7"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_the_body_are_refused(build, library, case, tmp_path):
    change, reason = REFUSED[case]
    path = saved(change(build("resnet18", num_classes=7).state_dict()), tmp_path / "weights.pth")
    with pytest.raises(UserError) as refused:
        build("resnet18", num_classes=5, pretrained=path)
    assert str(refused.value) == (
        f"model.pretrained={path}: not the weights of resnet18 of {library} ({reason}); "
        "expected weights of which only the head may differ (fc)"
    )


def test_weights_of_a_larger_network_are_refused(build, tmp_path):
    """Those of ResNet-34 hold every entry of ResNet-18, in the same shapes."""
    path = saved(build("resnet34", num_classes=5).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"not the weights of resnet18 .*is unexpected, and \d+ more\); expected "):
        build("resnet18", num_classes=5, pretrained=path)


class Code:
    def __reduce__(self):
        return eval, ("1/0",)


@pytest.mark.parametrize(("content", "reason"), [
    (b"text", "not a file of weights, or a damaged one"),
    (b"", "not a file of weights, or a damaged one"),
    (Code(), "not a file of weights, or a damaged one (UnpicklingError)"),
    ({"epoch": 3}, "it holds no tensors by name"),
    (torch.ones(3), "it holds no tensors by name"),
    (None, "no such file"),
])  # fmt: skip
def test_files_without_weights_are_refused(content, reason, tmp_path):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError) as refused:
        torchvision_model("resnet18", num_classes=5, pretrained=str(path))
    assert str(refused.value).startswith(f"model.pretrained={path}: {reason}")
    assert "; expected a " in str(refused.value)


# -- channels and heads --------------------------------------------------------------------------------------------


def test_a_grey_image_gives_the_output_of_its_copy_in_three_channels(build, tmp_path):
    source = build("resnet18", num_classes=5).eval()
    path = saved(source.state_dict(), tmp_path / "weights.pth")
    net = build("resnet18", num_classes=5, in_channels=1, pretrained=path).eval()
    grey = images(1)
    torch.testing.assert_close(net(grey), source(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_channels_are_adapted_as_in_timm(channels):
    adapt_input_conv = pytest.importorskip("timm.models").adapt_input_conv
    weight = torch.rand(8, 3, 5, 5)
    torch.testing.assert_close(adapt_channels(weight, channels), adapt_input_conv(channels, weight))


def test_weights_for_grey_images_fit_a_network_for_grey_images(build, tmp_path):
    source = build("resnet18", num_classes=5, in_channels=1)
    path = saved(source.state_dict(), tmp_path / "weights.pth")
    assert_equal(build("resnet18", num_classes=5, in_channels=1, pretrained=path).state_dict(), source.state_dict())


@pytest.mark.parametrize(("name", "head"), [
    ("squeezenet1_0", ["classifier.1.weight", "classifier.1.bias"]),
    ("mobilenet_v3_small", ["classifier.3.weight", "classifier.3.bias"]),
    ("vit_b_32", ["heads.head.weight", "heads.head.bias"]),
    ("regnet_y_400mf", ["fc.weight", "fc.bias"]),
])  # fmt: skip
def test_heads_of_other_networks(name, head):
    five, six = (torchvision_model(name, num_classes=n) for n in (5, 6))
    assert head_entries(five, six) == head
    assert set(load_weights(five, six.state_dict())) == set(head)


# -- wrong values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    ({"name": "resnet81"}, "model.name=resnet81: no such network; did you mean resnet"),
    ({"name": "qqqqqq"}, "model.name=qqqqqq: no such network; expected one of {}.list_models()"),
    ({"in_channels": 0}, "model.in_channels=0: not a valid number; expected a whole number >= 1"),
    ({"in_channels": True}, "model.in_channels=True: not a valid number; expected a whole number >= 1"),
    ({"pretrained": 3}, "model.pretrained=3: not a valid value; expected true, false, or a file with the weights"),
])  # fmt: skip
def test_wrong_values_are_refused(build, library, options, message):
    with pytest.raises(UserError) as refused:
        build(**{"name": "resnet18", "num_classes": 5} | options)
    expected = message.format({"timm": "timm", "torchvision": "torchvision.models"}[library])
    assert str(refused.value).startswith(expected)


def test_detectors_are_no_classifiers():
    with pytest.raises(UserError, match=r"model\.name=fasterrcnn_resnet50_fpn: no such network"):
        torchvision_model("fasterrcnn_resnet50_fpn", num_classes=5)


def test_timm_not_installed(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = refused("model=timm", "device=cpu")
    assert "model=timm: its package is not installed; install it with: python -m uv pip install -e '.[timm]'" in message


# -- weights of the library ----------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No host can be found, nothing is cached, and the retries of the Hugging Face Hub do not wait."""

    def fail(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "hub"


def test_no_network(library, offline, refused):
    cache = [f"+model.cache_dir={offline}"] if library == "timm" else []
    message = refused(f"model={library}", "model.pretrained=true", "device=cpu", *cache)
    assert f"model.pretrained=true: the weights of resnet18 of {library} cannot be downloaded (" in message
    assert "; expected a file with the weights, pretrained=false, or a network connection" in message


def test_default_weights_of_torchvision(tmp_path, monkeypatch):
    """From torch's cache, in which a file with the name of the download lies: 1,000 classes, three channels."""
    source = torchvision.models.resnet18()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    torch.save(source.state_dict(), cache / url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    net = torchvision_model("resnet18", num_classes=5, in_channels=1, pretrained=True)
    expected = body(source) | {"conv1.weight": source.conv1.weight.detach().sum(1, keepdim=True)}
    assert_equal(body(net), expected)
    assert net(images(1)).shape == (2, 5)


def test_default_weights_of_timm(tmp_path):
    """From a file in place of the download."""
    timm = pytest.importorskip("timm")
    source = timm.create_model("resnet18")
    path = saved(source.state_dict(), tmp_path / "weights.pth")
    net = timm_model("resnet18", num_classes=5, pretrained=True, pretrained_cfg_overlay={"file": path})
    assert_equal(body(net), body(source))


# -- runs ----------------------------------------------------------------------------------------------------------


def test_a_fine_tuned_run_needs_the_file_no_more(build, library, train, command, tmp_path, monkeypatch):
    file = tmp_path / "weights.pth"
    source = build("resnet18", num_classes=1000)
    saved(source.state_dict(), file)
    run = train(*RUN, f"model={library}", f"model.pretrained={file}", "optimizer.lr=1e-6")
    file.unlink()

    task = runs.load(run)
    assert isinstance(task.net, nn.Module)
    trained = body(task.net)["layer4.1.conv2.weight"]
    torch.testing.assert_close(trained, source.layer4[1].conv2.weight.detach(), rtol=0, atol=1e-4)
    assert task.net(images(1)).shape == (2, 10)
    assert read_checkpoint(run / "checkpoints" / "best.ckpt")["config"]["model"]["pretrained"] == str(file)

    command("blitz-eval", f"run={run}", "device=cpu", f"hydra.run.dir={tmp_path / 'eval'}")
    found = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert found.keys() >= {"test/loss", "test/acc"}

    command("blitz-train", f"resume={run}", "trainer.max_epochs=2")
    assert torch.load(run / "checkpoints" / "resume.ckpt", weights_only=True)["global_step"] == 6


def test_a_trained_run_is_a_file_of_weights(train, tmp_path):
    first = train(*RUN, "model=torchvision")
    checkpoint = first / "checkpoints" / "best.ckpt"
    second = train(*RUN, "model=torchvision", f"model.pretrained={checkpoint}", "optimizer.lr=1e-9", into="second")
    nets = [runs.load(run).net.state_dict() for run in (first, second)]
    torch.testing.assert_close(*(net["fc.weight"] for net in nets), rtol=0, atol=1e-6)


def test_a_misspelled_option_is_refused(library, refused):
    message = refused(f"model={library}", "+model.drop_ratee=0.1", "device=cpu")
    assert "model.drop_ratee=0.1: " in message
