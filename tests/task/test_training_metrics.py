"""Training metrics: equal to a count by hand, however often and on however many ranks they are flushed."""

import random

import pytest
import torch

from blitz.task.training_metrics import TrainingMetrics

CLASSES = 4


def make_steps(sizes=(5, 1, 7, 4, 3)):
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        logits = torch.randn(size, CLASSES, generator=generator)
        labels = torch.randint(0, CLASSES, (size,), generator=generator)
        yield torch.rand((), generator=generator), logits, labels


def update(metrics, steps, first=1):
    for number, (loss, logits, labels) in enumerate(steps, first):
        metrics.update(loss, logits, labels, number, 0.1)


def one_rank(sums):
    return sums


def test_metrics_equal_a_count_by_hand():
    steps = list(make_steps())
    metrics = TrainingMetrics()
    update(metrics, steps)
    metrics.flush(one_rank)
    images = sum(len(labels) for _, _, labels in steps)
    loss = sum(loss.item() * len(labels) for loss, _, labels in steps) / images
    correct = sum(int((logits.argmax(1) == labels).sum()) for _, logits, labels in steps)
    assert metrics.compute("epoch") == pytest.approx((loss, correct / images))
    assert metrics.compute("window") == metrics.compute("epoch")


def test_window_restarts_after_a_reset():
    steps = list(make_steps())
    metrics, later = TrainingMetrics(), TrainingMetrics()
    update(metrics, steps[:2])
    metrics.flush(one_rank)
    before = metrics.compute("epoch")
    metrics.reset("window")
    assert metrics.compute("epoch") == before
    update(metrics, steps[2:])
    metrics.flush(one_rank)
    update(later, steps[2:])
    later.flush(one_rank)
    assert metrics.compute("window") == later.compute("window")
    assert metrics.compute("epoch") != later.compute("epoch")


def test_sums_do_not_depend_on_the_flushes():
    """They are equal to the last bit: a run saves, and so flushes, at times that depend on the clock."""
    steps = list(make_steps([random.Random(0).randint(1, 9) for _ in range(200)]))
    states = []
    for every in (1, 7, 200):
        metrics = TrainingMetrics()
        for number, step in enumerate(steps, 1):
            update(metrics, [step], number)
            if number % every == 0:
                metrics.flush(one_rank)
        metrics.flush(one_rank)
        states.append(metrics.state_dict())
    assert states[0] == states[1] == states[2]


def test_ranks_sum_up_to_one_process():
    """The parts of two ranks, of which one may be empty, with the mean loss of each part."""
    single, ranks = TrainingMetrics(), [TrainingMetrics(), TrainingMetrics()]
    for number, (_, logits, labels) in enumerate(make_steps((5, 1, 8)), 1):
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        single.update(losses.mean(), logits, labels, number, 0.1)
        for rank, part in zip(ranks, torch.arange(len(labels)).tensor_split(2), strict=True):
            loss = losses[part].mean() if len(part) else torch.zeros(())
            rank.update(loss, logits[part], labels[part], number, 0.1)
    sent = []
    ranks[1].flush(lambda sums: sent.append(sums) or sums)
    ranks[0].flush(lambda sums: sums + sent[0])
    single.flush(one_rank)
    assert ranks[0].compute("epoch") == pytest.approx(single.compute("epoch"), rel=1e-6)
    assert ranks[0].state_dict()["epoch"][1:] == single.state_dict()["epoch"][1:]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_raises(value):
    metrics = TrainingMetrics()
    update(metrics, make_steps())
    metrics.update(torch.tensor(value), torch.zeros(2, CLASSES), torch.zeros(2, dtype=torch.long), 6, 0.25)
    with pytest.raises(FloatingPointError, match=rf"the loss is {value:g} at step 6, with lr 0.25"):
        metrics.flush(one_rank)


def test_state_is_restored_exactly():
    steps = list(make_steps())
    metrics, resumed = TrainingMetrics(), TrainingMetrics()
    update(metrics, steps[:3])
    metrics.flush(one_rank)
    metrics.reset("window")
    resumed.load_state_dict(metrics.state_dict())
    for each in (metrics, resumed):
        update(each, steps[3:])
        each.flush(one_rank)
    assert resumed.state_dict() == metrics.state_dict()


def test_state_of_an_old_checkpoint_is_read():
    metrics = TrainingMetrics()
    metrics.load_state_dict({"epoch": [6.0, 2.0, 4.0], "lately": [1.0, 1.0, 2.0]})
    assert metrics.compute("epoch") == (1.5, 0.5)
    assert metrics.compute("window") == (0.5, 0.5)
