"""1,797 handwritten digits in ``digits.npz``: the test set of the UCI data set of optical digits.

Alpaydin, E. and Kaynak, C. (1998), Optical Recognition of Handwritten Digits, CC BY 4.0, doi.org/10.24432/C50P49.
scikit-learn's ``load_digits`` has the same images, but it loads scipy, with which torchmetrics takes 0.7 s longer to
import.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from blitz.data.datamodule import ImageDataModule
from blitz.data.loader import Split
from blitz.data.transforms import stratified_split

DIGITS = Path(__file__).with_name("digits.npz")


class Digits(ImageDataModule):
    """8x8, greyscale, 17 levels. There is no official split: the test split is always the same fifth of each class."""

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        if name == "val":
            return None
        with np.load(DIGITS) as digits:
            images = torch.from_numpy(digits["images"]).double().mul(255 / 16).round().to(torch.uint8)[:, None]
            labels = torch.from_numpy(digits["labels"]).long()
        train, test = stratified_split(labels, 0.2, seed=0)
        rows = train if name == "train" else test
        return Split(images[rows], labels[rows])
