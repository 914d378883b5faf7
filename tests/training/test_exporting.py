"""Exported models of every task give the original's output for any batch size."""

import io
import json

import pytest
import torch
from torch import nn

from blitz.errors import UserError
from blitz.runs.exportable import Exportable
from blitz.training import build, exporting
from tests.test_configs import compose


def built(*overrides):
    torch.manual_seed(0)
    return build.task(build.resolve(compose("device=cpu", *overrides)))


@pytest.mark.parametrize("recipe", ["regression", "autoencode"])
def test_other_tasks_than_classification(recipe):
    task = built(f"experiment={recipe}")
    model = task.exportable()
    content = exporting.export(model, "torch_export")
    extra = {exporting.METADATA: ""}
    exported = torch.export.load(io.BytesIO(content), extra_files=extra).module()
    described = json.loads(extra[exporting.METADATA])
    assert described["output"] == {"name": model.output}
    if recipe == "regression":
        inputs = torch.rand(5, 10)
        torch.testing.assert_close(exported(inputs), task.predict(inputs))
        assert described["features"] == 10
    else:
        images = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
        torch.testing.assert_close(exported(images) * 255, task.predict(images).float(), atol=0.5001, rtol=0)
        batch = (task.transform(images), None)
        assert torch.equal(model.raw(batch), images), "un-normalizing gives the same pixels"
        assert exporting.compare(content, "torch_export", model, [batch])[0] == 3


class Halved(nn.Module):
    def forward(self, x):
        return x / 2


def exportable(module, original):
    return Exportable(module, torch.ones(2, 3), "x", "y", lambda batch: batch, original, {})


def test_largest_difference_is_that_of_any_sample():
    model = exportable(Halved(), lambda batch: batch / 2 + torch.tensor([0.0, 5e-5, 0.0]))
    content = exporting.export(model, "torch_export")
    count, largest = exporting.compare(content, "torch_export", model, [torch.ones(200, 3), torch.ones(200, 3)])
    assert count == exporting.COMPARED
    assert largest == pytest.approx(5e-5, rel=1e-2)
    for wrong in (2e-4, float("nan")):
        model = exportable(Halved(), lambda batch, wrong=wrong: batch / 2 + torch.tensor([0.0, 0.0, wrong]))
        with pytest.raises(UserError, match=r"expected 0\.0001 at most; no file was written"):
            exporting.compare(content, "torch_export", model, [torch.ones(2, 3)])
    with pytest.raises(UserError, match="there is no sample to compare"):
        exporting.compare(content, "torch_export", model, [])


class DependsOnValues(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def test_a_module_that_torch_cannot_export():
    with pytest.raises(UserError, match=r"^format=torch_export: torch \S+ cannot export DependsOnValues \(\w+: "):
        exporting.export(exportable(DependsOnValues(), None), "torch_export")


def test_packages_are_not_installed(monkeypatch):
    exporting.check_packages("onnx")
    monkeypatch.setattr(exporting, "find_spec", {"onnx": "installed"}.get)
    exporting.check_packages("torch_export")
    with pytest.raises(UserError) as refused:
        exporting.check_packages("onnx")
    assert str(refused.value) == (
        "format=onnx: onnxscript, onnxruntime not installed; install with: python -m uv pip install -e '.[onnx]', "
        "or use format=torch_export"
    )
