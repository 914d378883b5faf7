"""Choices of config groups on the command line. tests/cli/test_errors.py has more, as whole commands."""

import pytest

from blitz.cli.groups import check_groups
from blitz.errors import UserError


@pytest.mark.parametrize(
    "override",
    ["model=net", "model=my net-2", "model=vit/small", "data=${oc.env:NAME}", "logger=[tensorboard,csv]", "~schedule",
     "optimizer=sgd,adam", "optimizer=glob(*)", "model@other=net", "hydra/launcher=basic", "optimizer.lr=null"],
)  # fmt: skip
def test_names_are_left_to_hydra(override):
    check_groups([override], "train")


@pytest.mark.parametrize(
    "override",
    ["logger=[null]", "model=", "model=null", "model=_net", "model=/net", "model=../net", "model=a/../net",
     "model=[net]", "model={a: 1}", "model=net,null/x/..", "~device", "~sweep", "++model=[]"],
)  # fmt: skip
def test_anything_else_is_refused(override):
    with pytest.raises(UserError) as error:
        check_groups([override], "train")
    assert str(error.value).startswith(f"{override}: ")
    assert "expected" in str(error.value)


def test_another_config_has_its_own_groups():
    check_groups(["--config-name=other", "model=/net"], "train")
