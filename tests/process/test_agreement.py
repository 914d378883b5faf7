"""Flags that all ranks agree on."""

import sys

import pytest

from blitz.process import ranks
from blitz.process.agreement import Agreement
from tests import processes
from tests.processes import FORK_RANKS


def test_one_process_gets_its_own_flags():
    agreement = Agreement(1)
    assert agreement(True, False) == [True, False]
    assert agreement.now(False, True) == [False, True]
    assert agreement.close() == []


def agree() -> list[list[bool]]:
    from torch import distributed

    started = ranks.launched()
    assert started is not None
    distributed.init_process_group(
        "gloo", store=ranks.rendezvous_store(), rank=started.rank, world_size=started.world_size
    )
    agreement = Agreement(started.world_size)
    on_rank_1 = started.rank == 1
    return [agreement(on_rank_1, False), agreement(False, not on_rank_1), agreement.close(), agreement.now(on_rank_1)]


AGREE = f"""
{FORK_RANKS}
import sys
from pathlib import Path
from blitz.process import ranks
from tests.process.test_agreement import agree
print(ranks.run(agree, 2, Path(sys.argv[1]), str))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no gloo file rendezvous there")
def test_two_ranks_get_the_flags_of_the_previous_call(tmp_path):
    done = processes.run(AGREE, tmp_path)
    assert done.stdout == "[[False, False], [True, False], [False, True], [True]]\n", done.stderr
