"""Tasks of blitz can be exported. Modules of other libraries cannot."""

from lightning.pytorch.demos.boring_classes import BoringModel

from blitz.runs.exportable import Exportable
from blitz.runs.protocols import ExportableTask
from blitz.training import build
from tests.test_configs import compose


def test_tasks_of_blitz_are_exportable():
    task = build.task(build.resolve(compose("device=cpu", "data=cifar10")))
    assert isinstance(task, ExportableTask)
    model = task.exportable()
    assert isinstance(model, Exportable)
    assert model.example.shape == (2, 3, 32, 32)
    assert model.module(model.example).shape == (2, 10)
    assert model.metadata["classes"] == task.classes
    assert not isinstance(BoringModel(), ExportableTask)
