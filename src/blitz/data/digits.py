"""The 1,797 handwritten digits that scikit-learn ships (UCI optical digits, Alpaydin and Kaynak, 1998)."""

from typing import Literal

import torch
from sklearn.datasets import load_digits

from blitz.data._datamodule import ImageDataModule
from blitz.data._loader import Split
from blitz.data._transforms import fit, stratified_split


class Digits(ImageDataModule):
    """8x8, greyscale, 17 levels. They come as one set: a fifth of each class, always the same, is the test split."""

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        if name == "val":
            return None
        digits = load_digits()
        images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target)
        train, test = stratified_split(labels, 0.2, seed=0)
        rows = train if name == "train" else test
        return Split(fit(images[rows], self.image_size, self.fit), labels[rows])
