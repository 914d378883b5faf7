"""Augmentations against their plain definitions."""

import pytest
import torch

from blitz.data.augment import Cutout, Flip, Translate
from blitz.errors import UserError
from tests.data.test_loader import split


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
    with pytest.raises(UserError, match=r"^data.augment\.\w+\.\w+=\w+: not a valid \w+; expected "):
        wrong()


def test_a_translation_beyond_the_mirrored_image_is_refused():
    translate = Translate(8)
    with pytest.raises(UserError, match=r"pixels=8: images of 8x8 are smaller; expected .* 7$"):
        translate.apply(split().images, translate.draw(103, 0, 0))
