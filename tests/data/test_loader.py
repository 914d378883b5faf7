"""Batches: complete, repeatable, resumable, and the same on any number of processes."""

import pytest
import torch

from blitz.data import loader as loader_module
from blitz.data.augment import Cutout, Flip, Translate
from blitz.data.image_folder import Files
from blitz.data.loader import Loader, Split
from blitz.data.seeding import generator

ZERO, ONE = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)


def split(n=103, size=8):
    """Return a split in which the first pixel identifies each image."""
    images = torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=generator("images"))
    images[:, 0, 0, 0] = torch.arange(n)
    return Split(images, torch.arange(n))


def loader(batch_size=10, **options):
    return Loader(split(), batch_size, ZERO, ONE, **options)


def test_shapes_and_types():
    batches = list(loader())
    assert len(batches) == len(loader()) == 11
    assert [len(labels) for _, labels in batches] == [10] * 10 + [3], "the last, smaller batch is not dropped"
    images, labels = batches[0]
    assert (images.shape, images.dtype, labels.dtype) == ((10, 1, 8, 8), torch.float32, torch.int64)


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_sample_once_with_its_own_label(shuffle):
    seen = []
    for images, labels in loader(shuffle=shuffle):
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)
        seen += labels.tolist()
    assert sorted(seen) == list(range(103))
    assert (seen == list(range(103))) == (not shuffle)


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch, batch_size=10):
        it = loader(batch_size, shuffle=True, seed=seed)
        it.set_epoch(epoch)
        return torch.cat([labels for _, labels in it]).tolist()

    assert order(0, 0) == order(0, 0) == order(0, 0, batch_size=7)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_augmentation_is_a_function_of_seed_epoch_and_image():
    augment = [Flip(), Translate(2), Cutout(4)]

    def images(seed=0, epoch=0, batch_size=10, shuffle=True):
        it = Loader(split(), batch_size, ZERO, ONE, shuffle=shuffle, seed=seed, augment=augment)
        it.set_epoch(epoch)
        batches = list(it)
        order = torch.cat([labels for _, labels in batches]).argsort()
        return torch.cat([images for images, _ in batches])[order]

    first = images()
    assert torch.equal(first, images())
    assert torch.equal(first, images(batch_size=33)), "for any batch size"
    assert torch.equal(first, images(shuffle=False)), "in any order"
    assert not torch.equal(first, images(epoch=1))
    assert not torch.equal(first, images(seed=1))


@pytest.mark.parametrize("batch_size", [1, 4, 10])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 3), (2, 3)])
def test_small_batches_are_the_same_prepared_together(batch_size, rank, world_size, monkeypatch):
    options = {"shuffle": True, "augment": [Flip(), Translate(2)], "rank": rank, "world_size": world_size}

    def batches(taken=0):
        it = loader(batch_size, **options)
        it.load_state_dict({"taken": taken})
        return [(images, labels, it.state_dict()["taken"]) for images, labels in it]

    monkeypatch.setattr(loader_module, "GROUP", 1)
    apart = batches()
    assert [taken for *_, taken in apart] == list(range(1, len(apart) + 1))
    monkeypatch.setattr(loader_module, "GROUP", 32)
    for taken in range(len(apart) + 1):  # also if a run resumes in the middle of a group
        torch.testing.assert_close(batches(taken), apart[taken:], rtol=0, atol=0)


# -- several processes ---------------------------------------------------------------------------------------------


def rank_loader(rank, world_size, n=103):
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator("images"))
    options = {"shuffle": True, "augment": [Flip(), Translate(2)], "rank": rank, "world_size": world_size}
    made = Loader(Split(images, torch.arange(n)), 10, ZERO, ONE, **options)
    made.set_epoch(3)
    return made


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [101, 103, 100])
def test_the_parts_of_all_ranks_make_up_the_batches_of_one_process(world_size, n):
    single = list(rank_loader(0, 1, n))
    loaders = [rank_loader(rank, world_size, n) for rank in range(world_size)]
    parts = [list(loader) for loader in loaders]
    assert {len(part) for part in parts} == {len(single)}, "all take the same number of steps"
    for index, (images, labels) in enumerate(single):
        assert torch.equal(torch.cat([part[index][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[index][1] for part in parts]), labels)
        sizes = [len(part[index][1]) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        for loader, part, size in zip(loaders, parts, sizes, strict=True):
            assert loader.is_empty(part[index]) == (size == 0) == (loader.weight(index) == 0)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_weighted_means_of_the_parts_are_the_mean_of_the_batch(world_size):
    loaders = [rank_loader(rank, world_size, n=101) for rank in range(world_size)]
    for index, batches in enumerate(zip(*loaders, strict=True)):
        labels = [part.double() for _, part in batches]
        weighted = [
            made.weight(index) * (part.mean() if len(part) else 0) for made, part in zip(loaders, labels, strict=True)
        ]
        assert float(sum(weighted) / world_size) == pytest.approx(float(torch.cat(labels).mean()))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_empty_part_of_files(workers):
    """Files have no shape before they are decoded."""
    files = Files(["a", "b", "c"], decode_black)
    batches = list(Loader(Split(files, torch.arange(3)), 2, ZERO, ONE, rank=1, world_size=2, workers=workers))
    assert [tuple(images.shape) for images, _ in batches] == [(1, 1, 4, 4), (0, 1, 4, 4)]
    assert [labels.tolist() for _, labels in batches] == [[1], []]


def decode_black(path):
    return torch.zeros(1, 4, 4, dtype=torch.uint8)


# -- position ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_the_position_is_the_number_of_batches_yielded_in_the_epoch(workers):
    made = loader(shuffle=True, workers=workers)
    labels_of_epoch = [labels.tolist() for _, labels in made]
    assert made.state_dict() == {"taken": 11}, "until the next epoch yields its first batch"
    batches = iter(made)
    next(batches)
    assert made.state_dict() == {"taken": 1}
    made.load_state_dict({"taken": 9})
    assert [labels.tolist() for _, labels in made] == labels_of_epoch[9:]
    assert [labels.tolist() for _, labels in made] == labels_of_epoch, "a position counts once"


def test_the_epoch_may_be_set_after_iter():
    """Lightning does so."""
    made, other = loader(shuffle=True), loader(shuffle=True)
    batches = iter(made)
    made.set_epoch(1)
    other.set_epoch(1)
    assert [labels.tolist() for _, labels in batches] == [labels.tolist() for _, labels in other]
