"""The metadata of a run: packages, machine, git commit, uncommitted changes and checksums of the data."""

import shutil
import subprocess
from importlib.metadata import version

from blitz.config.paths import PROJECT
from blitz.runs.folder import Run, create_run
from blitz.runs.metadata import PACKAGES, environment, git
from blitz.training import build
from tests.test_configs import compose

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b")


def test_environment():
    recorded = environment()
    assert recorded["packages"] == {name: version(name) for name in PACKAGES}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True).stdout.strip()
    assert recorded["git_commit"] == (head or None)


def test_no_repository_and_no_git(tmp_path, monkeypatch):
    monkeypatch.setattr("blitz.runs.metadata.PROJECT", tmp_path)
    assert git("rev-parse", "HEAD") == b""
    assert environment()["git_commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git("--version") == b""


def test_saved_diff_can_be_applied(monkeypatch, tmp_path):
    """Even if a file is not UTF-8 and ends with an empty line."""
    repository = tmp_path / "project"
    repository.mkdir()
    (repository / "file.txt").write_bytes(b"one\n\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*GIT, *arguments], cwd=repository, check=True)
    (repository / "file.txt").write_bytes("zwölf\n\n".encode("latin-1"))
    monkeypatch.setattr("blitz.runs.metadata.PROJECT", repository)
    run = create_run(tmp_path / "run", {}, [])
    subprocess.run([*GIT, "apply", "--check", "-R", str(run.path / "git.diff")], cwd=repository, check=True)
    assert run.environment["git_status"] == [" M file.txt"]


def test_run_records_threads_device_and_references(finished):
    recorded = Run(finished).environment
    assert (recorded["device"], recorded["threads"]) == ("1 x cpu", 1)
    assert recorded["references"]["model.in_channels"] == "${data.channels}"
    assert recorded["data"].keys() == {"train", "val", "test"}


def test_checksums_tell_data_apart(folder, tmp_path):
    def checksums(root, *overrides):
        data = build.data(build.resolve(compose("data=image_folder", f"data.root={root}", "data.image_size=8",
                                                "data.batch_size=4", *overrides)))  # fmt: skip
        for stage in ("fit", "test"):
            data.setup(stage)
        return data.checksums()

    for overrides in ([], ["data.loader=workers"]):
        first = checksums(folder, *overrides)
        assert first.keys() == {"train", "val", "test"}
        assert len(set(first.values())) == 3
        assert all(value.startswith("contents:") for value in first.values())
        moved = shutil.copytree(folder, tmp_path / f"moved-{len(overrides)}")
        assert checksums(moved, *overrides) == first
        image = moved / "test" / "apple" / "0.png"
        shutil.copy(moved / "test" / "grün" / "0.png", image)
        with image.open("ab") as file:
            file.write(b"\0")
        again = checksums(moved, *overrides)
        assert [name for name in first if again[name] != first[name]] == ["test"]
