"""The exceptions whose message the command line prints alone, wherever they are raised."""

import pytest

from blitz.errors import DivergenceError, RankError, UserError
from tests.conftest import error_of

FORK = """
from blitz.errors import UserError
from torch import nn


class MyNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        if width % 8:
            raise UserError(f"model.width={width}: not a multiple of 8; expected 8, 16, ...")
        raise ValueError("a bug")
"""


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (7, "blitz-train: +model.width=7: not a multiple of 8; expected 8, 16, ..."),
        (8, "blitz-train: Error in call to target 'fork_model.MyNet': ValueError: a bug (fork_model.py:11; "
            "HYDRA_FULL_ERROR=1 shows the traceback)"),
    ],
)  # fmt: skip
def test_user_error_of_another_package_is_printed_alone(width, line, train, tmp_path, monkeypatch):
    """An exception of a library is reported by its type and location, also if it is a ValueError."""
    (tmp_path / "fork_model.py").write_text(FORK)
    monkeypatch.syspath_prepend(tmp_path)
    without = ("~model.in_channels", "~model.num_classes", "~model.image_size")
    assert error_of(train, "model._target_=fork_model.MyNet", f"+model.width={width}", *without) == line
    assert not (tmp_path / "run").exists()


def test_classes():
    assert issubclass(UserError, ValueError)
    assert issubclass(DivergenceError, UserError)
    assert issubclass(DivergenceError, FloatingPointError)
    assert issubclass(RankError, UserError)
