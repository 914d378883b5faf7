"""Lines and tables of the terminal: every line can be copied, and nothing is read as markup."""

import shlex
import sys
from pathlib import Path

import pytest
import torch

from blitz import terminal
from blitz.config.paths import as_override
from blitz.runs.folder import Run
from blitz.runs.report import Report
from blitz.runs.reproduce import Comparison
from blitz.runs.resume import Resumable
from blitz.training import build
from tests.test_configs import compose


@pytest.fixture
def lines(capsys):
    """``lines()`` returns the printed lines."""
    return lambda: [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def start(*overrides, resumed=None, **replaced):
    config = build.resolve(compose("device=cpu", "seed=3", *overrides)) | replaced
    data, task = build.data(config), build.task(config)
    data.setup("fit")
    data.setup("test")
    terminal.show_start(Path("logs", "run"), config, task, data, build.trainer(config), resumed)
    return task


def test_lines_are_neither_wrapped_nor_read_as_markup(lines):
    text = "[bold]" + "x" * 300 + "[/bold] :smile:"
    terminal.show_lines({"data": text})
    terminal.show_lines([("differs", "a"), ("differs", "b")])
    assert lines() == [f"data           {text}", "differs        a", "differs        b"]


def test_start(lines):
    task = start("data.batch_size=32")
    printed = lines()
    parameters = sum(parameter.numel() for parameter in task.parameters())
    threads = torch.get_num_threads()
    assert printed[0] == (
        f"model          Net, {parameters:,} parameters, on cpu, {threads} thread{'s' if threads > 1 else ''}"
    )
    assert any(line.startswith("data           Digits, 1,295 train + 143 val + 359 test images") for line in printed)
    assert "batch          32 images, on one device" in printed
    assert printed[-1] == f"run            {Path('logs', 'run')}, seed 3"


def test_start_on_several_devices_with_accumulation(lines):
    start("device=dp_cpu", "trainer.accumulate_grad_batches=4", "data.batch_size=31")
    printed = lines()
    (batch,) = (line for line in printed if line.startswith("batch"))
    assert batch.startswith("batch          31 images, ")
    assert batch.endswith("; 4 batches a step")


def test_start_of_a_resumed_run(lines):
    resumed = Resumable(
        Path("logs/run/resume.ckpt"), {"global_step": 12345}, ["resume.ckpt: damaged"], ["torch is 3, was 2"]
    )
    start(resumed=resumed)
    assert lines()[-3:] == [
        "damaged        resume.ckpt: damaged",
        "differs        torch is 3, was 2; results may differ in rounding from here on",
        f"resumed        after step 12,345, from {Path('logs/run/resume.ckpt')}",
    ]
    start(resumed=Resumable(None, {}, []))
    assert lines()[-1] == "resumed        from the start; nothing was saved yet"


def test_start_from_the_weights_of_another_run(lines):
    start(init_from=str(Path("logs/other").absolute()))
    assert lines()[-1] == f"init from      {Path('logs/other')}"


def test_end(lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = Report(
        display=[("class", "accuracy", ""), ("[b]cat[/b]", "90.0 %", "worst")], summary={"test accuracy": "90.00 %"}
    )
    terminal.show_end(Run(tmp_path / "logs" / "run"), report)
    printed = lines()
    assert any(line.split() == ["cat", "90.0", "%", "worst"] for line in printed), "the report's markup is interpreted"
    assert printed[-3] == "test accuracy  90.00 %"
    assert printed[-2].startswith("dashboard      ")
    assert printed[-1] == f"run            {Path('logs', 'run')}"


def test_comparison(lines):
    terminal.show_comparison(Comparison(31, [], explained=False))
    assert lines() == ["metrics        identical: all 31 of them"]
    terminal.show_comparison(Comparison(31, ["a is 1, was 2"], explained=False))
    assert lines() == [
        "metrics        1 of 31 differ; no recorded difference explains it",
        "differs        a is 1, was 2",
    ]
    terminal.show_comparison(Comparison(31, [f"m{i} is 1, was 2" for i in range(12)], explained=True))
    printed = lines()
    assert printed[0] == "metrics        12 of 31 differ; see the differences above"
    assert (len(printed), printed[-2], printed[-1]) == (
        12,
        "differs        m9 is 1, was 2",
        "differs        and 2 more",
    )


def test_dashboard_command_quotes_paths_with_spaces():
    spaced = Path("logs", "my runs")
    assert shlex.split(terminal.dashboard_command(spaced))[1:] == ["--logdir", str(spaced)]
    assert terminal.dashboard_command(spaced.parent).endswith("--logdir logs"), "no quotes unless they are needed"


def test_dashboard_command_is_found_without_the_virtual_environment(monkeypatch):
    program = Path(sys.executable).with_name("tensorboard")
    monkeypatch.setattr(terminal.shutil, "which", lambda name: None)
    command, *_ = shlex.split(terminal.dashboard_command(Path("logs")))
    assert Path(command).absolute() == program
    monkeypatch.setattr(terminal.shutil, "which", lambda name: str(program))
    assert terminal.dashboard_command(Path("logs")) == "tensorboard --logdir logs"


def test_silenced_warnings_do_not_hide_others():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        terminal.silence_lightning()
        warnings.warn("You requested to overfit", stacklevel=1)
        with pytest.raises(UserWarning, match="something else"):
            warnings.warn("something else", stacklevel=1)


def test_advised_path_can_be_pasted(lines):
    terminal.show_lines({"to resume": as_override("resume", "my [b]run[/b]")})
    assert shlex.split(lines()[0])[-1] == "resume='my [b]run[/b]'"
