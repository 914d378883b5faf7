"""Checks of values, and of arguments against the signatures of their targets."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional, TypedDict, Union, Unpack

import pytest
from omegaconf import OmegaConf

from blitz.config.checks import check_arguments, check_values, did_you_mean
from blitz.config.schema import EvalConfig
from blitz.errors import UserError
from tests.test_configs import compose

if TYPE_CHECKING:
    from decimal import Decimal


class Settings(TypedDict, total=False):
    size: int
    mode: Literal["a", 2] | None


class Example:
    def __init__(
        self,
        number: int = 0,
        fraction: float = 0.0,
        flag: bool = False,
        text: str = "",
        mode: Literal["fast", "exact", 3] = "fast",
        either: int | Literal["auto"] | None = None,
        old_style: Optional[Union[int, bool]] = None,  # noqa: UP007, UP045 signatures of libraries have it
        anything: Any = None,
        mixed: int | list[int] = 0,
        folder: str | Path | None = None,
        size: Sequence[int] = (),
        named: Mapping[str, int] | None = None,
        part: partial[Any] | None = None,
        implicit: int = None,  # type: ignore[assignment]  # noqa: RUF013 signatures of libraries have it
        bare=None,
    ) -> None: ...


def open_ended(number: int = 0, **settings: Any) -> None: ...


def typed_settings(number: int = 0, **settings: Unpack[Settings]) -> None: ...


def unresolvable(number: "Decimal" = 0, other: "int" = 0) -> None: ...  # type: ignore[assignment]


def check(target=Example, **arguments):
    node = {"_target_": f"{__name__}.{target.__name__}", **arguments}
    check_arguments(OmegaConf.create({"group": node}))


def problem(target=Example, **arguments) -> str:
    with pytest.raises(UserError) as error:
        check(target, **arguments)
    return str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"number": 1}, {"number": "total_steps"}, {"fraction": 1}, {"fraction": 0.5}, {"flag": True},
        {"text": "x"}, {"mode": "exact"}, {"mode": 3}, {"either": 2}, {"either": "auto"}, {"old_style": True},
        {"old_style": 2}, {"anything": "x"}, {"anything": [1]}, {"mixed": 1}, {"mixed": [1]},
        {"either": None}, {"old_style": None}, {"bare": "x"},
        {"folder": "a/b"}, {"size": [1]}, {"named": {"a": 1}}, {"part": {"_target_": "builtins.dict"}}, {"part": {}},
        {"implicit": None},
        {"_partial_": True}, {"_convert_": "all"},
    ],
)  # fmt: skip
def test_accepted_arguments(arguments):
    check(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": "x"}, "group.number=x: not a valid value; expected a whole number"),
        ({"number": 1.5}, "group.number=1.5: not a valid value; expected a whole number"),
        ({"number": True}, "group.number=True: not a valid value; expected a whole number"),
        ({"number": None}, "group.number=null: not a valid value; expected a whole number"),
        ({"mixed": True}, "group.mixed=True: not a valid value; expected a whole number, a list"),
        ({"folder": 1}, "group.folder=1: not a valid value; expected text"),
        ({"size": "1x1"}, "group.size=1x1: not a valid value; expected a list"),
        ({"named": [1]}, "group.named=[1]: not a valid value; expected a dictionary"),
        ({"part": "x"}, "group.part=x: not a valid value; expected an object: a _target_ with its arguments"),
        (
            {"part": {"a": 1}},
            "group.part={'a': 1}: not a valid value; expected an object: a _target_ with its arguments",
        ),
        ({"fraction": "x"}, "group.fraction=x: not a valid value; expected a number"),
        ({"flag": 1}, "group.flag=1: not a valid value; expected true or false"),
        ({"text": 1}, "group.text=1: not a valid value; expected text"),
        ({"mode": "slow"}, "group.mode=slow: not a valid value; expected fast, exact, 3"),
        ({"mode": "3"}, "group.mode=3: not a valid value; expected fast, exact, 3"),
        ({"either": "x"}, "group.either=x: not a valid value; expected a whole number, auto"),
        ({"old_style": 1.5}, "group.old_style=1.5: not a valid value; expected a whole number, true or false"),
        ({"nubmer": 1}, f"group.nubmer: {__name__}.Example takes no nubmer; did you mean number?"),
        ({"zzz": 1}, f"group.zzz: {__name__}.Example takes no zzz; it takes number, fraction, flag, text, mode, "
                     "either, old_style, anything, mixed, folder, size, named, part, implicit, bare"),
    ],
)  # fmt: skip
def test_refused_arguments(arguments, message):
    assert problem(**arguments).removesuffix(" and its arguments") == message


def test_keyword_arguments_of_any_name():
    check(open_ended, whatever="x")
    assert problem(open_ended, number="x") == "group.number=x: not a valid value; expected a whole number"


def test_keyword_arguments_of_a_typed_dict():
    check(typed_settings, number=1, size=2, mode=2)
    check(typed_settings, mode=None)
    assert problem(typed_settings, sise=2).endswith("typed_settings takes no sise; did you mean size?")
    assert problem(typed_settings, size="x") == "group.size=x: not a valid value; expected a whole number"
    assert problem(typed_settings, mode="b") == "group.mode=b: not a valid value; expected a, 2"


def test_function_without_a_signature_accepts_anything():
    check_arguments(OmegaConf.create({"group": {"_target_": "builtins.dict", "a": 1}}))


def test_annotations_that_only_type_checkers_know():
    """Their types cannot be checked, their names can."""
    check(unresolvable, number="x", other="y")
    assert problem(unresolvable, othre=1).endswith("did you mean other?")


@pytest.mark.parametrize(
    ("target", "reason"),
    [("nowhere.Net", "nowhere"), ("blitz.model.net.Nett", "Nett"), ("blitz.model.nett.Net", "nett")],
)
def test_target_that_cannot_be_imported(target, reason):
    with pytest.raises(UserError, match=rf"^model\._target_={target}: cannot be imported \(.*{reason}") as error:
        check_arguments(OmegaConf.create({"model": {"_target_": target}}))
    assert "\n" not in str(error.value)


def test_nested_targets_and_lists():
    wrong = {"_target_": f"{__name__}.Example", "number": "x"}
    for cfg, key in (
        ({"a": {"_target_": "builtins.dict", "b": [0, wrong]}}, "a.b.1.number=x"),
        ({"a": {"b": {"c": wrong}}}, "a.b.c.number=x"),
    ):
        with pytest.raises(UserError, match=f"^{key}: "):
            check_arguments(OmegaConf.create(cfg))


def test_mistake_is_reported_by_the_key_that_the_user_wrote():
    """``task.optimizer`` is ``${optimizer}``: it is checked once, under the name of its own group."""
    with pytest.raises(UserError, match=r"^optimizer\.weigt_decay: torch\.optim\.AdamW takes no weigt_decay"):
        check_arguments(compose("+optimizer.weigt_decay=1"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=-0.1", "optimizer.lr=-0.1: not a valid value; expected a number >= 0"),
        ("optimizer.lr=nan", "optimizer.lr=nan: not a number; expected a number"),
        ("optimizer.lr=true", "optimizer.lr=True: not a valid value; expected a number >= 0"),
        ("model.in_channels=???", "model.in_channels must be given: add model.in_channels=VALUE"),
        ("data.batch_size=0", "data.batch_size=0: not a valid value; expected a whole number >= 1"),
        ("data.batch_size=1.5", "data.batch_size=1.5: not a valid value; expected a whole number >= 1"),
        ("data.eval_batch_size=0", "data.eval_batch_size=0: not a valid value; expected a whole number >= 1"),
        ("data.val_fraction=1", "data.val_fraction=1: not a valid value; expected a number >= 0 and < 1"),
        ("threads=0", "threads=0: not a valid value; expected a whole number >= 1 and < "),
        ("seed=-1", "seed=-1: not a valid value; expected a whole number >= 0 and < 4294967296"),
    ],
)
def test_refused_values(override, message):
    with pytest.raises(UserError) as error:
        check_values(compose(override))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "override", ["optimizer.lr=0", "optimizer.lr=1", "data.val_fraction=0", "threads=null", "seed=4294967295"]
)
def test_accepted_values(override):
    check_values(compose(override))


@pytest.mark.parametrize(("run", "checkpoint"), [(None, None), ("a", "b")])
def test_evaluation_needs_a_run_or_a_checkpoint(run, checkpoint):
    with pytest.raises(UserError, match="expected either run=DIR or checkpoint=FILE"):
        check_values(OmegaConf.structured(EvalConfig(run=run, checkpoint=checkpoint, output_dir="logs")))


def test_did_you_mean():
    assert did_you_mean("sdg", ["adam", "sgd"]) == "did you mean sgd?"
    assert did_you_mean("x", ["adam", "sgd"]) == ""
