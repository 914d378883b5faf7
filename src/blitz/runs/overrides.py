"""Resolve ``resume=``, ``init_from=`` and ``reproduce=`` to the config of the run that they name, without torch."""

import contextlib
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from blitz.config.keys import leaves, needs_total_steps
from blitz.config.literals import plain, protect
from blitz.config.names import AUTO
from blitz.config.paths import as_override, existing_run
from blitz.config.schema import TrainConfig
from blitz.errors import UserError
from blitz.runs.compatibility import upgrade_config

# Overrides that a resumed or reproduced run accepts. None of them changes the model, the data or the order of training.
# LIMITS set the length of a resumed run, ROUNDING changes results by rounding, EXACT changes no result.
LIMITS = ("trainer.max_epochs", "trainer.max_steps")
ROUNDING = ("device", "device.*", "trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes",
            "threads")  # fmt: skip
EXACT = ("data.root", "data.num_workers", "data.memory_limit", "data.loader", "trainer.profiler", "callback.progress.*",
         "callback.last.every_n_steps", "callback.last.time_share")  # fmt: skip
SOURCES = ("resume", "init_from", "reproduce")  # overrides that name another run
SET_BY_DEVICE = ("trainer.accelerator", "trainer.strategy", "trainer.devices")


class Override(NamedTuple):
    """An override of the command line, and its parts."""

    key: str
    text: str
    value: Any = None
    deletes: bool = False


class Job(NamedTuple):
    """The config to run, and the overrides to record for it."""

    cfg: DictConfig
    overrides: list[str]


def resolve_job(composed: DictConfig, run_dir: Path, overrides: Sequence[str]) -> Job | None:
    """Resolve the config to run. Return None if the run is already finished.

    Prints messages for the user and writes no file.

    Args:
        composed: the config that Hydra composed from ``overrides``.

    Returns:
        A config whose ``resume`` is None or ``run_dir``, and the overrides that are new to the run.

    Raises:
        UserError: the run cannot be resumed or reproduced with these overrides.
    """
    chosen = [f"{key}={composed[key]}" for key in SOURCES if composed[key] not in (None, AUTO)]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)}: they exclude each other; expected one of them")
    parsed = [override for override in _parse(overrides) if override.key != "resume"]
    if composed.resume == AUTO and not (run_dir / "config.yaml").exists():
        composed.resume = None
    name = composed.reproduce
    for key in ("init_from", "reproduce"):
        if composed[key] is not None:
            composed[key] = _absolute(composed[key])
    if composed.resume is not None:
        return _resume(composed, run_dir, parsed)
    if name is not None:
        return _reproduce(composed, run_dir, parsed, name)
    if composed.init_from is not None and not Path(composed.init_from).exists():
        raise UserError(f"init_from={composed.init_from}: no such run or checkpoint")
    return Job(composed, [override.text for override in parsed])


def _resume(composed: DictConfig, run_dir: Path, overrides: list[Override]) -> Job | None:
    name = str(run_dir) if composed.resume == AUTO else composed.resume
    if not run_dir.samefile(existing_run("resume", name)):
        raise UserError(f"resume={name}: a run resumes in its own directory; leave out hydra.run.dir={run_dir}")
    run = _RecordedRun(run_dir, name)
    cfg = run.config(run_dir)
    before = {key: _select(cfg, key) for key in LIMITS}
    changed = run.apply(cfg, composed, overrides, (*LIMITS, *ROUNDING, *EXACT))
    if run.metrics is not None and not any(_is_longer(before[key], _select(cfg, key)) for key in LIMITS):
        accuracy = run.metrics.get("test/acc")
        result = "" if accuracy is None else f", with a test accuracy of {accuracy * 100:.2f} %"
        print(f"{name} is finished{result}; {run.how_to_train_longer()}")
        return None
    if rounding := [override.text for override in changed if _matches(override.key, ROUNDING)]:
        print(f"{' '.join(rounding)}: from here on equal to an uninterrupted run up to rounding only")
    cfg.resume = str(run_dir)
    return Job(cfg, [override.text for override in changed])


def _reproduce(composed: DictConfig, run_dir: Path, overrides: list[Override], name: str) -> Job:
    run = _RecordedRun(existing_run("reproduce", name), name)
    if run.metrics is None:
        raise UserError(f"reproduce={name}: not finished; to resume it: blitz-train {as_override('resume', name)}")
    cfg = run.config(run_dir)
    cfg.reproduce = composed.reproduce
    changed = run.apply(cfg, composed, overrides, (*ROUNDING, *EXACT))
    recorded = [override for override in run.overrides if override.key != "reproduce"]
    reproduce = [override for override in overrides if override.key == "reproduce"]
    return Job(cfg, [override.text for override in (*recorded, *reproduce, *changed)])


class _RecordedRun:
    """The config, overrides and metrics that a run directory records.

    Args:
        name: the directory as the user wrote it.
    """

    def __init__(self, run_dir: Path, name: str) -> None:
        self.name = name
        self._run_dir = run_dir
        config = self._read("config.yaml", yaml.safe_load, dict) or {}
        if not {"data", "device", "task", "trainer"} <= config.keys():
            raise UserError(f"{run_dir / 'config.yaml'}: not the config of a run, or a damaged one")
        self._config = upgrade_config(config)
        self.overrides = _parse([str(text) for text in self._read("overrides.yaml", yaml.safe_load, list) or []])
        self.metrics = self._read("metrics.json", json.loads, dict)
        self._references = (self._read("environment.json", json.loads, dict) or {}).get("references", {})

    def _read(self, name: str, parse: Any, kind: type) -> Any:
        """Return the parsed content of a file of the run, or None if there is no such file. Refuse another ``kind``."""
        file = self._run_dir / name
        try:
            if file.exists() and not file.is_file():  # reading a pipe would block forever
                raise ValueError("not a regular file")
            content = parse(file.read_text(encoding="utf-8"))
            if not isinstance(content, kind):
                raise ValueError(f"expected a {kind.__name__}, got {content!r}")
            return content
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{file}: cannot be read ({reason}); expected the file as the run wrote it") from error

    def config(self, run_dir: Path) -> DictConfig:
        """Return the recorded config, to run in ``run_dir``, with its interpolations of other keys."""
        moved = move(self._config, str(self._config.get("run_dir")), str(run_dir))
        try:
            cfg = OmegaConf.merge(OmegaConf.structured(TrainConfig), protect(moved))
        except OmegaConfBaseException as error:
            reason = str(error).partition("\n")[0]
            file = self._run_dir / "config.yaml"
            raise UserError(f"{file}: recorded by another version of the code ({reason})") from error
        assert isinstance(cfg, DictConfig)
        for key, reference in self._references.items():
            if _select(cfg, key) is not None:
                _restore_reference(cfg, key, reference)
        return cfg

    def apply(
        self, cfg: DictConfig, composed: DictConfig, overrides: Sequence[Override], allowed: Sequence[str]
    ) -> list[Override]:
        """Apply to ``cfg`` the overrides that change it, and return them.

        Raises:
            UserError: an override changes a key that is not ``allowed``.
        """
        recorded = {override.key: override for override in self.overrides}
        changed = []
        for override in overrides:
            if override.key in recorded and recorded[override.key].text == override.text:
                continue
            if _is_config_key(override.key):
                differing = [pair for key in _keys_of(override) for pair in _differing(key, cfg, composed)]
            else:  # experiment=, debug=: they set many keys, and have none of their own
                differing = [(override.key, recorded[override.key].value if override.key in recorded else None)]
            if not differing:
                continue
            self._check(override, *differing[0], cfg, allowed)
            for key in _keys_of(override):
                value = _unresolved(composed, key) if override.key == "device" else protect(_select(composed, key))
                OmegaConf.update(cfg, key, value, merge=False, force_add=True)
            changed.append(override)
        return changed

    def _check(self, override: Override, key: str, before: Any, cfg: DictConfig, allowed: Sequence[str]) -> None:
        parent = override.key.rpartition(".")[0]
        # The patterns in ``allowed`` match existing keys, and do not permit a new logger or callback.
        exists = "._" not in override.key and (not parent or OmegaConf.select(cfg, parent) is not None)
        if not (exists and _matches(override.key, allowed)) or override.deletes:
            raise UserError(
                f"{override.text}: {self.name} has {key}={_plain(before)} and keeps it; "
                f"to start a new run from its weights: blitz-train {self._new_run_from_weights(override)}"
            )
        if override.key in LIMITS and self._schedule_has_fixed_length():
            node = self._config["schedule"]
            schedule = node.get("scheduler", node)["_target_"].rpartition(".")[2]
            raise UserError(
                f"{override.text}: the schedule, {schedule}, was planned for {override.key}={_plain(before)} from the "
                f"first step; to start a new run from its weights: blitz-train {self._new_run_from_weights(override)}"
            )

    def how_to_train_longer(self) -> str:
        """Return a sentence with the command that trains the run, or its weights, for longer."""
        if self._schedule_has_fixed_length():
            command = f"blitz-train {self._new_run_from_weights()}"
            return f"its schedule has ended; to start a new run from its weights: {command}"
        epochs = 2 * (self._config["trainer"].get("max_epochs") or 10)
        return f"to train longer: blitz-train {as_override('resume', self.name)} trainer.max_epochs={epochs}"

    def _schedule_has_fixed_length(self) -> bool:
        return any(needs_total_steps(value) for _, value in leaves(self._config.get("schedule")))

    def _new_run_from_weights(self, new: Override | None = None) -> str:
        """Return the overrides of a new run like this one that starts with its weights."""
        dropped = ("init_from", "reproduce", *([new.key, f"{new.key}.*"] if new else []))
        kept = {override.key: override.text for override in self.overrides if not _matches(override.key, dropped)}
        texts = [*([new.text] if new else []), *kept.values()]
        return " ".join([as_override("init_from", self.name), *map(shlex.quote, texts)])


def move(node: Any, old: str, new: str) -> Any:
    """Return ``node`` with every path below the directory ``old`` moved to ``new``."""
    if isinstance(node, dict):
        return {key: move(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [move(value, old, new) for value in node]
    inside = isinstance(node, str) and f"{node}{os.sep}".startswith(f"{old}{os.sep}")
    return f"{new}{node[len(old) :]}" if inside else node


def _restore_reference(cfg: DictConfig, key: str, reference: str) -> None:
    """Replace a value by the interpolation that it came from, unless that now gives another value."""
    value, interpolated = _select(cfg, key), None
    OmegaConf.update(cfg, key, reference, merge=False)
    with contextlib.suppress(OmegaConfBaseException):
        interpolated = _select(cfg, key)
    if interpolated != value:
        OmegaConf.update(cfg, key, value, merge=False)


def _is_config_key(key: str) -> bool:
    return key in TrainConfig.__dataclass_fields__ or "." in key


def _keys_of(override: Override) -> list[str]:
    """Return the config keys that an override sets."""
    if not _is_config_key(override.key):
        return []
    return [override.key, *SET_BY_DEVICE] if override.key == "device" else [override.key]


def _differing(key: str, recorded: DictConfig, composed: DictConfig) -> Iterator[tuple[str, Any]]:
    """Yield ``key``, or each key below it, if its value differs; and the recorded value."""
    before, after = (dict(leaves(plain(_select(cfg, key)), key)) for cfg in (recorded, composed))
    old_text, new_text = (dict(leaves(_unresolved(cfg, key), key)) for cfg in (recorded, composed))
    for leaf in before | after:
        same_reference = "${" in str(new_text.get(leaf)) and old_text.get(leaf) == new_text[leaf]
        if before.get(leaf) != after.get(leaf) and not same_reference:
            yield leaf, before.get(leaf)


def _select(cfg: DictConfig, key: str) -> Any:
    node = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _unresolved(cfg: DictConfig, key: str) -> Any:
    node: Any = OmegaConf.to_container(cfg)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _parse(texts: Sequence[str]) -> list[Override]:
    parsed = zip(texts, OverridesParser.create().parse_overrides(list(texts)), strict=True)
    return [
        Override(override.get_key_element().lstrip("+~"), text, override.value(), override.is_delete())
        for text, override in parsed
    ]


def may_change_on_resume(key: str) -> bool:
    """Return whether a resumed run may change a config key or one of its parents."""
    names = key.split(".")
    return any(_matches(".".join(names[: n + 1]), (*LIMITS, *ROUNDING, *EXACT)) for n in range(len(names)))


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _is_longer(before: Any, after: Any) -> bool:
    unlimited = (None, -1)
    if not isinstance(after, int):
        return before != after  # neither a number nor None; check_arguments reports it
    return before not in unlimited and (after in unlimited or after > before)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
