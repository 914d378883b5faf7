"""Corrections of Lightning's progress counters."""

from types import SimpleNamespace

import lightning

from blitz.callback import loop_progress


def test_the_installed_version_is_a_tested_one():
    """Run tests/callback/test_last_checkpoint.py with a new version, and add it if every step resumes exactly."""
    assert lightning.__version__ in loop_progress.TESTED
    assert loop_progress.exactness() is None


def test_names_that_a_version_lacks_are_no_failure():
    for checkpoint in ({}, {"loops": {}}, {"loops": {"fit_loop": {"state_dict": {}}}}):
        loop_progress.take_back(checkpoint, 3)
        loop_progress.drop_loader_states(checkpoint)
        assert loop_progress.finished_batches(checkpoint) == 0
    loop_progress.begin_epoch(SimpleNamespace(fit_loop=None))
    loop_progress.end_restart(SimpleNamespace(fit_loop=None))


def test_unknown_counters_are_recognised():
    def trainer(state):
        return SimpleNamespace(fit_loop=SimpleNamespace(state_dict=lambda: state))

    counts = {part: {"ready": 1, "completed": 1} for part in ("total", "current")}
    assert loop_progress.can_take_back(trainer({"epoch_loop.batch_progress": counts, "epoch_progress": counts}))
    assert not loop_progress.can_take_back(trainer({"epoch_loop.batch_progress": counts}))
    assert not loop_progress.can_take_back(trainer({"epoch_loop.batch_progress": counts, "epoch_progress": 3}))
    assert not loop_progress.can_take_back(SimpleNamespace())
