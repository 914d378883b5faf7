"""Comparisons of recorded runs, with hand-computed values."""

import math

import pytest

from blitz.errors import UserError
from blitz.runs import overrides
from blitz.runs.collect import collect
from blitz.runs.compare import (
    IMPLEMENTATION,
    best_of,
    differing_keys,
    group_table,
    order,
    pair_table,
    parse_filter,
    plot_data,
    run_table,
    select,
)
from tests.recorded import record_run


@pytest.fixture
def runs(tmp_path):
    """``runs({...}, {...})`` records runs with these arguments, called a, b, ..., and reads them."""

    def record(*each, **shared):
        for name, arguments in zip("abcdefghijkl", each, strict=False):
            record_run(tmp_path / name, **shared, **arguments)
        return collect([tmp_path])

    return record


def names(records):
    return "".join(record.path.name for record in records)


def acc(value, test=None):
    return {"metrics": {"val/acc": value} | ({} if test is None else {"test/acc": test})}


# -- keys -------------------------------------------------------------------------------------------------------------


def test_only_keys_that_differ_are_compared(runs):
    assert differing_keys(runs({"seed": 1}, {"seed": 2})) == ["seed"], "data.seed is computed from it"


def test_single_run_differs_in_nothing(runs):
    assert differing_keys(runs({})) == []


def test_names_of_runs_are_no_part_of_the_recipe(runs):
    assert differing_keys(runs({"name": "x", "overrides": ("name=x",)}, {"name": "y", "direction": "min"})) == []


def test_values_that_are_computed_from_others_are_left_out(runs):
    assert differing_keys(runs({"lr": 0.1}, {"lr": 0.2})) == ["optimizer.lr"]


def test_values_of_runs_that_record_no_references_are_recognised_as_copies(runs, tmp_path):
    runs({"lr": 0.1, "seed": 3}, {"lr": 0.2, "seed": 4})
    for name in "ab":
        (tmp_path / name / "environment.json").write_text("{}")
        (tmp_path / name / "overrides.yaml").write_text("[]")
    assert differing_keys(collect([tmp_path])) == ["optimizer.lr", "seed"]


def test_computed_value_that_one_run_sets_is_compared(runs, tmp_path):
    runs({}, {"schedule": {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.7}})
    (tmp_path / "b" / "environment.json").write_text('{"references": {}}')
    assert differing_keys(collect([tmp_path])) == ["schedule.max_lr"]


def test_class_stands_for_its_arguments(runs):
    """SGD has a momentum and Adam has none. Both have the learning rate, which differs among those of Adam."""
    records = runs({"optimizer": "sgd"}, {"optimizer": "adam"})
    assert differing_keys(records) == ["optimizer"]
    assert [row["optimizer"] for row in run_table(records).rows] == ["SGD", "Adam"]


def test_argument_that_a_command_line_sets_is_compared_with_the_class(runs):
    records = runs({"optimizer": "sgd", "lr": 0.1}, {"optimizer": "adam", "lr": 0.01})
    assert differing_keys(records) == ["optimizer", "optimizer.lr"]


def test_argument_that_differs_within_a_class_is_compared(runs, tmp_path):
    sgd = {"_target_": "torch.optim.SGD", "momentum": 0.9}
    for name, node in {
        "a": sgd,
        "b": {**sgd, "momentum": 0.5},
        "c": {"_target_": "torch.optim.Adam", "eps": 1},
    }.items():
        (record_run(tmp_path / name, model=node) / "overrides.yaml").unlink()
    assert differing_keys(collect([tmp_path])) == ["model", "model.momentum"]


def test_device_is_compared_only_if_a_command_line_sets_it(runs, tmp_path):
    assert differing_keys(runs({"threads": 1, "device": {"accelerator": "cpu"}}, {"threads": 2})) == []
    record_run(tmp_path / "c", threads=3, overrides=("threads=3", "device=cpu"))
    assert differing_keys(collect([tmp_path])) == ["threads", "device"]


def test_keys_that_resume_may_change_are_not_a_part_of_the_recipe():
    for pattern in (*overrides.ROUNDING, *overrides.EXACT):
        key = pattern.removesuffix(".*")
        assert any(f"{key}.".startswith(f"{parent}.") for parent in IMPLEMENTATION), key


# -- filters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["optimizer=sgd"], "ac"),
        (["optimizer=SGD"], "ac"),
        (["optimizer.lr=1e-1"], "ab"),
        (["optimizer.lr=0.1,0.3"], "abc"),
        (["optimizer=sgd", "seed=2"], "c"),
        (["threads=null"], "abc"),
        (["betas=[0.9, 0.99]"], "a"),
        (["betas=[0.9,0.99],x"], "ab"),
        (["experiment=mnist"], "b"),
        (["fast=true"], "a"),
    ],
)
def test_filter(texts, expected, runs):
    records = runs(
        {"optimizer": "sgd", "lr": 0.1, "betas": [0.9, 0.99], "fast": True},
        {"optimizer": "adam", "lr": 0.1, "betas": "x", "fast": False, "overrides": ("experiment=mnist",)},
        {"optimizer": "sgd", "lr": 0.3, "seed": 2},
    )
    assert names(select(records, map(parse_filter, texts))) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": ["optimzer=sgd"]}, r"optimzer=sgd: no run has optimzer; did you mean optimizer\?"),
        ({"filters": ["qqqq=1"]}, "qqqq=1: no run has qqqq; expected a key of config.yaml"),
        ({"filters": ["seed=7"]}, "seed=7: none of the 2 runs matches"),
        ({"filters": ["seed=1"], "state": "failed"}, "--state failed seed=1: none of the 2 runs matches"),
        ({"last": 0}, "--last 0: out of range; expected a number >= 1"),
    ],
)
def test_filter_without_a_match(arguments, message, runs):
    filters = [parse_filter(text) for text in arguments.pop("filters", [])]
    with pytest.raises(UserError, match=f"^{message}$"):
        select(runs({}, {"seed": 2}), filters, **arguments)


def test_filter_needs_a_key():
    for text in ("logs/rnus", "=3"):
        with pytest.raises(UserError, match="no such directory, and not a filter; expected KEY=VALUE"):
            parse_filter(text)


def test_state_and_last(runs):
    records = runs({**acc(1), "started": 300}, {"started": 100}, {"started": 200})
    assert names(select(records, state="done")) == "a"
    assert names(select(records, last=2)) == "ac"
    assert names(select(records, last=9)) == "abc"


# -- order ------------------------------------------------------------------------------------------------------------


def test_best_runs_come_first_and_failed_ones_last(runs):
    failed = {"status": {"state": "failed", "reason": "killed"}}
    records = runs(failed, acc(0.5), acc(None), {"progress": {"best": 0.9}}, acc(0.7), acc(0.6))
    assert names(order(records)) == "efbcda", "the run without results is interrupted"
    assert best_of(records).path.name == "e"


def test_smallest_value_is_the_best_if_direction_is_min(runs):
    metrics = [{"metrics": {"val/loss": value}} for value in (0.5, 0.2, 0.3)]
    records = runs(*metrics, metric="val/loss", direction="min")
    assert names(order(records)) == "bca"
    assert best_of(records).path.name == "b"


def test_test_figures_do_not_order_unless_asked(runs):
    records = runs(acc(0.9, test=0.1), acc(0.8, test=0.3), acc(0.7, test=0.2))
    assert names(order(records)) == "abc"
    assert names(order(records, "test/acc")) == "bca"
    assert best_of(records).path.name == "a"


def test_order_by_other_values(runs):
    records = runs(
        {"metrics": {"val/acc": 1, "val/loss": 3}, "lr": 0.2, "progress": {"seconds": 5, "samples_per_second": 7}},
        {"metrics": {"val/acc": 1, "val/loss": 2}, "lr": 0.3, "progress": {"seconds": 4, "samples_per_second": 9}},
        {"metrics": {"val/acc": 1}, "lr": 0.1, "optimizer": "adam"},
    )
    expected = {
        "val/loss": "bac",
        "seconds": "bac",
        "samples_per_second": "bac",
        "optimizer.lr": "cab",
        "optimizer": "cab",
    }
    assert {key: names(order(records, key)) for key in expected} == expected
    with pytest.raises(UserError, match=r"^--sort test/ac: no run has test/ac; "):
        order(records, "test/ac")


def test_runs_with_other_metrics_are_not_ranked_together(runs):
    records = runs(acc(0.5), {"metrics": {"val/loss": 9}, "metric": "val/loss", "direction": "min"}, acc(0.7))
    assert names(order(records)) == "cab"
    assert best_of(records) is None
    table = run_table(order(records))
    assert table.columns == ["run", "state", "val/acc", "val/loss"]
    assert [row["val/acc"] for row in table.rows] == [0.7, 0.5, None]


# -- tables -----------------------------------------------------------------------------------------------------------


def test_row_of_a_run(runs):
    metrics = {"val/acc": 0.9, "test/acc": 0.8, "test/acc/cat": 0.7, "test/acc/dog": 0.6, "test/acc/absent": None}
    progress = {"seconds": 12.5, "samples_per_second": 100.0, "best": 0.95}
    records = runs(
        {"metrics": metrics, "progress": progress}, {"seed": 2, "status": {"state": "failed", "reason": "killed"}}
    )
    table = run_table(records, name=lambda record: record.path.name)
    assert table.columns == [
        "run", "state", "seed", "val/acc", "test/acc", "worst_class", "worst_class_value", "samples_per_second",
        "seconds", "reason",
    ]  # fmt: skip
    assert [table.rows[0][column] for column in table.columns] == [
        "a", "done", 1, 0.9, 0.8, "dog", 0.6, 100.0, 12.5, None,
    ]  # fmt: skip
    assert [table.rows[1][column] for column in table.columns] == ["b", "failed", 2, *[None] * 6, "killed"]


def test_worst_class_is_the_largest_value_of_a_loss(runs):
    metrics = {"val/error": 0.1, "test/error": 0.2, "test/error/cat": 0.3, "test/error/dog": 0.1}
    (record,) = runs({"metrics": metrics, "metric": "val/error", "direction": "min"})
    assert record.worst_class == ("cat", 0.3)


def test_runs_without_a_metric(runs):
    table = run_table(runs({"metrics": {"x": 1.0}, "metric": None}))
    assert table.columns == ["run", "state"]


def test_groups_over_seeds(runs):
    """The values of SGD are 1, 2 and 6: mean 3, deviations 4, 1 and 9, standard deviation sqrt(7)."""
    sgd = [{"seed": seed, **acc(value, test=value / 10)} for seed, value in enumerate((1, 2, 6))]
    adam = [{"optimizer": "adam", "seed": 0, **acc(4)}, {"optimizer": "adam", "seed": 1, "progress": {"best": 99}}]
    table = group_table(runs(*sgd, *adam), "seed")
    assert table.columns == [
        "optimizer", "n", "val/acc mean", "val/acc std", "test/acc mean", "test/acc std"
    ]  # fmt: skip
    rows = [[row[column] for column in table.columns] for row in table.rows]
    assert rows[0] == ["Adam", 1, 4, None, None, None], "the unfinished run does not count, the best mean comes first"
    assert rows[1] == ["SGD", 3, 3, pytest.approx(math.sqrt(7)), pytest.approx(0.3), pytest.approx(math.sqrt(7) / 10)]


def test_groups_are_ordered_by_direction(runs):
    each = [{"lr": lr, "metrics": {"val/loss": value}} for lr, value in ((1, 5), (2, 3), (3, 4))]
    table = group_table(runs(*each, metric="val/loss", direction="min"), "seed")
    assert [row["optimizer.lr"] for row in table.rows] == [2, 3, 1]


def test_paired_difference_over_shared_seeds(runs):
    """Seeds 1, 2 and 3 are shared. The differences are 1, 0 and 1: mean 2/3, standard error 1/3, t 4.3027."""
    sgd = [{"seed": seed, **acc(value)} for seed, value in ((3, 3), (1, 1), (2, 2), (9, 50))]
    adam = [{"optimizer": "adam", "seed": seed, **acc(value)} for seed, value in ((1, 0), (2, 2), (3, 2), (8, 70))]
    table = pair_table(runs(*sgd, *adam), [parse_filter("optimizer=sgd")], [parse_filter("optimizer=adam")])
    first, second, difference = table.rows
    assert (first["recipe"], first["n"], first["mean"]) == ("optimizer=sgd", 3, 2)
    assert (second["recipe"], second["n"], second["mean"]) == ("optimizer=adam", 3, pytest.approx(4 / 3))
    assert (difference["recipe"], difference["n"], difference["mean"]) == ("difference", 3, pytest.approx(2 / 3))
    assert (difference["low"], difference["high"]) == pytest.approx((2 / 3 - 4.3027 / 3, 2 / 3 + 4.3027 / 3), abs=1e-4)
    assert table.note == "the recipes differ in optimizer"


def test_newest_of_equal_runs_is_paired(runs):
    each = [{"started": 2, **acc(5)}, {"started": 1, **acc(6)}, {"optimizer": "adam", **acc(3)}]
    table = pair_table(runs(*each), [parse_filter("optimizer=sgd")], [parse_filter("optimizer=adam")])
    assert table.rows[-1]["mean"] == 2
    assert table.rows[-1]["low"] is None, "a single pair has no interval"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("optimizer=adam", r"--pair optimizer=adam: its runs differ in optimizer.lr; expected one recipe; "
                           r"add for example optimizer=adam,optimizer.lr=0.1"),
        ("optimizer.lr=0.3", r"--pair optimizer=sgd optimizer.lr=0.3: no shared seed: seed=1 and seed=2; "
                             r"expected a common one"),
        ("metric=loss", r"--pair optimizer=sgd metric=loss: they have different optimized metrics, val/acc and "
                        r"val/loss; expected the same one"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_paired(second, message, runs):
    records = runs(
        {"seed": 1, **acc(1)},
        {"optimizer": "adam", "lr": 0.1, **acc(1)},
        {"optimizer": "adam", "lr": 0.3, "seed": 2, **acc(1)},
        {
            "optimizer": "adam",
            "seed": 1,
            "metric": "val/loss",
            "metrics": {"val/loss": 1},
            "overrides": ("metric=loss",),
        },
    )
    with pytest.raises(UserError, match=f"^{message}$"):
        pair_table(records, [parse_filter("optimizer=sgd")], [parse_filter(second)])


def test_values_to_draw(runs):
    records = runs({**acc(0.1)}, {"lr": 0.2, "seed": 2, **acc(0.3)}, {"lr": 0.3})
    assert plot_data(records) == ({"optimizer.lr": [0.1, 0.2]}, "val/acc", [0.1, 0.3], False), "the seed is left out"
    assert plot_data(records, "seed").keys == {"seed": [1, 2]}
    with pytest.raises(UserError, match=r"^--x sed: no run has sed; did you mean seed\?$"):
        plot_data(records, "sed")
    with pytest.raises(UserError, match=r"^--plot: the 1 finished runs differ in no key; expected several recipes$"):
        plot_data(records[:1])
    with pytest.raises(UserError, match=r"^--plot: no run is finished; expected finished runs with the same"):
        plot_data(records[2:])
