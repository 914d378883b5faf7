"""blitz-compare, in this process and once as a command."""

import json

import pytest
from matplotlib.image import imread

import blitz.compare
from blitz.compare import main
from tests import processes
from tests.conftest import call, error_of
from tests.recorded import record_run


@pytest.fixture
def compare(monkeypatch):
    return lambda *arguments: call(monkeypatch, main, "blitz-compare", *map(str, arguments))


@pytest.fixture
def sweep(tmp_path):
    """Return a directory with runs of two optimizers and three seeds."""
    for seed in (1, 2, 3):
        for optimizer, value in (("sgd", 0.5), ("adam", 0.25)):
            metrics = {"val/acc": value + seed / 100, "test/acc": value}
            record_run(tmp_path / "sweep" / f"{optimizer}-{seed}", optimizer, 0.1, seed, metrics)
    return tmp_path / "sweep"


def test_command_imports_neither_torch_nor_lightning_nor_hydra(sweep):
    program = (
        "import sys; from blitz.compare import main; main(); "
        "print({'torch', 'lightning', 'hydra', 'matplotlib'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = processes.run(program, sweep, "seed=1", "--json", fork=False)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert [row["val/acc"] for row in json.loads(done.stdout)] == [0.5 + 0.01, 0.25 + 0.01]


def test_default_directories(compare, sweep, monkeypatch, capsys):
    monkeypatch.setattr(blitz.compare, "DIRECTORIES", (sweep, sweep / "absent"))
    compare("optimizer=sgd")
    lines = capsys.readouterr().out.splitlines()
    assert sum("sgd-" in line for line in lines) == 3 + 1, "a row for each, and the line of the best"
    assert lines[-1] == f"best           {sweep / 'sgd-3'}"


def test_options(compare, sweep, capsys):
    compare(sweep, "--sort", "test/acc", "--last", 6, "--state", "done", "--csv")
    assert capsys.readouterr().out.startswith("run,state,optimizer,seed,val/acc,test/acc\n")
    compare(sweep, "--group", "seed", "--markdown")
    assert "| SGD | 3 | 52.00 ± 1.00 % | 50.00 ± 0.00 % |" in capsys.readouterr().out
    compare(sweep, "--group", "seed")
    assert "52.00 ± 1.00 %" in capsys.readouterr().out
    compare(sweep, "--pair", "optimizer=sgd", "optimizer=adam", "--json")
    assert [row["mean"] for row in json.loads(capsys.readouterr().out)] == pytest.approx(
        [0.52, 0.27, 0.25, 0.5, 0.25, 0.25]
    )
    compare(sweep, "--pair", "optimizer=sgd,seed=1,2", "optimizer=adam")
    assert capsys.readouterr().out.count("difference") == 2


def test_plot(compare, sweep, tmp_path):
    compare(sweep, "--plot", tmp_path / "all.png")
    compare(sweep, "--plot", tmp_path / "one.png", "--x", "seed")
    assert imread(tmp_path / "all.png").shape != imread(tmp_path / "one.png").shape


def test_mistakes_are_one_line(compare, sweep, tmp_path):
    assert error_of(compare, sweep / "absent").endswith("expected KEY=VALUE, such as optimizer=sgd")
    assert error_of(compare, sweep, "optimzer=sgd").endswith("did you mean optimizer?")
    assert "not allowed with argument" in error_of(compare, sweep, "--csv", "--json")
    assert error_of(compare, sweep, "--x", "seed") == "blitz-compare: --x seed: it needs --plot FILE"
    (tmp_path / "empty").mkdir()
    message = error_of(compare, tmp_path / "empty")
    assert message == f"blitz-compare: no runs in {tmp_path / 'empty'}; blitz-train makes one"


def test_help(compare, capsys):
    with pytest.raises(SystemExit, match="0"):
        compare("--help")
    assert "DIR|KEY=VALUE" in capsys.readouterr().out
