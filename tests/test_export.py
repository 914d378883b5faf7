"""blitz-export writes models that give the same output as the original, without blitz."""

import io
import json
from functools import partial

import onnxruntime
import pytest
import torch

from blitz import runs
from blitz.training import exporting
from tests.conftest import error_of
from tests.test_foreign import MODULES, WITHOUT_PARTS


@pytest.fixture
def export(command, tmp_path):
    """``export(*overrides)`` runs blitz-export and returns its directory."""

    def run(*overrides: str, into: str = "export"):
        command("blitz-export", *overrides, f"hydra.run.dir={tmp_path / into}")
        return tmp_path / into

    return run


def pixels(n, *shape):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def test_onnx_takes_raw_images_and_carries_its_metadata(finished, export, capfd):
    path = export(f"run={finished}") / "model.onnx"
    captured = capfd.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == "input          images, uint8 (n, 1, 32, 32)"
    assert lines[1] == "output         probabilities, float32"
    assert lines[2].startswith("compared       256 test samples, largest difference from the original ")
    assert len(lines) == 4

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (model_input,), (output,) = session.get_inputs(), session.get_outputs()
    assert (model_input.name, model_input.type) == ("images", "tensor(uint8)")
    assert (model_input.shape, output.name) == (["batch", 1, 32, 32], "probabilities")
    task = runs.load(finished)
    for size in (1, 3, 64):
        found = torch.from_numpy(session.run(None, {"images": pixels(size, 1, 32, 32).numpy()})[0])
        torch.testing.assert_close(found, task.predict(pixels(size, 1, 32, 32)).probabilities, atol=1e-5, rtol=0)
    described = session.get_modelmeta().custom_metadata_map
    assert json.loads(described["classes"]) == task.classes
    assert json.loads(described["mean"]) == pytest.approx([0.305])
    assert json.loads(described["input"]) == {"name": "images", "dtype": "uint8", "shape": ["batch", 1, 32, 32]}
    assert described["blitz_version"].count(".") == 2


def test_torch_export_takes_raw_images_and_carries_its_metadata(finished, export):
    path = export(f"run={finished}", "format=torch_export") / "model.pt2"
    extra = {exporting.METADATA: ""}
    model = torch.export.load(path, extra_files=extra).module()
    task = runs.load(finished)
    for size in (1, 3, 64):
        images = pixels(size, 1, 32, 32)
        torch.testing.assert_close(model(images), task.predict(images).probabilities, atol=1e-5, rtol=0)
    assert json.loads(extra[exporting.METADATA])["classes"] == task.classes


def test_a_model_that_differs_is_not_written(finished, export, tmp_path, monkeypatch):
    def other(content):
        model = torch.export.load(io.BytesIO(content)).module()
        return lambda images: model(images) + 2e-4

    monkeypatch.setattr(exporting, "_torch_model", other)
    message = error_of(partial(export, into="a/b"), f"run={finished}", "format=torch_export")
    assert (
        "the output of the exported model differs from the original's by 0.0002; "
        "expected 0.0001 at most; no file was written"
    ) in message
    assert not (tmp_path / "a").exists()


def test_a_module_that_knows_nothing_of_blitz(untrained, export):
    model = untrained(*WITHOUT_PARTS, *MODULES["boring"])
    assert "BoringModel has no exportable(); expected" in error_of(export, f"checkpoint={model}")
