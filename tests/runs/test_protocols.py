"""The tasks and data sets of blitz implement the optional protocols. Modules of other libraries do not."""

from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from blitz.runs.protocols import (
    DescribedData,
    FileTransform,
    OrderedData,
    describes_predictions,
    names_metrics,
    reports,
)
from blitz.training import build
from tests.test_configs import compose


def test_classes_of_blitz_offer_every_protocol():
    config = build.resolve(compose("device=cpu"))
    task, data = build.task(config), build.data(config)
    assert reports(task)
    assert names_metrics(task)
    assert describes_predictions(task)
    assert isinstance(task.transform, FileTransform)
    assert isinstance(data, DescribedData)
    assert isinstance(data, OrderedData)


def test_other_modules_offer_none():
    class Other(BoringModel):
        metric_names = ("loss",)

        def report(self, path, stage="test"):
            raise AssertionError

    for module in (BoringModel(), Other()):
        assert not reports(module)
        assert not names_metrics(module)
        assert not describes_predictions(module)
    assert not isinstance(BoringDataModule(), DescribedData | OrderedData)
