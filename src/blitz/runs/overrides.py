"""A run's own config, once more: what resume=, init_from= and reproduce= make of a command line, without torch."""

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

from blitz.config.keys import TOTAL_STEPS, leaves
from blitz.config.paths import as_override, existing_run
from blitz.config.resolvers import AUTO
from blitz.config.schema import TrainConfig
from blitz.errors import UserError
from blitz.runs.compatibility import upgrade_config

# What may change when a run goes on or is run again: nothing that says what is learned, from what and in which order.
LONGER = ("trainer.max_epochs", "trainer.max_steps")
ROUNDING = ("device", "device.*", "trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes",
            "threads")  # fmt: skip
EXACT = ("data.root", "data.num_workers", "data.memory_limit", "data.loader", "trainer.profiler", "callback.progress.*",
         "callback.last.every_n_steps", "callback.last.time_share")  # fmt: skip
SPREAD = ("trainer.accelerator", "trainer.strategy", "trainer.devices")  # what follows device=


class Word(NamedTuple):
    """Of a command line."""

    key: str
    text: str
    value: Any = None
    deletes: bool = False


class Job(NamedTuple):
    """What to run, and the words that are written down as having asked for it."""

    cfg: DictConfig
    words: list[str]


def settle(cfg: DictConfig, folder: Path, words: Sequence[str]) -> Job | None:
    """What ``cfg``, composed of ``words`` to run in ``folder``, is to run; None where nothing is left to do.

    ``cfg.resume`` is then None or ``folder``, and ``words`` are those that are new to it. It says what the user should
    know, and writes nothing.

    Raises:
        UserError: a run cannot go on, or be run again, as it was asked to.
    """
    asked = [f"{key}={cfg[key]}" for key in ("resume", "init_from", "reproduce") if cfg[key] not in (None, AUTO)]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(asked)}: one of them, please")
    given = [word for word in _parse(words) if word.key != "resume"]
    if cfg.resume == AUTO and not (folder / "config.yaml").exists():
        cfg.resume = None
    if cfg.init_from is not None:
        cfg.init_from = _absolute(cfg.init_from)
    name = cfg.reproduce
    if name is not None:
        cfg.reproduce = _absolute(name)
    if cfg.resume is not None:
        return _resume(cfg, folder, given)
    if name is not None:
        return _reproduce(cfg, folder, given, name)
    if cfg.init_from is not None and not Path(cfg.init_from).exists():
        raise UserError(f"init_from={cfg.init_from}: no such run or checkpoint")
    return Job(cfg, [word.text for word in given])


def _resume(composed: DictConfig, folder: Path, given: list[Word]) -> Job | None:
    name = str(folder) if composed.resume == AUTO else composed.resume
    if not folder.samefile(existing_run("resume", name)):
        raise UserError(f"resume={name}: a run goes on in its own folder, not in hydra.run.dir={folder}")
    run = _Recorded(folder, name)
    cfg = run.config(folder)
    before = {key: _at(cfg, key) for key in LONGER}
    changed = run.change(cfg, composed, given, (*LONGER, *ROUNDING, *EXACT))
    if run.metrics is not None and not any(_longer(before[key], _at(cfg, key)) for key in LONGER):
        accuracy = run.metrics.get("test/acc")
        figure = "" if accuracy is None else f", with a test accuracy of {accuracy * 100:.2f} %"
        print(f"{name} is finished{figure}; {run.onward}")
        return None
    if words := [word.text for word in changed if _matches(word.key, ROUNDING)]:
        print(f"{' '.join(words)}: from here on equal to a run without a break up to rounding only")
    cfg.resume = str(folder)
    return Job(cfg, [word.text for word in changed])


def _reproduce(composed: DictConfig, folder: Path, given: list[Word], name: str) -> Job:
    run = _Recorded(existing_run("reproduce", name), name)
    if run.metrics is None:
        raise UserError(f"reproduce={name}: not finished; blitz-train {as_override('resume', name)} goes on with it")
    cfg = run.config(folder)
    cfg.reproduce = composed.reproduce
    changed = run.change(cfg, composed, given, (*ROUNDING, *EXACT))
    mine = [word for word in run.given if word.key != "reproduce"]
    asked = [word for word in given if word.key == "reproduce"]
    return Job(cfg, [word.text for word in (*mine, *asked, *changed)])


class _Recorded:
    """A run as its folder tells it.

    Args:
        name: of the folder, as the user wrote it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder
        self._config = self._read("config.yaml", yaml.safe_load)
        if not isinstance(self._config, dict):
            raise UserError(f"{folder / 'config.yaml'}: not a run's config, or a damaged one")
        self._config = upgrade_config(self._config)
        self.given = _parse(self._read("overrides.yaml", yaml.safe_load) or [])
        self.metrics = self._read("metrics.json", json.loads)
        self._references = (self._read("environment.json", json.loads) or {}).get("references", {})

    def _read(self, name: str, parse: Any) -> Any:
        try:
            return parse((self._folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, yaml.YAMLError) as error:
            raise UserError(f"{self._folder / name}: cannot be read ({' '.join(str(error).split())[:200]})") from error

    @property
    def onward(self) -> str:
        """How to train longer."""
        if not self._laid_out():
            more = 2 * (self._config["trainer"].get("max_epochs") or 10)
            return f"to train longer: blitz-train {as_override('resume', self.name)} trainer.max_epochs={more}"
        return f"its schedule ends there; to train on from its weights: blitz-train {self._as_start()}"

    def config(self, folder: Path) -> DictConfig:
        """As it was composed, to run in ``folder``."""
        was, sep = self._config.get("run_dir"), os.sep

        def moved(node: Any) -> Any:
            if isinstance(node, dict):
                return {key: moved(value) for key, value in node.items()}
            if isinstance(node, list):
                return [moved(value) for value in node]
            inside = isinstance(node, str) and was and f"{node}{sep}".startswith(f"{was}{sep}")
            return f"{folder}{node[len(was) :]}" if inside else node

        try:
            cfg = OmegaConf.merge(OmegaConf.structured(TrainConfig), moved(self._config))
        except OmegaConfBaseException as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self._folder / 'config.yaml'}: made by another version of the code: {reason}") from error
        assert isinstance(cfg, DictConfig)
        for key, reference in self._references.items():  # a value that follows another follows it again
            value, again = _at(cfg, key), None
            if value is None:  # of an earlier layout
                continue
            OmegaConf.update(cfg, key, reference, merge=False)
            with contextlib.suppress(OmegaConfBaseException):
                again = _at(cfg, key)
            if again != value:
                OmegaConf.update(cfg, key, value, merge=False)
        return cfg

    def change(
        self, cfg: DictConfig, composed: DictConfig, given: Sequence[Word], allowed: Sequence[str]
    ) -> list[Word]:
        """Do in ``cfg`` what ``given`` asks for, and give those that changed something.

        Raises:
            UserError: something that is not ``allowed`` would change.
        """
        recorded = {word.key: word for word in self.given}
        changed = []
        for word in given:
            key = word.key
            if key in recorded and recorded[key].text == word.text:
                continue
            if key in TrainConfig.__dataclass_fields__ or "." in key:
                keys = [key, *SPREAD] if key == "device" else [key]
                differing = [pair for k in keys for pair in _differing(k, cfg, composed)]
            else:  # experiment=, debug=: they go into many keys, and into none of their own
                keys, differing = [], [(key, recorded[key].value if key in recorded else None)]
            if not differing:
                continue
            where, was = differing[0]
            parent = key.rpartition(".")[0]  # of what is not there nothing can be changed: no new logger, no callback
            there = "._" not in key and (not parent or OmegaConf.select(cfg, parent) is not None)
            if not (there and _matches(key, allowed)) or word.deletes:
                raise UserError(
                    f"{word.text}: {self.name} has {where}={_plain(was)}, and keeps it; "
                    f"to start a new run from its weights: blitz-train {self._as_start(word)}"
                )
            if key in LONGER and self._laid_out():
                schedule = self._config["schedule"]["_target_"].rpartition(".")[2]
                raise UserError(
                    f"{word.text}: its schedule, {schedule}, was laid out for {key}={_plain(was)} from the first "
                    f"step on; to train on from its weights: blitz-train {self._as_start(word)}"
                )
            for k in keys:
                value = _unresolved(composed, k) if key == "device" else _at(composed, k)
                OmegaConf.update(cfg, k, value, merge=False, force_add=True)
            changed.append(word)
        return changed

    def _laid_out(self) -> bool:
        return any(value == TOTAL_STEPS for _, value in leaves(self._config.get("schedule")))

    def _as_start(self, new: Word | None = None) -> str:
        """The words of a new run like this one, from its weights."""
        gone = ("init_from", "reproduce", *([new.key, f"{new.key}.*"] if new else []))
        words = {word.key: word.text for word in self.given if not _matches(word.key, gone)}
        return " ".join(
            [as_override("init_from", self.name), *map(shlex.quote, [*([new.text] if new else []), *words.values()])]
        )


def _differing(key: str, cfg: DictConfig, composed: DictConfig) -> Iterator[tuple[str, Any]]:
    """The keys from ``key`` on whose values are not the same, with those that ``cfg`` has."""
    was, now = (dict(leaves(_at(config, key), key)) for config in (cfg, composed))
    said, says = (dict(leaves(_unresolved(config, key), key)) for config in (cfg, composed))
    for leaf in was | now:
        follows = "${" in str(says.get(leaf)) and said.get(leaf) == says[leaf]  # the same value, whatever that is
        if was.get(leaf) != now.get(leaf) and not follows:
            yield leaf, was.get(leaf)


def _at(cfg: DictConfig, key: str) -> Any:
    node = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _unresolved(cfg: DictConfig, key: str) -> Any:
    node: Any = OmegaConf.to_container(cfg)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _parse(words: Sequence[str]) -> list[Word]:
    parsed = zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True)
    return [Word(word.get_key_element().lstrip("+~"), text, word.value(), word.is_delete()) for text, word in parsed]


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _longer(was: Any, now: Any) -> bool:
    unlimited = (None, -1)
    if not isinstance(now, int):
        return was != now  # a whole number or none; build.check says so
    return was not in unlimited and (now in unlimited or now > was)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111
