"""Text passes through OmegaConf unchanged."""

import pytest
from omegaconf import OmegaConf

from blitz.config.literals import plain, protect
from tests.config.test_instantiate import TEXTS


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_neither_interpolated_nor_missing(text):
    node = {"a": text, "b": [text, {"c": [text]}], "n": [1, None, 0.5, True]}
    cfg = OmegaConf.create({"x": protect(node), "y": "${x}", "z": "${x.a}"})
    for _ in range(2):  # a resolved config is resolved again
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    resolved = plain(OmegaConf.to_container(cfg, resolve=True))
    assert resolved == {"x": node, "y": node, "z": text}


def test_other_text_is_readable_in_a_config():
    assert protect(["apple", "$x", "a?"]) == ["apple", "$x", "a?"]
