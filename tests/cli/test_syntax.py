"""Overrides that Hydra's grammar cannot read: the cause, and a form that it can read."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from blitz.cli.syntax import explain_syntax


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("data.root=a=b", "= must be quoted"),
        ("data.root=(x)", "( and ) must be quoted"),
        ("data.root=é ü", "é and ü must be quoted"),
        ("data.root=[x", "the bracket [ is not closed"),
        ("data.root={a", "the bracket { is not closed"),
        ("data.root='x", "the quote ' is not closed"),
        ('data.root="x', 'the quote " is not closed'),
        ("data.root=${x", "the interpolation ${ is not closed"),
        ("seed=,", "a value is missing before or after a comma"),
        ("seed=choice()", "invalid arguments for Hydra's function"),
    ],
)
def test_cause_and_quoted_form(text, cause):
    line = explain_syntax(text)
    assert line.startswith(f"cannot read {text!r}: {cause}")
    (argument,) = shlex.split(line.partition("; as text: ")[2])
    assert OverridesParser.create().parse_override(argument).value() == text.partition("=")[2]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lr", "cannot read 'lr': it has no =; expected key=value"),
        ("optimizer.lr 0.1", "cannot read 'optimizer.lr 0.1': it has no =; expected optimizer.lr=0.1"),
        ("optimizer.lr: 0.1", "cannot read 'optimizer.lr: 0.1': it has no =; expected optimizer.lr=0.1"),
        (".lr=1", "cannot read '.lr=1': '.lr' is not a key; expected names joined by dots, such as optimizer.lr=0.1"),
        ("=1", "cannot read '=1': '' is not a key; expected names joined by dots, such as optimizer.lr=0.1"),
        ("a=\udcc3", "cannot read 'a=\\udcc3': it has bytes that this locale cannot decode; expected UTF-8, "
                     "for example with PYTHONUTF8=1"),
    ],
)  # fmt: skip
def test_line(text, line):
    assert explain_syntax(text) == line
