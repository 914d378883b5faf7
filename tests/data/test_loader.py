import pytest
import torch

from blitz.data import loader as loader_module
from blitz.data.augment import Cutout, Flip, Translate
from blitz.data.loader import Loader, Split
from blitz.data.seeding import generator

ZERO, ONE = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)


def split(n=103, size=8):
    """Every image is known by its first pixel."""
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
    assert torch.equal(first, images(batch_size=33)), "however it is batched"
    assert torch.equal(first, images(shuffle=False)), "in whatever order"
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
    for taken in range(len(apart) + 1):  # also where a run goes on in the middle of a group
        torch.testing.assert_close(batches(taken), apart[taken:], rtol=0, atol=0)


def test_flip():
    images = split().images
    draws = Flip().draw(103, 0, 0)
    out = Flip().apply(images, draws)
    for image, changed, flipped in zip(images, out, draws, strict=True):
        assert torch.equal(changed, image.flip(2) if flipped else image)
    assert 30 < draws.sum() < 73


def test_alternating_flip_shows_both_sides_in_any_two_epochs():
    flip = Flip("alternating")
    draws = [flip.draw(103, 0, epoch) for epoch in range(4)]
    assert torch.equal(draws[0], draws[2])
    assert torch.equal(draws[0], ~draws[1])
    assert torch.equal(draws[1], draws[3])
    assert 30 < draws[0].sum() < 73


def test_translate_equals_a_plain_crop_of_the_mirrored_image():
    images = split().images
    translate = Translate(3)
    draws = translate.draw(103, 0, 0)
    assert (draws.min(), draws.max()) == (0, 6)
    out = translate.apply(images, draws)
    for image, changed, (down, right) in zip(images, out, draws.tolist(), strict=True):
        mirrored = torch.nn.functional.pad(image[None].float(), (3, 3, 3, 3), mode="reflect")[0].to(torch.uint8)
        assert torch.equal(changed, mirrored[:, down : down + 8, right : right + 8])


def test_cutout():
    images = torch.zeros(500, 1, 16, 16, dtype=torch.uint8)
    cutout = Cutout(4)
    area = (cutout.apply(images, cutout.draw(500, 0, 0)) == 128).flatten(1).sum(1)
    assert area.max() == 16
    assert area.min() >= 4, "never all outside the image"


@pytest.mark.parametrize("wrong", [lambda: Flip("sometimes"), lambda: Translate(0), lambda: Cutout(0)])
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValueError, match="is not valid"):
        wrong()


def test_streams_are_independent():
    draws = [torch.rand(1000, generator=generator(*keys)) for keys in ((0, 1), (1, 0), (0, "1"), (0,))]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.15
