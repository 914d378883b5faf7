"""Combinations of swept values."""

import pytest

from blitz.errors import UserError
from blitz.sweep.grid import GridSweeper


class Recorder:
    def launch(self, jobs, initial_job_idx):
        return jobs


def sweep(*arguments, params=None):
    from types import SimpleNamespace

    sweeper = GridSweeper(params)
    sweeper.hydra_context, sweeper.launcher = SimpleNamespace(config_loader=None), Recorder()
    return sweeper.sweep(list(arguments))


def test_every_combination_in_order():
    assert sweep("optimizer=sgd,adam", "seed=1", "x=range(2)") == [
        ["optimizer=sgd", "seed=1", "x=0"],
        ["optimizer=sgd", "seed=1", "x=1"],
        ["optimizer=adam", "seed=1", "x=0"],
        ["optimizer=adam", "seed=1", "x=1"],
    ]


def test_command_line_overrides_the_file():
    assert sweep("seed=7", params={"seed": "1,2"}) == [["seed=7"]]
    assert sweep(params={"seed": "range(1,4)"}) == [["seed=1"], ["seed=2"], ["seed=3"]]


def test_deletions_and_quotes_are_kept():
    assert sweep("~callback.progress", "+a='x y'", "seed=1,2")[1] == ["~callback.progress", "+a='x y'", "seed=2"]


def test_interval_is_refused():
    with pytest.raises(UserError, match=r"optimizer.lr=interval\(0,1\): a grid needs single values; .* sweep=optuna"):
        sweep("optimizer.lr=interval(0,1)")
