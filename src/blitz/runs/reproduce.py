"""Compare a run with the one that it is to reproduce: what differs around them, and what they gave."""

import hashlib
from collections.abc import Mapping
from typing import Any

from blitz.runs import Run


def differences(was: Run, now: Run) -> list[str]:
    """What may give two runs of one config different figures, a line each; what one has not recorded is left out."""
    return changes(*(facts_of(run.environment) | _diff(run) for run in (was, now)))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {after[key]}, was {before[key]}"
        for key in before
        if None not in (before[key], after.get(key)) and before[key] != after[key]
    ]


def facts_of(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Of an environment.json, flat: what figures may depend on."""
    names = ("python", "platform", "cpus", "threads", "device", "gpus", "git_commit")
    flat = {name: environment.get(name) for name in names} | environment.get("packages", {})
    for split, checksum in environment.get("data", {}).items():  # pixels and files have checksums of their own
        kind, _, digest = checksum.partition(":")
        flat[f"data checksum ({split}, {kind})"] = digest[:12]
    return flat | {"checkpoint of init_from": (environment.get("init_from") or "")[:12] or None}


def _diff(run: Run) -> dict[str, str]:
    if not run.environment.get("git_commit"):
        return {}
    file = run.path / "git.diff"
    return {"git.diff": hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.exists() else "empty"}


def compare(was: Run, now: Run) -> tuple[int, list[str]]:
    """How many figures the two have, and a line for each that is not the same to the last bit."""
    before, after = was.metrics or {}, now.metrics or {}
    figures = sorted(before | after)
    absent = "absent"
    pairs = ((key, repr(before.get(key, absent)), repr(after.get(key, absent))) for key in figures)
    return len(figures), [f"{key} is {new}, was {old}" for key, old, new in pairs if old != new]
