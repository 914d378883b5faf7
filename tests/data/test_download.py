"""Failed downloads: the error message, and the files that stay on disk."""

import re

import pytest
from torchvision import datasets

from blitz.data.download import download
from blitz.errors import UserError

ARCHIVES = {"MNIST/raw/a.gz": "0" * 32, "MNIST/raw/b.gz": "1" * 32}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])


def test_a_missing_data_set_leaves_no_directory(tmp_path):
    root = tmp_path / "new" / "data"
    message = rf"data\.root={root}: MNIST is not in {root}, .* put MNIST/raw/a\.gz, MNIST/raw/b\.gz there"
    with pytest.raises(UserError, match=message) as error:
        download(datasets.MNIST, str(root), ARCHIVES)
    assert "\n" not in str(error.value)
    assert not root.exists()


def test_a_damaged_archive_is_named_and_kept(tmp_path):
    archive = tmp_path / "MNIST" / "raw" / "b.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"half")
    with pytest.raises(UserError, match=re.escape(f"MNIST/raw/b.gz in {tmp_path} is incomplete or corrupt")):
        download(datasets.MNIST, str(tmp_path), ARCHIVES)
    assert archive.read_bytes() == b"half"
