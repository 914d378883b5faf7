"""Names of the directories of runs, jobs and sweeps. They need no quotes in a shell, in Hydra or on Windows."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from blitz.config.paths import existing_run
from blitz.errors import UserError

AUTO = "auto"  # resume=auto: resume the run if there is one, otherwise start it
NOT_IN_NAMES = ("name", "resume", "init_from", "reproduce")  # these say where a run is or comes from
LONGEST = 80  # bytes of the overrides in a name


def directory_name(text: str, longest: int = 150) -> str:
    """Return a text as a directory name of at most ``longest`` bytes. A longer one is cut and gets a digest."""
    name = re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "defaults"
    if len(name.encode()) > longest:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: longest - 10].decode(errors='ignore')}-{digest}"
    return name


def short_overrides(overrides: Sequence[str]) -> list[str]:
    """Return overrides with short keys, such as ``lr=0.1`` for ``optimizer.lr=0.1``.

    A key keeps only its last part, unless another key has the same one.
    """
    pairs = [override.lstrip("+~").partition("=") for override in overrides]
    last = [key.replace("/", ".").rpartition(".")[2] for key, _, _ in pairs]
    keys = [short if last.count(short) == 1 else key for short, (key, _, _) in zip(last, pairs, strict=True)]
    return [f"{key}{equals}{value}" for key, (_, equals, value) in zip(keys, pairs, strict=True)]


def overrides_name(overrides: Sequence[str]) -> str:
    """Return ``optimizer-adam_lr-0.1`` for ``optimizer=adam optimizer.lr=0.1``, and nothing for no overrides."""
    return directory_name("_".join(short_overrides(overrides)), LONGEST) if overrides else ""


def run_directory(resume: str | None, name: str | None, overrides: Sequence[str], parent: str, now: str) -> str:
    """Return the directory that Hydra runs a job in.

    It is the one of the resumed run, otherwise ``parent/name``, otherwise a new one named by time and overrides.

    Raises:
        UserError: ``resume`` is not a run, or ``name`` is not a name.
    """
    if resume == AUTO and name is None:
        raise UserError("resume=auto: no run to resume; expected name=NAME or hydra.run.dir=DIR as well")
    if resume not in (None, AUTO):
        return str(existing_run("resume", str(resume)))
    if name is not None:
        return f"{parent}/{checked_name(name)}"
    named = [text for text in _texts(overrides) if text.lstrip("+~").partition("=")[0] not in NOT_IN_NAMES]
    return f"{parent}/{'_'.join(filter(None, (now, overrides_name(named))))}"


def sweep_directory(
    name: str | None, overrides: Sequence[str], params: Mapping[str, Any] | None, parent: str, *, _root_: DictConfig
) -> str:
    """Return the directory of a sweep: ``parent/name``, or a name that the same command finds again.

    That name holds the swept overrides, and a digest of all overrides and of the composed config. After an edit of the
    config, the same command is another sweep.

    Args:
        params: the space of a sweep file.

    Raises:
        UserError: the sweep would resume a single run, or ``name`` is not a name.
    """
    overrides = _texts(overrides)
    for text in overrides:
        if text.lstrip("+").startswith("resume="):
            raise UserError(f"{text}: a sweep cannot resume a single run; leave out -m")
    if name is not None:
        return f"{parent}/{checked_name(name)}"
    space = [f"{key}={value}" for key, value in _plain(params or {}).items()]
    names = overrides_name(swept_overrides(overrides) or space) or "sweep"
    return f"{parent}/{names}-{digest(_root_, sorted([*overrides, *space]))}"


def _plain(node: Any) -> Any:
    """Return a config node without resolving it. An interpolation in an override may lead back to this directory."""
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node


def _texts(overrides: Sequence[str]) -> list[str]:
    return list(_plain(overrides))


def swept_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with several values, and the override that selects a sweep file."""
    parsed = zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True)
    return [text for text, one in parsed if one.is_sweep_override() or one.key_or_group == "sweep"]


def checked_name(name: str) -> str:
    """Return ``name``.

    Raises:
        UserError: it is not a name of one directory.
    """
    if directory_name(name) != name:
        like = directory_name(name)
        raise UserError(f"name={name}: not a directory name; expected letters, digits and . _ + -, as in name={like}")
    return name


def digest(config: DictConfig, overrides: Sequence[str] = ()) -> str:
    """Return eight hexadecimal digits for a composed config, without Hydra's own part and the name of the run."""
    plain: Any = OmegaConf.to_container(config)
    content = {key: plain[key] for key in plain if key not in ("hydra", "name")}
    text = json.dumps([content, list(overrides)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
