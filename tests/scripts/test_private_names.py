"""``make lint`` finds every kind of private use, and none of the project's own names."""

import private_names
import pytest

SOURCE = """
import os
import torch._dynamo
from lightning.pytorch.loops.fit_loop import _FitLoop
from blitz.config import keys


class Own:
    def __init__(self):
        self._own = keys

    def _method(self, other, super_class):
        self._own = self._inherited
        os._exit(0)
        return self._method, other._foreign, other.__class__
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    return path


def test_imports_and_attributes_are_found(source):
    own_names = set(private_names.defined_in(source))
    found = sorted(use.name for use in private_names.uses_in(source, own_names))
    assert found == ["_foreign", "_inherited", "lightning.pytorch.loops.fit_loop._FitLoop", "torch._dynamo"]


def test_overridden_private_methods_are_found(monkeypatch, tmp_path):
    package = tmp_path / "overriding"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "module.py").write_text(
        "from collections import Counter\n\n\nclass Own(Counter):\n    def _keep_positive(self):\n        return self\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(private_names, "SRC", tmp_path)
    (use,) = private_names.overridden_in(package / "module.py")
    assert (use.name, use.line) == ("Own._keep_positive", 5)


@pytest.mark.parametrize(
    ("comment", "status"),
    [("", 1), ("  # private: because", 0), ("  # noqa: SLF001 - because", 0), ("  # noqa: SLF001", 1)],
)
def test_a_use_needs_a_reason(comment, status, monkeypatch, tmp_path, capsys):
    (tmp_path / "using.py").write_text(f"from os import path\n\nVALUE = path._get_sep{comment}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(private_names, "SRC", tmp_path)
    monkeypatch.setattr(private_names, "PROJECT", tmp_path)
    assert private_names.main() == status
    assert "using.py:3: _get_sep: " in capsys.readouterr().out
