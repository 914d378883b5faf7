"""Put random mistakes into valid commands, and check that blitz reports them and loses nothing.

    python scripts/fuzz.py --cases 100 --seed 0
    python scripts/fuzz.py --seed 0 --case 17        # repeat one case

A case is a quick run on the digits or on a small image folder, or a command on a finished run. It has one mistake: in a
value, a key, a choice, the bytes of an image or of a file of the run, the name of a class, or the directory.
The rules:

- The status is 0 or 1. With 1, stderr holds one line that begins with the name of the program.
- A refused run leaves no directory behind. A refused command changes no file that existed before.
- metrics.json is valid JSON, and no child process outlives the command.

Each case runs in a fork of this process, which has already imported everything. This does not work on Windows.
"""

import argparse
import gc
import importlib
import json
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # threads do not survive a fork

import hydra
import torch
from omegaconf import OmegaConf
from PIL import Image

import blitz.eval
import blitz.train
import blitz.training.build
from blitz.config.keys import leaves
from blitz.config.paths import CONFIGS, as_override
from blitz.config.schema import register

SCRIPTS: dict[str, Callable[[], None]] = {"blitz-train": blitz.train.main, "blitz-eval": blitz.eval.main}
QUICK = ("device=cpu", "seed=1", "schedule=constant", "trainer.max_epochs=1", "trainer.max_steps=3")
# Imported once, not in each fork: blitz imports these late.
LATE = ("blitz.callback.last_checkpoint", "blitz.callback.progress", "blitz.cli.app", "blitz.data.digits",
        "blitz.data.image_folder", "blitz.logger.tensorboard", "blitz.model.net", "blitz.runs.reproduce",
        "blitz.runs.resume", "blitz.task.classify", "blitz.terminal", "blitz.training.rehearsal",
        "blitz.training.results", "blitz.training.tune")  # fmt: skip
VALUES = ("null", "nan", "inf", "-inf", "-1", "0", "1e30", "99999999999999999999", "''", "abc", "'größe 2'",
          "true", "0.5", "${oc.env:HOME}", r"'\${oc.env:HOME}'", "${nowhere}", "???", "[]", "[1,2]",
          "{a:1}", "'[1'")  # fmt: skip
NAMES = ("${oc.env:HOME}", "???", "007", "null", "a b", "größe", "x=y", "[1,2]", "a'b", "-", "~", "a\u0085b")
TIMEOUT = 60  # seconds
BEGUN = ("the loss is", "/loss is")  # errors that can only occur after the training has begun


class Case(NamedTuple):
    """A command, and the directory that a new run would create; None if it works on an existing run."""

    command: tuple[str, ...]
    run_dir: Path | None


class Outcome(NamedTuple):
    status: int
    stderr: str
    outlived: bool


def make_case(rng: random.Random, home: Path, keys: Sequence[str]) -> Case:
    """Return a random case. Its files are in ``home``, which holds a finished ``run`` and ``images``."""
    kinds = {_value: 8, _key: 3, _choice: 1, _image: 3, _class: 1, _file_of_run: 5, _directory: 1}
    (kind,) = rng.choices(list(kinds), list(kinds.values()))
    return kind(rng, home, keys)


def _new(home: Path, *overrides: str, run_dir: str = "new") -> Case:
    return Case(("blitz-train", *QUICK, *overrides, as_override("hydra.run.dir", home / run_dir)), home / run_dir)


def _value(rng: random.Random, home: Path, keys: Sequence[str]) -> Case:
    return _new(home, f"{rng.choice(keys)}={rng.choice(VALUES)}")


def _key(rng: random.Random, home: Path, keys: Sequence[str]) -> Case:
    key = rng.choice(keys)
    position = rng.randrange(len(key))
    misspelt = f"{key[:position]}{rng.choice('aex_.')}{key[position + 1 :]}"
    text = rng.choice((f"~{key}", f"~{key.partition('.')[0]}", f"+{misspelt}=1", f"{misspelt}=1", f"+{key}.more=1"))
    return _new(home, text)


def _choice(rng: random.Random, home: Path, keys: Sequence[str]) -> Case:
    groups = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra")
    group = rng.choice(groups)
    choices = [path.stem for path in sorted((CONFIGS / group).glob("*.yaml"))]
    text = rng.choice((*choices, "null", "nowhere", "", "[]"))
    return _new(home, f"{group}={text}", as_override("data.root", home / "images"))


def _image(rng: random.Random, home: Path, keys: Sequence[str]) -> Case:
    path = rng.choice(sorted((home / "images").rglob("*.png")))
    content = bytearray(path.read_bytes())
    match rng.randrange(6):
        case 0:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        case 1:
            content = content[: rng.randrange(len(content))]
        case 2:
            path = path.with_suffix(rng.choice((".jpg", ".dds", ".avif", ".txt", ".webp", ".eps")))
        case 3:
            content[16:24] = b"\0\1\0\0" * 2  # PNG: 65,536 x 65,536 pixels
        case 4:
            content = bytearray(rng.randbytes(len(content)))
        case 5:
            path.unlink()
            os.mkfifo(path)
            return _folder(home, rng)
    path.write_bytes(content)
    return _folder(home, rng)


def _class(rng: random.Random, home: Path, keys: Sequence[str]) -> Case:
    name = rng.choice(NAMES)
    for split in ("train", "test"):
        (home / "images" / split / "apple").rename(home / "images" / split / name)
    return _folder(home, rng)


def _folder(home: Path, rng: random.Random) -> Case:
    loader = f"data.loader={rng.choice(('auto', 'device', 'workers'))}"
    settings = ("data=image_folder", "data.num_workers=1", "data.batch_size=8", loader)
    return _new(home, *settings, as_override("data.root", home / "images"))


def _file_of_run(rng: random.Random, home: Path, keys: Sequence[str]) -> Case:
    run = home / "run"
    path = rng.choice(sorted(path for path in run.rglob("*") if path.is_file()))
    content = bytearray(path.read_bytes())
    change = rng.randrange(4)
    if change == 0:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif change == 1:
        content = content[: rng.randrange(len(content))]
    elif change == 2:
        content = bytearray(rng.randbytes(40))
    path.write_bytes(content)
    if change == 3:
        path.unlink()
    if rng.random() < 0.5:
        (run / "metrics.json").unlink(missing_ok=True)
    return rng.choice((
        Case(("blitz-train", as_override("resume", run)), None),
        Case(("blitz-train", as_override("resume", run), "trainer.max_steps=4", "trainer.max_epochs=2"), None),
        Case(("blitz-eval", as_override("run", run), "device=cpu", f"hydra.run.dir={home / 'new'}"), home / "new"),
        Case(("blitz-train", as_override("reproduce", run), f"hydra.run.dir={home / 'new'}"), home / "new"),
        _new(home, as_override("init_from", run)),
    ))  # fmt: skip


def _directory(rng: random.Random, home: Path, keys: Sequence[str]) -> Case:
    (home / "file").touch()
    return _new(home, run_dir=rng.choice(("run", "file", "file/below", "2024", "a b", "größe", "null", "x=1", "a,b")))


def execute(case: Case, home: Path) -> Outcome:
    """Run the command in a fork of this process, which becomes the leader of a process group."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.chdir(home)
        for name, descriptor in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(home / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os._exit(_status(case.command))
    deadline = time.monotonic() + TIMEOUT
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.01)
    time.sleep(0.05)
    outlived = False
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
        outlived = True
    return Outcome(os.waitstatus_to_exitcode(ended[1]), (home / "stderr").read_text(errors="replace"), outlived)


def _status(command: Sequence[str]) -> int:
    """Call the console script and return its exit status, as the interpreter would."""
    sys.argv = [command[0], *(_unquoted(text) for text in command[1:])]
    status = 0
    try:
        SCRIPTS[command[0]]()
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _unquoted(text: str) -> str:
    """Remove the quotes for the shell, because no shell reads this command."""
    return shlex.split(text)[0] if text[:1] == "'" else text


def broken_rules(case: Case, outcome: Outcome, before: dict[Path, bytes], home: Path) -> Iterator[str]:
    """Yield a line for each rule that the outcome of a case breaks."""
    lines = outcome.stderr.splitlines()
    if outcome.status not in (0, 1):
        yield f"status {outcome.status}"
    if outcome.outlived:
        yield "a process outlives the program"
    if outcome.status and (len(lines) != 1 or not lines[0].startswith("blitz-")):
        yield f"{len(lines)} lines on stderr"
    if outcome.status == 0 and lines and case.run_dir is not None:
        yield "lines on stderr"
    if outcome.status:
        changed = [path for path, content in before.items() if not path.is_file() or path.read_bytes() != content]
        if changed and not any(text in outcome.stderr for text in BEGUN):
            yield f"changed or lost: {', '.join(str(path.relative_to(home)) for path in changed)}"
        if case.run_dir is not None and case.run_dir.is_dir() and not any(text in outcome.stderr for text in BEGUN):
            new = sorted(path.name for path in case.run_dir.rglob("*") if path.is_file() and path not in before)
            if new or not any(case.run_dir.iterdir()):
                yield f"left behind: {', '.join(new) or 'an empty directory'}"
    run_dir = case.run_dir or home / "run"
    if outcome.status == 0 and not (run_dir / "metrics.json").is_file():
        yield "no metrics.json"
    elif outcome.status == 0:
        try:
            json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"), parse_constant=_refuse)
        except ValueError as error:
            yield f"metrics.json: {error}"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def prepare(home: Path) -> list[str]:
    """Create an image folder and a finished run. Return the config keys that the cases change."""
    rng = random.Random(0)
    for split, count in (("train", 8), ("test", 3)):
        for red, name in ((250, "apple"), (20, "blueberry")):
            directory = home / "images" / split / name
            directory.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 20), (red, rng.randrange(200), 250 - red)).save(directory / f"{number}.png")
    for module in LATE:
        importlib.import_module(module)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)]).step()  # imports the rest of torch
    outcome = execute(_new(home, run_dir="run"), home)
    if outcome.status:
        sys.exit(f"the run that the cases start from failed: {outcome.stderr}")
    register()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config: Any = OmegaConf.to_container(hydra.compose("train", list(QUICK)))
    return sorted(key for key, _ in leaves(config) if key not in ("run_dir", "resume", "reproduce", "data.root"))


def fuzz(seed: int, numbers: Sequence[int], verbose: bool = False) -> int:
    """Run the cases with these numbers and print those that break a rule. Return their count."""
    broken = 0
    with tempfile.TemporaryDirectory() as temporary:
        template = Path(temporary) / "template"
        template.mkdir()
        home = Path(temporary) / "home"
        template.rename(home)
        keys = prepare(home)
        gc.freeze()  # no fork writes to these objects, which would copy them
        home.rename(template)  # a run records its path, so all cases use the same path
        for number in numbers:
            shutil.copytree(template, home)
            case = make_case(random.Random(f"{seed} {number}"), home, keys)
            before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
            before = {path: content for path, content in before.items() if path.name not in ("stdout", "stderr")}
            outcome = execute(case, home)
            found = list(broken_rules(case, outcome, before, home))
            broken += bool(found)
            if found or verbose:
                stderr = outcome.stderr.splitlines()[-4:]
                lines = [" ".join(case.command), *(f"  {line}" for line in found), *(f"  | {line}" for line in stderr)]
                print(f"case {number}:", "\n".join(lines).replace(str(home), "HOME"), flush=True)
            shutil.rmtree(home)
    gc.unfreeze()  # nanobind would report the objects as leaked
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run only this case")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    arguments = parser.parse_args()
    numbers = range(arguments.cases) if arguments.case is None else [arguments.case]
    if broken := fuzz(arguments.seed, numbers, arguments.verbose or arguments.case is not None):
        sys.exit(f"{broken} of {len(numbers)} cases break a rule")
    print(f"all {len(numbers)} cases keep the rules")


if __name__ == "__main__":
    main()
