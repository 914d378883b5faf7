"""The official files of MNIST, which a test needs in data/."""

import gzip
import shutil
import struct

import torch

from blitz.data.mnist import MNIST
from tests.data.test_datamodule import grey, ready


def test_the_official_test_split_is_untouched(mnist):
    """Against the official file itself, read here byte by byte."""
    data = ready(grey(MNIST, mnist))
    raw = gzip.decompress((mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert struct.unpack(">4i", raw[:16]) == (2051, 10000, 28, 28)
    official = torch.frombuffer(bytearray(raw[16:]), dtype=torch.uint8).reshape(10000, 1, 28, 28)
    assert torch.equal(data.splits["test"].images[:, :, 2:30, 2:30], official)
    assert len(data.splits["train"].labels) + len(data.splits["val"].labels) == 60000


def test_an_extracted_file_that_was_cut_off_is_extracted_again(mnist, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(mnist / "MNIST" / "raw", raw, ignore=lambda _, names: [n for n in names if not n.endswith(".gz")])
    ready(grey(MNIST, tmp_path))
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (raw / name).write_bytes((raw / name).read_bytes()[:5000])
    data = ready(grey(MNIST, tmp_path))
    assert len(data.splits["test"].labels) == 10000
    assert data.splits["train"].images.shape == (60000, 1, 32, 32)
