"""Random streams that depend on their purpose, and not on earlier draws."""

import hashlib

import torch


def generator(*keys: int | str) -> torch.Generator:
    """Return a CPU generator seeded by all ``keys``. Streams of different keys are independent."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
