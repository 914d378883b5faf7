"""Compare environment and metrics of a run with those of the run that it reproduces."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from blitz.runs.folder import Run

KIND = "kind of data checksums (different kinds cannot be compared)"
RECORDED = ("python", "platform", "cpus", "threads", "device", "gpus", "git_commit")


class Comparison(NamedTuple):
    """The number of metrics, a line for each that differs, and whether a recorded difference may explain it."""

    total: int
    differing: list[str]
    explained: bool


def compare(original: Run, run: Run) -> Comparison:
    """Compare the metrics of two finished runs, to the last bit."""
    before, after = original.metrics or {}, run.metrics or {}
    pairs = {name: [repr(metrics.get(name, "absent")) for metrics in (before, after)] for name in before | after}
    differing = [f"{name} is {new}, was {old}" for name, (old, new) in sorted(pairs.items()) if old != new]
    return Comparison(len(pairs), differing, bool(differences(original, run)))


def differences(original: Run, run: Run) -> list[str]:
    """Return a line for each recorded difference that may change the metrics."""
    return changes(*(comparable(one.environment, one.patch) for one in (original, run)))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a line for each value that changed; values that only one of the two has are left out."""
    return [
        f"{key} is {after[key]}, was {before[key]}"
        for key in before
        if None not in (before[key], after.get(key)) and before[key] != after[key]
    ]


def comparable(environment: Mapping[str, Any], patch: bytes) -> dict[str, Any]:
    """Return the conditions that may change the metrics: entries of ``environment.json``, and uncommitted changes.

    Args:
        patch: content of ``git.diff``.
    """
    flat = {name: environment.get(name) for name in RECORDED} | environment.get("packages", {})
    kinds = set()
    for split, checksum in environment.get("data", {}).items():
        kind, _, digest = checksum.partition(":")
        flat[f"data checksum ({split}, {kind})"] = digest[:12]
        kinds.add(kind)
    flat[KIND] = ", ".join(sorted(kinds)) or None
    flat["checkpoint of init_from"] = (environment.get("init_from") or "")[:12] or None
    if environment.get("git_commit"):
        flat["git.diff"] = hashlib.sha256(patch).hexdigest()[:12] if patch else "empty"
    return flat
