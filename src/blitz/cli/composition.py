"""Compose the overrides of a command line again, to find out which of them cannot be composed."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from blitz.cli.origin import config_dirs
from blitz.config.paths import CONFIGS, as_hydra_text


def parse(arguments: Sequence[str]) -> Iterator[Override]:
    """Yield the overrides among the arguments, without options such as ``--cfg job``."""
    for text in arguments:
        if not text.startswith("-"):
            with contextlib.suppress(OverrideParseException):  # the value of an option
                yield from OverridesParser.create().parse_overrides([text])


def compose(config_name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the config that the overrides compose, with the settings of Hydra and without resolving it."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = hydra.compose(config_name, list(overrides), return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = running
    config: Any = OmegaConf.to_container(cfg)
    return {str(name): node for name, node in config.items()}


def refused(config_name: str, arguments: Sequence[str]) -> tuple[Override, list[str]] | None:
    """Return the first override that cannot be composed, and the overrides before it. Return None if all can be.

    Choices of groups come first, because other overrides refer to their keys. Those with several values are left out.
    """
    directories = [as_hydra_text(f"file://{path.absolute()}") for path in config_dirs(arguments)]
    accepted = [f"hydra.searchpath=[{','.join(directories)}]"] if directories else []
    single = [override for override in parse(arguments) if not override.is_sweep_override()]
    for override in sorted(single, key=lambda override: not _is_group(override.key_or_group)):
        text = str(override.input_line)
        try:
            compose(config_name, [*accepted, text])
        except Exception:
            return override, accepted
        accepted.append(text)
    return None


def _is_group(key: str) -> bool:
    return "/" in key or (CONFIGS / key).is_dir()  # Hydra's own groups, such as hydra/launcher, are not in configs/
