"""Tables on terminals of several widths, and as CSV, JSON and Markdown."""

import csv
import io
import json

import pytest
from rich.console import Console

from blitz.runs.collect import collect
from blitz.runs.compare import group_table, order, pair_table, parse_filter, run_table
from blitz.runs.table import as_csv, as_json, as_markdown, duration, show, show_runs
from tests.recorded import record_run


@pytest.fixture
def records(tmp_path):
    for seed in (1, 2):
        for optimizer, value in (("sgd", 0.9), ("adam", 0.95)):
            metrics = {"val/acc": value + seed / 100, "test/acc": value, "test/acc/cat": value - 0.1}
            record_run(
                tmp_path / f"optimizer={optimizer}_seed={seed}-0123456789abcdef",
                optimizer, 0.1, seed, metrics, progress={"seconds": 65.0, "samples_per_second": 1234.5},
            )  # fmt: skip
    record_run(tmp_path / "z", seed=3, status={"state": "failed", "reason": "killed by SIGKILL [9]"})
    return order(collect([tmp_path]))


def printed(width, show, *arguments):
    console = Console(file=io.StringIO(), width=width, force_terminal=width is not None, color_system=None)
    show(*arguments, console)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_table_on_a_terminal(records):
    assert printed(80, show_runs, records)[:9] == [
        "                                               val/    test/  samples/",
        " run               state   optimizer  seed      acc      acc         s  time",
        " ───────────────────────────────────────────────────────────────────────────",
        " …123456789abcdef  done    Adam          2  97.00 %  95.00 %     1,234  1:05",
        " …123456789abcdef  done    Adam          1  96.00 %  95.00 %     1,234  1:05",
        " …123456789abcdef  done    SGD           2  92.00 %  90.00 %     1,234  1:05",
        " …123456789abcdef  done    SGD           1  91.00 %  90.00 %     1,234  1:05",
        " z                 failed  SGD           3",
        "left out       worst class; --csv prints all columns",
    ]


def test_narrow_terminal_shows_the_most_important_columns(records):
    lines = printed(40, show_runs, records)
    assert lines[1:5] == [
        " run               state       acc",
        " ─────────────────────────────────",
        " …123456789abcdef  done    97.00 %",
        " …123456789abcdef  done    96.00 %",
    ]
    assert lines[8] == (
        "left out       optimizer, seed, test/acc, worst class, samples/s, time; --csv prints all columns"
    )


def test_reasons_and_the_best_run_follow_in_full(records, tmp_path):
    for width in (20, 40, 80, None):
        *_, failed, best = printed(width, show_runs, records)
        assert failed.startswith("failed         ")
        assert failed.endswith("z: killed by SIGKILL [9]")
        assert best.startswith("best           ")
        assert best.endswith("optimizer=adam_seed=2-0123456789abcdef")


def test_output_that_is_no_terminal_has_all_columns_in_full(records):
    text = "\n".join(printed(None, show_runs, records))
    assert "left out" not in text
    assert "optimizer=adam_seed=2-0123456789abcdef" in text
    assert "cat 85.00 %" in text
    assert "\x1b" not in text


def test_metrics_of_two_kinds_have_a_table_each(records, tmp_path):
    record_run(tmp_path / "other" / "r", metric="val/loss", direction="min", metrics={"val/loss": 0.25})
    record_run(tmp_path / "other" / "s", metric=None, metrics={})
    lines = printed(80, show_runs, [*records, *collect([tmp_path / "other"])])
    titles = [line for line in lines if line.endswith(":")]
    assert titles == ["val/acc, the largest first:", "val/loss, the smallest first:", "no optimized metric:"]
    assert not lines[-1].startswith("best")


def test_group_and_pair(records):
    lines = printed(80, show, group_table(records, "seed"))
    assert lines[-2].split() == ["Adam", "2", "96.50", "±", "0.71", "%", "95.00", "±", "0.00", "%"]
    filters = [[parse_filter(f"optimizer={name}")] for name in ("sgd", "adam")]
    lines = printed(80, show, pair_table(records, *filters))
    assert lines[-5].split() == ["val/acc", "difference", "2", "-5.00", "%", "-5.00", "%", "-5.00", "%"]
    assert lines[-1] == "the recipes differ in optimizer"


def test_csv_and_json_have_all_digits(records):
    table = run_table(records, name=lambda record: record.path.name)
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert list(rows[0]) == table.columns
    assert [row["optimizer"] for row in rows] == ["Adam", "Adam", "SGD", "SGD", "SGD"]
    assert [float(row["val/acc"]) for row in rows[:4]] == [0.95 + 0.02, 0.95 + 0.01, 0.9 + 0.02, 0.9 + 0.01]
    assert (rows[4]["val/acc"], rows[4]["reason"]) == ("", "killed by SIGKILL [9]")
    content = json.loads(as_json(table))
    assert content[0]["val/acc"] == 0.95 + 0.02
    assert content[4]["val/acc"] is None
    assert list(content[0]) == table.columns


def test_markdown(records, tmp_path):
    record_run(tmp_path / "pipe", seed=4, status={"state": "failed", "reason": "a|b"})
    table = run_table(order(collect([tmp_path])), name=lambda record: record.path.name[-3:])
    header, rule, *rows = as_markdown(table).splitlines()
    assert header == "| run | state | optimizer | seed | val/acc | test/acc | worst class | samples/s | time | reason |"
    assert rule == "| --- | --- | --- | ---: | ---: | ---: | --- | ---: | ---: | --- |"
    assert rows[0] == "| def | done | Adam | 2 | 97.00 % | 95.00 % | cat 85.00 % | 1,234 | 1:05 |  |"
    assert [row.split(" | ")[-1] for row in rows[4:]] == [r"a\|b |", "killed by SIGKILL [9] |"]


def test_durations():
    assert [duration(seconds) for seconds in (0.04, 59.9, 60, 723, 3600, 90061)] == [
        "0.0 s", "59.9 s", "1:00", "12:03", "1:00:00", "25:01:01",
    ]  # fmt: skip
