"""blitz-doctor: on this machine, and with a device that fails or does not learn the same."""

import re
import subprocess
import sys

import pytest
import torch

from blitz import doctor
from blitz.doctor import Device, Result
from tests import processes
from tests.processes import TRAIN_WITH_FORKED_RANKS


def test_this_machine_passes(monkeypatch, capsys):
    """The run on the CPU is a new process. The others are forks, which need no time for their imports."""
    run = subprocess.run

    def fork(command, **options):
        if "device=cpu" in command:
            return run(command, **options)
        assert command[:3] == [sys.executable, "-m", "blitz.train"]
        return processes.run(TRAIN_WITH_FORKED_RANKS, *command[3:], timeout=options["timeout"])

    monkeypatch.setattr(sys, "argv", ["blitz-doctor"])
    monkeypatch.setattr(subprocess, "run", fork)
    doctor.main()
    out = capsys.readouterr().out
    for device in ("cpu", "dp_cpu × 3", "ddp_cpu × 2"):
        assert re.search(rf"^ +{device} +yes +[1-9][\d,]* +\d\.\de[-+]\d\d *$", out, re.M), out
    if not torch.cuda.is_available():
        assert re.search(r"^ +gpu +no GPU that torch can use", out, re.M)


CPU = Result(Device("cpu", 1), "", 100.0, (2.3, 1.2, 0.6))


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        (Result(Device("ddp_cpu", 2), "", 9.0, (2.3, 1.201, 0.6)), "ddp_cpu × 2 does not learn as the CPU"),
        (Result(Device("gpu", 1), "", 9.0, (2.3, 1.1, 0.6)), "gpu does not learn as the CPU does"),
        (Result(Device("ddp", 4), "blitz-train: NCCL"), "ddp × 4 does not work: blitz-train: NCCL"),
        (Result(Device("ddp_cpu", 2), "", 9.0, (2.3, 1.20001, 0.6)), None),
        (Result(Device("gpu", 1), "", 9.0, (2.3, 1.21, 0.6)), None),
        (Result(Device("mps", 1, "no Apple GPU")), None),
    ],
)  # fmt: skip
def test_faults(result, fault, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["blitz-doctor"])
    monkeypatch.setattr(doctor, "devices", lambda: [CPU.device, result.device])
    monkeypatch.setattr(doctor, "examine", lambda device: {CPU.device: CPU, result.device: result}[device])
    if fault is None:
        doctor.main()
    else:
        with pytest.raises(SystemExit) as exit:
            doctor.main()
        assert str(exit.value.code).startswith(f"blitz-doctor: {fault}")
    assert str(result.device) in capsys.readouterr().out


def test_a_device_that_fails_is_reported_with_the_error_of_its_run():
    result = doctor.examine(Device("ddp_cpu", 0))
    assert result.error.startswith("blitz-train: trainer.devices=0: not a valid value")


def test_help_and_unknown_arguments_run_nothing(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "devices", lambda: pytest.fail("it runs"))
    monkeypatch.setattr(sys, "argv", ["blitz-doctor", "--help"])
    with pytest.raises(SystemExit) as stop:
        doctor.main()
    assert not stop.value.code
    assert "a short run on every device" in capsys.readouterr().out.replace("\n", " ")
    monkeypatch.setattr(sys, "argv", ["blitz-doctor", "foo"])
    with pytest.raises(SystemExit, match=r"^blitz-doctor: unrecognized arguments: foo; expected no arguments$"):
        doctor.main()
