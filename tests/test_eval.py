"""blitz-eval computes the test metrics of a checkpoint with the settings of its run, on any device."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from blitz.runs.folder import Run
from tests.conftest import QUICK, contents, error_of


@pytest.fixture
def evaluate(command, tmp_path):
    """``evaluate(*overrides)`` runs blitz-eval on the CPU and returns the directory of the evaluation."""

    def run(*overrides: str, into: str = "eval") -> Run:
        command("blitz-eval", *overrides, "device=cpu", f"hydra.run.dir={tmp_path / into}")
        return Run(tmp_path / into)

    return run


def test_run_and_checkpoint_give_the_same_metrics_as_training(finished, evaluate, capsys):
    before = contents(finished)
    trained = json.loads((finished / "metrics.json").read_text())
    expected = {key: value for key, value in trained.items() if key.startswith("test/")}
    for name, override in (("a", f"run={finished}"), ("b", f"checkpoint={finished / 'checkpoints' / 'best.ckpt'}")):
        evaluation = evaluate(override, into=name)
        assert evaluation.metrics == expected
        assert (evaluation.path / "per_class.csv").read_text() == (finished / "per_class.csv").read_text()
        assert evaluation.overrides == [f"checkpoint={finished / 'checkpoints' / 'best.ckpt'}"]
        assert f"test accuracy  {expected['test/acc'] * 100:.2f} %" in capsys.readouterr().out
    assert contents(finished) == before


def test_settings_of_the_run_are_kept(finished, evaluate):
    recorded, config = Run(finished).config, evaluate(f"run={finished}").config
    assert config["trainer"] == recorded["trainer"]
    assert config["data"] == recorded["data"]
    assert (list(config["callback"]), config["logger"]) == (["progress"], {})


def test_another_device_gives_the_same_metrics(finished, command, tmp_path):
    command("blitz-eval", f"run={finished}", "device=dp_cpu", f"hydra.run.dir={tmp_path / 'dp'}")
    metrics = Run(tmp_path / "dp").metrics
    trained = json.loads((finished / "metrics.json").read_text())
    assert metrics == pytest.approx({key: trained[key] for key in metrics}, abs=1e-5)


def test_data_may_have_moved(train, folder, evaluate, tmp_path):
    run = train(*QUICK, "data=image_folder", f"data.root={folder}", "data.batch_size=8")
    shutil.move(folder, tmp_path / "elsewhere")
    message = error_of(evaluate, f"run={run}")
    assert str(folder) in message
    evaluation = evaluate(f"run={run}", f"data_root={tmp_path / 'elsewhere'}")
    trained = Run(run).metrics
    assert evaluation.metrics == {key: value for key, value in trained.items() if key.startswith("test/")}


def test_missing_or_damaged_checkpoint_is_refused(command, tmp_path):
    file = tmp_path / "model.ckpt"
    file.write_text("not a checkpoint")
    for override, problem in {
        f"checkpoint={file}": "not a checkpoint, or a damaged one",
        f"checkpoint={tmp_path / 'none.ckpt'}": "no such run or checkpoint",
        f"run={tmp_path}": "no intact resume.ckpt or resume-previous.ckpt in checkpoints/; expected a run directory",
    }.items():
        assert problem in error_of(command, "blitz-eval", override)
    assert "run=DIR or checkpoint=FILE" in error_of(command, "blitz-eval")
    assert "run=DIR or checkpoint=FILE" in error_of(command, "blitz-eval", "run=a", "checkpoint=b")


def test_checkpoint_of_another_architecture(finished, command, tmp_path):
    file = tmp_path / "model.ckpt"
    checkpoint = torch.load(finished / "checkpoints" / "resume.ckpt", weights_only=True)
    checkpoint["config"]["task"]["net"] = {"_target_": "torchvision.models.squeezenet1_1", "num_classes": 10}
    checkpoint["config"]["task"]["transform"] |= {"channels": 3, "image_size": 64, "mean": [0.5], "std": [0.5]}
    torch.save(checkpoint, file)
    assert f"{file}: its weights do not fit SqueezeNet (" in error_of(command, "blitz-eval", f"checkpoint={file}")


def test_evaluation_of_an_evaluation_is_refused(finished, evaluate, command):
    evaluation = evaluate(f"run={finished}")
    assert "expected a run directory" in error_of(command, "blitz-eval", f"run={evaluation.path}")


def test_refusal_does_not_import_torch():
    probe = "import sys; from blitz.eval import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert done.stderr == "blitz-eval: no model; expected either run=DIR or checkpoint=FILE\n"
