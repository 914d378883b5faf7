"""Random streams that are a function of what they are for, not of what was drawn before."""

import hashlib

import torch


def generator(*keys: int | str) -> torch.Generator:
    """A CPU generator seeded by all of ``keys``: streams of different keys are independent."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
