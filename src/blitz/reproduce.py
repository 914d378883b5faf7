"""Compare a run with the one that it is to reproduce: what differs around them, and what they gave."""

import hashlib
from typing import Any

from blitz.runs import Run


def differences(was: Run, now: Run) -> list[str]:
    """What may give two runs of one config different figures, a line each; what one has not recorded is left out."""
    before, after = (_comparable(run) for run in (was, now))
    return [
        f"{key} is {after[key]}, was {before[key]}"
        for key in before
        if None not in (before[key], after.get(key)) and before[key] != after[key]
    ]


def _comparable(run: Run) -> dict[str, Any]:
    facts = run.environment
    diff = run.path / "git.diff"
    flat = {key: facts.get(key) for key in ("python", "platform", "cpus", "threads", "device", "gpus", "git_commit")}
    flat |= facts.get("packages", {})
    if facts.get("git_commit"):
        flat["git.diff"] = hashlib.sha256(diff.read_bytes()).hexdigest()[:12] if diff.exists() else "empty"
    for split, checksum in facts.get("data", {}).items():  # pixels and files have checksums of their own
        kind, _, digest = checksum.partition(":")
        flat[f"data checksum ({split}, {kind})"] = digest[:12]
    return flat | {"checkpoint of init_from": (facts.get("init_from") or "")[:12] or None}


def compare(was: Run, now: Run) -> tuple[int, list[str]]:
    """How many figures the two have, and a line for each that is not the same to the last bit."""
    before, after = was.metrics or {}, now.metrics or {}
    figures = sorted(before | after)
    absent = "absent"
    pairs = ((key, repr(before.get(key, absent)), repr(after.get(key, absent))) for key in figures)
    return len(figures), [f"{key} is {new}, was {old}" for key, old, new in pairs if old != new]
