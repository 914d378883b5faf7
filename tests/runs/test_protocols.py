"""The classes of blitz offer what the programs look for, and other libraries' modules do not."""

from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from blitz.runs.protocols import DescribedData, NamingTask, ReportingTask
from blitz.training import build
from tests.test_configs import compose


def test_classes_of_blitz_offer_every_protocol():
    config = build.resolve(compose("device=cpu"))
    task, data = build.task(config), build.data(config)
    assert isinstance(task, ReportingTask)
    assert isinstance(task, NamingTask)
    assert isinstance(data, DescribedData)


def test_other_modules_offer_none():
    assert not isinstance(BoringModel(), ReportingTask | NamingTask)
    assert not isinstance(BoringDataModule(), DescribedData)
