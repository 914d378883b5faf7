"""Tables of predictions in both formats, and the predictions of modules that know nothing of blitz."""

import csv
import io
import json
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from blitz.errors import UserError
from blitz.training.predictions import Table, check_one_process, predict

RECORDS = [
    {"file": "a,b.png", "prediction": "grün", "probability": {"grün": 0.75, "x": 0.25}},
    {"file": "c.png", "prediction": "x", "probability": {"grün": 0.0, "x": 1.0}},
]


def filled(kind):
    table = Table(kind)
    for record in RECORDS:
        table.add(record)
    return table.content().decode()


def test_json_holds_the_records():
    assert json.loads(filled("json")) == RECORDS
    assert len(filled("json").splitlines()) == len(RECORDS) + 2


def test_csv_has_a_column_for_each_class():
    assert list(csv.reader(io.StringIO(filled("csv")))) == [
        ["file", "prediction", "probability/grün", "probability/x"],
        ["a,b.png", "grün", "0.75", "0.25"],
        ["c.png", "x", "0.0", "1.0"],
    ]


class Doubled(LightningModule):
    def forward(self, x):
        return 2 * x


class Odd(Doubled):
    """Return whatever the test sets."""

    def predict_step(self, batch, batch_idx):
        return self.output


@pytest.fixture
def run(tmp_path):
    def predict_with(task, batches, names=None):
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path,
                          enable_model_summary=False, enable_checkpointing=False)  # fmt: skip
        table, counts = Table("json"), []
        collector = predict(trainer, task, batches, table, names, 2, counts.append)
        return json.loads(table.content()), collector, counts

    return predict_with


def test_forward_predicts_if_there_is_no_predict_step(run):
    inputs = torch.arange(6.0).reshape(3, 2)
    batches = DataLoader(list(zip(inputs, torch.zeros(3), strict=True)), batch_size=2)
    records, collector, counts = run(Doubled(), batches)
    assert records == [{"index": i, "output": {"0": 4.0 * i, "1": 4.0 * i + 2}} for i in range(3)]
    assert collector.shown == records[:2]
    assert counts == [2, 1]
    assert collector.report(Doubled()).files == {}
    records, *_ = run(Doubled(), DataLoader(inputs[:, 0], batch_size=2), names=["a", "b", "c"])
    assert records == [{"file": name, "output": 4.0 * i} for i, name in enumerate("abc")]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"a": 1}, "Odd: predict_step returns a dict; expected a tensor with a row for each sample"),
        (torch.tensor(1.0), "Odd: predict_step returns a Tensor; expected a tensor with a row for each sample"),
        (torch.tensor([float("nan")]), "Odd predicts a number that is not finite"),
        (torch.zeros(2, 3, 4), r"the predictions have the shape \(2, 3, 4\); expected \(n,\) or \(n, columns\)"),
    ],
    ids=["dict", "scalar", "nan", "image"],
)
def test_other_outputs_are_refused(output, message, run):
    task = Odd()
    task.output = output
    with pytest.raises(UserError, match=message):
        run(task, DataLoader(torch.zeros(2, 1), batch_size=2))


def test_several_processes_are_refused():
    check_one_process(SimpleNamespace(world_size=1))
    with pytest.raises(UserError, match=r"trainer\.devices=2: one process predicts all inputs; expected device=auto"):
        check_one_process(SimpleNamespace(world_size=2))
