"""A file has its previous content or all of its new content."""

import os
import signal
import subprocess
import sys
import time

import pytest

from blitz.runs.atomic import TEMPORARY, write_atomically


def test_new_content_replaces_the_previous(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", memoryview(b"two, longer")):
        write_atomically(path, content)
        assert path.read_bytes() == bytes(content)
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_keeps_the_previous_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"previous")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as failure:
        write_atomically(path, b"new")
    assert failure.value.filename == str(path), "the message names the file and not the temporary one"
    assert path.read_bytes() == b"previous"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_writer_leaves_a_complete_file(tmp_path):
    """Kill a process that writes without pause. The contents are long enough to be caught half-written."""
    path = tmp_path / "file"
    program = f"""
from pathlib import Path
from blitz.runs.atomic import write_atomically
while True:
    for letter in (b"a", b"b"):
        write_atomically(Path({str(path)!r}), letter * 3_000_000)
"""
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", program]) as process:
            while not path.exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert content in (b"a" * 3_000_000, b"b" * 3_000_000)
        assert {file.name for file in tmp_path.iterdir()} <= {path.name, path.name + TEMPORARY}
        path.unlink()
