"""Keys that the config does not have. tests/cli/test_errors.py has more, as whole commands."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from blitz.cli.unknown_keys import explain_key
from blitz.config.schema import register


def explain(text, *others, config_name="train"):
    register()
    return explain_key(OverridesParser.create().parse_override(text), others, config_name)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("optimizr.lr=1", "optimizr.lr=1: no such key; did you mean optimizer.lr?"),
        ("optimizer.amsgrad=true", "optimizer.amsgrad=true: optimizer does not have amsgrad yet; to add it: "
                                   "+optimizer.amsgrad=true"),
        ("optimizer.lr=1", None),
        ("seed=x", "seed=x: not a valid value; expected a whole number"),
        ("hydra.run=1", "hydra.run=1: not a valid value; expected a dictionary"),
        ("+seed=1", "+seed=1: seed is already in the config; expected seed=1"),
        ("data.classes.10=x", "data.classes.10=x: data.classes is a list, which has no 10; expected data"),
        ("data.classes.9=x", None),
        ("~optimizer.lr", None),
        ("~optimizer.lr=1", "~optimizer.lr=1: optimizer.lr is 0.003; expected ~optimizer.lr"),
        ("~optimizer", "~optimizer: not the chosen optimizer; expected ~optimizer, or optimizer= one of adam, adamw, "
                       "nesterov, rmsprop, sgd"),
        ("task.xyz=1", "task.xyz=1: no such key; task has _target_, "),
        ("batch_size=1", "batch_size=1: no such key; did you mean data.batch_size?"),
    ],
)  # fmt: skip
def test_line(text, line):
    found = explain(text)
    assert found == line if line is None else found.startswith(line)


def test_keys_are_those_of_the_chosen_configs():
    assert explain("optimizer.momentun=1", "optimizer=sgd").endswith("did you mean optimizer.momentum?")
    assert "momentum" not in explain("optimizer.momentun=1")


def test_keys_of_blitz_eval():
    assert explain("data=mnist", config_name="eval").startswith("data=mnist: no such key; did you mean data_root?")
