"""Compose configs faster: a composition takes as long as a short run, and the tests need thousands of them.

Hydra and OmegaConf parse the same texts in each composition. ``remember`` keeps the results. New Python processes,
which some tests start, compose as without it.
"""

import pickle
import sys
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import IO, Any

import omegaconf.grammar_parser
import omegaconf.resolvers  # it also has the function by name
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf


def remember() -> None:
    """Parse each text once in this process and in its forks, and compose each config once for each run."""
    if not hasattr(OmegaConf.load, "__wrapped__"):
        _replace(omegaconf.grammar_parser.parse, cache(omegaconf.grammar_parser.parse))
        OmegaConf.load = staticmethod(_loaded_once(OmegaConf.load))  # type: ignore[method-assign]
        Hydra.get_mode = _composed_once(Hydra.get_mode)  # type: ignore[method-assign]


def _replace(function: Callable[..., Any], by: Callable[..., Any]) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("omegaconf") and vars(module).get(function.__name__) is function:
            setattr(module, function.__name__, by)


def _loaded_once(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    loaded: dict[str, bytes] = {}

    @wraps(load)
    def wrapped(file: str | IO[str]) -> Any:
        if isinstance(file, str) or not hasattr(file, "seek"):
            return load(file)
        start = file.tell()
        text = file.read()
        if text not in loaded:
            file.seek(start)
            loaded[text] = pickle.dumps(load(file))
        return pickle.loads(loaded[text])

    return wrapped


def _composed_once(get_mode: Callable[..., Any]) -> Callable[..., Any]:
    """Hydra composes a config only to read ``hydra.mode``, which no config of blitz sets."""

    @wraps(get_mode)
    def wrapped(self: Hydra, config_name: str | None, overrides: Sequence[str]) -> Any:
        return get_mode(self, config_name, overrides) if any("mode" in text for text in overrides) else None

    return wrapped
