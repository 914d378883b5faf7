"""A stand-in for a SLURM cluster: its commands, and a controller that really runs the batch scripts.

``sbatch``, ``squeue``, ``scancel``, ``scontrol``, ``sacct`` and ``srun`` are scripts that pass their arguments to the
controller, which is a thread of the tests. It sets SLURM's variables, sends its signals and knows its states. ``srun``
forks the program from the server of ``tests.processes`` instead of importing torch again.
"""

import contextlib
import json
import os
import select
import shlex
import signal
import socketserver
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests import processes

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "srun", "python")
# ``python`` replaces the interpreter of submitit's local executor. It only forks the job itself.
CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
name = os.path.basename(sys.argv[0])
if name == "python" and "submitit.core._submit" not in sys.argv:
    os.execv("{python}", ["{python}", *sys.argv[1:]])
connection = socket.socket(socket.AF_UNIX)
connection.connect("{address}")
request = dict(name=name, arguments=sys.argv[1:], env=dict(os.environ), cwd=os.getcwd())
if name in ("srun", "python"):
    request["output"] = os.readlink("/proc/self/fd/1")
connection.sendall(json.dumps(request).encode() + b"\\n")
lines = connection.makefile()
if name in ("srun", "python"):
    pid = int(next(lines))
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
answer = json.loads(next(lines))
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["status"])
"""
PROGRAM = "from submitit.core.submission import submitit_main; submitit_main()"
STEP = {
    "SLURM_NTASKS": "1", "SLURM_NPROCS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_TASKS_PER_NODE": "1",
    "SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "node1", "SLURM_NODELIST": "node1",
    "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "node1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}  # fmt: skip


@dataclass
class Batch:
    """A job of the cluster."""

    script: Path
    env: dict[str, str]
    cwd: str
    state: str = "PENDING"
    options: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    step: int | None = None  # the process that srun has started
    starts: int = 0


class Cluster:
    """A cluster that starts each job at once, unless it is told to hold them.

    Args:
        directory: for its commands, whose directory is ``bin``.
        run: whether jobs are really run.
    """

    def __init__(self, directory: Path, run: bool = True) -> None:
        self.bin = directory / "bin"
        self.bin.mkdir(parents=True)
        address = directory / "socket"
        for name in COMMANDS:
            (self.bin / name).write_text(CLIENT.format(python=sys.executable, address=address))
            (self.bin / name).chmod(0o755)
        self.run = run
        self.held = False
        self.accounting = True  # whether sacct works
        self.forgotten: set[str] = set()  # jobs that squeue does not list any more
        self.jobs: dict[str, Batch] = {}
        self.requests: list[list[str]] = []
        self.lock = threading.RLock()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer.answer(self, json.loads(self.rfile.readline()))

        self.server = socketserver.ThreadingUnixStreamServer(str(address), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def release(self) -> None:
        """Start the jobs that wait."""
        self.held = False
        for number in self.jobs:
            self.schedule(number)

    def signal(self, number: str, signum: int) -> None:
        """Send a signal to the step of a job, as SLURM does before the end of its time or of its grace period."""
        step = self.jobs[number].step
        assert step is not None
        os.kill(step, signum)

    def kill(self, number: str, state: str) -> None:
        """End a job as SLURM does if it runs out of memory, or if its node fails."""
        self.jobs[number].state = state
        self.signal(number, signal.SIGKILL)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for job in self.jobs.values():
            if job.process and job.process.poll() is None:
                if job.step:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(job.step, signal.SIGKILL)
                job.process.kill()

    def answer(self, handler: socketserver.StreamRequestHandler, request: dict) -> None:
        name, arguments = request["name"], request["arguments"]
        self.requests.append([name, *arguments])
        if name in ("srun", "python"):
            self.fork(handler, request)
            return
        with self.lock:
            out, err, status = getattr(self, name)(arguments, request)
        handler.wfile.write(json.dumps({"out": out, "err": err, "status": status}).encode() + b"\n")

    def fork(self, handler: socketserver.StreamRequestHandler, request: dict) -> None:
        """Run a program until it has ended. If the client is killed, kill it."""
        number = request["env"].get("SLURM_JOB_ID", "")
        with open(request["output"], "ab") as output:  # noqa: PTH123
            process = processes.start(
                PROGRAM, request["arguments"][-1], env={**request["env"], **(STEP if number else {})},
                cwd=Path(request["cwd"]), stdout=output.fileno(), stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        if number:
            self.jobs[number].step = process.pid
        handler.wfile.write(f"{process.pid}\n".encode())
        while process.poll() is None:
            if select.select([handler.connection], [], [], 0.1)[0]:
                process.kill()
                process.wait()
        with contextlib.suppress(BrokenPipeError):
            status = process.returncode if process.returncode >= 0 else 128 - process.returncode
            handler.wfile.write(json.dumps({"out": "", "err": "", "status": status}).encode() + b"\n")

    def sbatch(self, arguments: list[str], request: dict) -> tuple[str, str, int]:
        script = Path(arguments[0])
        lines = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if "#SBATCH" in line]
        options = {key: shlex.split(value)[0] if value else "" for key, _, value in (x.partition("=") for x in lines)}
        if options.get("partition") == "nowhere":
            return "", "sbatch: error: invalid partition specified: nowhere\n", 1
        number = str(len(self.jobs) + 1)
        self.jobs[number] = Batch(script, request["env"], request["cwd"], options=options)
        threading.Timer(0.1, self.schedule, [number]).start()
        return f"Submitted batch job {number}\n", "", 0

    def schedule(self, number: str) -> None:
        with self.lock:
            job = self.jobs[number]
            if job.state != "PENDING" or self.held or not self.run:
                return
            job.state, job.starts = "RUNNING", job.starts + 1
            output = job.options["output"].replace("%j", number)
            env = {**job.env, "SLURM_JOB_ID": number, "SLURM_JOBID": number, "SLURM_JOB_NAME": job.options["job-name"]}
            with open(output, "ab") as file:  # noqa: PTH123
                job.process = subprocess.Popen(
                    ["bash", job.script.resolve()], cwd=job.cwd, env=env, stdout=file, stderr=file,
                    start_new_session=True,
                )  # fmt: skip
        threading.Thread(target=self.supervise, args=(number,), daemon=True).start()

    def supervise(self, number: str) -> None:
        job = self.jobs[number]
        assert job.process is not None
        status = job.process.wait()
        with self.lock:
            if job.state == "REQUEUED":
                job.state = "PENDING"
            elif job.state == "RUNNING":
                job.state = "FAILED" if status else "COMPLETED"
        self.schedule(number)

    def squeue(self, arguments: list[str], request: dict) -> tuple[str, str, int]:
        assert {"--noheader", "--states=all", "--format=%A %T"} <= set(arguments)
        lines = [f"{number} {job.state}\n" for number, job in self.jobs.items() if number not in self.forgotten]
        return "".join(lines), "", 0

    def sacct(self, arguments: list[str], request: dict) -> tuple[str, str, int]:
        if not self.accounting:
            return "", "Slurm accounting storage is disabled\n", 1
        lines = [f"{number}|{job.state}|node1\n" for number, job in self.jobs.items()]
        return "".join(["JobID|State|NodeList\n", *lines]), "", 0

    def scontrol(self, arguments: list[str], request: dict) -> tuple[str, str, int]:
        command, number = arguments
        assert command == "requeue"
        if "requeue" not in self.jobs[number].options:
            return "", f"Requested operation is presently disabled for job {number}\n", 1
        self.jobs[number].state = "REQUEUED"
        return "", "", 0

    def scancel(self, arguments: list[str], request: dict) -> tuple[str, str, int]:
        for number in arguments:
            job = self.jobs[number]
            if job.state in ("PENDING", "RUNNING"):
                running, job.state = job.state == "RUNNING", "CANCELLED"
                if running:
                    self.signal(number, signal.SIGTERM)
        return "", "", 0
