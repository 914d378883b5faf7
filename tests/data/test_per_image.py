"""Transforms of torchvision: repeatable for each image, in any process, without an effect on anything else."""

import random

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torchvision.transforms import v2

from blitz.data import loader as loader_module
from blitz.data.augment import Flip, Translate
from blitz.data.digits import Digits
from blitz.data.loader import Loader, Split
from blitz.data.per_image import PerImage
from blitz.data.seeding import generator
from blitz.errors import UserError
from blitz.process import random_state
from tests.conftest import OVERRIDES
from tests.data.test_datamodule import grey

ZERO, ONE = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
TRANSFORMS = {
    "jitter": v2.ColorJitter(brightness=0.5, hue=0.1),
    "erase": v2.RandomErasing(p=0.9),
    "crop": v2.RandomResizedCrop(size=16),
    "randaugment": v2.RandAugment(),
    "compose": v2.Compose([v2.RandomHorizontalFlip(), v2.RandomRotation(30)]),
}
YAML = "{_target_: blitz.data.per_image.PerImage, transform: {_target_: torchvision.transforms.v2.%s}}"


def split(n=30, size=16):
    return Split(
        torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator("images")), torch.arange(n)
    )


def epoch(augment, number=0, **options):
    """Return the images and the labels of an epoch's batches."""
    made = Loader(split(), 8, ZERO, ONE, shuffle=True, augment=augment, **options)
    made.set_epoch(number)
    return list(made)


def by_label(batches):
    order = torch.cat([labels for _, labels in batches]).argsort()
    return torch.cat([images for images, _ in batches])[order]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_images_are_a_function_of_seed_epoch_and_image(name, monkeypatch):
    augment = [PerImage(TRANSFORMS[name])]
    first = by_label(epoch(augment))
    assert first.shape == (30, 3, 16, 16)
    torch.manual_seed(5)
    assert torch.equal(by_label(epoch(augment)), first)
    monkeypatch.setattr(loader_module, "GROUP", 1)
    assert torch.equal(by_label(epoch(augment)), first), "prepared with other images"
    assert not torch.equal(by_label(epoch(augment, 1)), first)
    assert not torch.equal(by_label(epoch(augment, seed=1)), first)
    assert not torch.equal(by_label(epoch([])), first)


def test_each_image_is_transformed_by_the_transform_itself():
    transform, images = TRANSFORMS["compose"], split().images
    augment = PerImage(transform)
    draws = augment.draw(30, 0, 0)
    assert len(draws.unique()) == 30
    augmented = augment.apply(images, draws)
    for image, seed, result in zip(images, draws.tolist(), augmented, strict=True):
        torch.manual_seed(seed)
        assert torch.equal(result, transform(image))


@pytest.mark.parametrize("position", [0, 2, 3])
def test_an_interrupted_epoch_resumes_with_the_same_images(position):
    augment = [PerImage(TRANSFORMS["jitter"])]
    whole = epoch(augment)
    made = Loader(split(), 8, ZERO, ONE, shuffle=True, augment=augment)
    made.load_state_dict({"taken": position})
    torch.testing.assert_close(list(made), whole[position:], rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_augment_as_one_process(workers):
    """Among others of whole batches, which the workers apply before it and this process after it."""
    augment = [Translate(2), PerImage(TRANSFORMS["compose"]), Flip()]
    single = epoch(augment)
    torch.testing.assert_close(epoch(augment, workers=workers), single, rtol=0, atol=0)
    ranks = [epoch(augment, workers=workers, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(single, *ranks, strict=True):
        assert torch.equal(torch.cat([images for images, _ in parts]), whole[0])


class Noting(Flip):
    """Note in ``applied`` that it was applied. A worker notes this in a copy."""

    def __init__(self):
        super().__init__()
        self.applied = 0

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        self.applied += 1
        return super().apply(images, draws)


@pytest.mark.parametrize(("workers", "expected"), [(0, [1, 1]), (1, [0, 1])])
def test_workers_apply_what_is_slow_and_all_before_it(workers, expected):
    before, after = Noting(), Noting()
    epoch([before, PerImage(v2.Identity()), after], workers=workers)
    assert [one.applied for one in (before, after)] == expected


def test_any_generator_may_be_used_and_none_is_changed():
    def noise(image: Tensor) -> Tensor:
        drawn = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
        return (image * (drawn / 3)).to(torch.uint8)

    before = random_state.get()
    first = by_label(epoch([PerImage(noise)]))
    after = random_state.get()
    assert before["python"] == after["python"]
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert torch.equal(before["torch"], after["torch"])
    for generate in (random.random, np.random.rand, lambda: torch.rand(1)):
        generate()
    assert torch.equal(by_label(epoch([PerImage(noise)])), first)


def test_a_failed_transform_leaves_the_generators_unchanged():
    before = torch.get_rng_state()
    with pytest.raises(UserError, match="it fails"):
        epoch([PerImage(v2.Normalize([0.5], [0.5]))])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_transform_that_works_in_place_does_not_change_the_split():
    images = split().images
    augment = PerImage(v2.RandomErasing(p=1, inplace=True))
    assert not torch.equal(augment.apply(images, augment.draw(30, 0, 0)), images)
    assert torch.equal(images, split().images)


WRONG = {
    "size": ("RandomCrop, size: 12", "it returns uint8 1x12x12; expected uint8 1x16x16, like its input"),
    "type": (
        "ToDtype, dtype: {_target_: hydra.utils.get_object, path: torch.float32}",
        "it returns float32 1x16x16; expected uint8 1x16x16, like its input",
    ),
    "channels": ("RGB", "it returns uint8 3x16x16; expected uint8 1x16x16, like its input"),
    "picture": ("ToPILImage", "it returns an object of type Image; expected uint8 1x16x16, like its input"),
    "float only": ("Normalize, mean: [0.5], std: [0.5]", "it fails (TypeError: "),
    "batch only": ("MixUp, num_classes: 10", "it fails ("),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_return_such_an_image_is_refused(wrong, refused, tmp_path):
    transform, expected = WRONG[wrong]
    run = tmp_path / "run"
    message = refused(
        *OVERRIDES, f"+data.augment.color={YAML % transform}", "data.image_size=16", f"hydra.run.dir={run}"
    )
    assert f"data.augment.color: {expected}" in message
    assert not run.exists(), "found before the run directory is written"


def test_a_worker_reports_a_wrong_transform_as_one_line():
    with pytest.raises(UserError, match=r"^data\.augment: it returns uint8 3x4x4; expected uint8 3x16x16"):
        epoch([PerImage(v2.RandomCrop(4))], workers=1)


def test_a_transform_that_cannot_be_called_is_refused(refused):
    with pytest.raises(UserError, match=r"transform=3 cannot be called; expected one of torchvision\.transforms\.v2$"):
        PerImage(3)
    message = refused("+data.augment.color={_target_: blitz.data.per_image.PerImage, transform: ColorJitter}")
    assert "data.augment.color.transform=ColorJitter: not a valid value; expected an object" in message


def test_data_module_names_its_augmentations():
    one, two = PerImage(v2.Identity()), PerImage(v2.Identity())
    grey(Digits, augment={"one": one, "two": two})
    assert (one.key, two.key) == ("data.augment.one", "data.augment.two")


# -- from the config -----------------------------------------------------------------------------------------------


def test_transforms_from_the_command_line(train):
    nested = "Compose, transforms: [{_target_: torchvision.transforms.v2.RandAugment}, " \
        "{_target_: torchvision.transforms.v2.RandomErasing, p: 0.5}]"  # fmt: skip
    augment = (
        f"+data.augment.compose={YAML % nested}",
        f"+data.augment.crop={YAML % 'RandomResizedCrop, size: ${data.image_size}'}",
    )
    plain, *runs = train(*OVERRIDES), train(*OVERRIDES, *augment, into="a"), train(*OVERRIDES, *augment, into="b")
    metrics = [(run / "metrics.json").read_text() for run in (plain, *runs)]
    assert metrics[1] == metrics[2] != metrics[0]


def test_transforms_from_an_experiment(train, tmp_path):
    node = {"color": yaml.safe_load(YAML % "ColorJitter, brightness: 0.2")}
    directory = tmp_path / "configs" / "experiment"
    directory.mkdir(parents=True)
    (directory / "jitter.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"data": {"augment": node}}))
    run = train(*OVERRIDES, "experiment=jitter", f"hydra.searchpath=[file://{directory.parent.as_posix()}]")
    recorded = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert recorded["data"]["augment"] == node
