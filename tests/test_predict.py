"""blitz-predict writes a table and pictures for files and for splits, with the preprocessing of the checkpoint."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from blitz import runs
from blitz.data.digits import Digits
from blitz.data.friedman import Friedman
from blitz.runs.folder import Run
from tests.conftest import contents, error_of
from tests.test_foreign import MODULES, WITHOUT_PARTS


@pytest.fixture
def predict(command, tmp_path):
    """``predict(*overrides)`` runs blitz-predict on the CPU and returns its directory."""

    def run(*overrides: str, into: str = "predictions"):
        command("blitz-predict", *overrides, "device=cpu", f"hydra.run.dir={tmp_path / into}")
        return tmp_path / into

    return run


@pytest.fixture
def photos(tmp_path):
    """Return a directory with images of several modes, files that are not images, and one damaged file."""
    directory = tmp_path / "photos"
    (directory / "b").mkdir(parents=True)
    (directory / ".hidden").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(directory / "a (1).PNG")
    Image.fromarray(pixels[..., 0]).save(directory / "b" / "grey[0].png")
    Image.fromarray(pixels).quantize(8).save(directory / "c.gif")
    (directory / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    (directory / "notes.txt").write_text("no image")
    Image.fromarray(pixels).save(directory / ".hidden" / "d.png")
    return directory


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_split_has_the_truth_and_the_lines_of_the_tutorial(finished, predict, capsys):
    before = contents(finished)
    directory = predict(f"run={finished}", "inputs=test")
    assert contents(finished) == before
    task, config = runs.load(finished), Run(finished).config["data"]
    data = Digits(**{key: value for key, value in config.items() if not key.startswith("_")})
    data.setup("test")
    images, labels = data.splits["test"][:2]
    expected = task.predict(images)
    found = rows(directory / "predictions.csv")
    assert list(found[0]) == ["index", "truth", "prediction", "confidence", *(f"probability/{i}" for i in range(10))]
    assert [row["index"] for row in found] == [str(i) for i in range(len(labels))]
    assert [row["truth"] for row in found] == [str(label) for label in labels.tolist()]
    assert [row["prediction"] for row in found] == expected.names
    probabilities = torch.tensor([[float(row[f"probability/{i}"]) for i in range(10)] for row in found])
    torch.testing.assert_close(probabilities, expected.probabilities, atol=2e-6, rtol=0)
    right = sum(row["truth"] == row["prediction"] for row in found)
    assert right / len(found) == pytest.approx(Run(finished).metrics["test/acc"], abs=1e-7)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "GroundTruth:   " + "  ".join(str(label) for label in labels[:4].tolist())
    assert lines[1] == "Predicted:     " + "  ".join(expected.names[:4])
    assert f"{len(labels)} in " in lines[2]
    with Image.open(directory / "grid.png") as picture:
        assert min(picture.size) > 300
    assert json.loads((directory / "source.json").read_text())["checkpoint"].endswith("best.ckpt")


def test_training_images_are_in_order_and_not_augmented(untrained, folder, predict):
    flip = "+data.augment.flip={_target_: blitz.data.augment.Flip}"
    model = untrained("data=image_folder", f"data.root={folder}", "data.batch_size=8", "data.val_fraction=0", flip)
    found = rows(predict(f"checkpoint={model}", "inputs=train", "grid=0") / "predictions.csv")
    assert [row["truth"] for row in found] == [name for name in ("apple", "blueberry", "grün") for _ in range(12)]
    again = runs.load(model).predict([folder / "train" / "apple" / f"{i}.png" for i in (0, 1, 10)])
    assert [float(row["confidence"]) for row in found[:3]] == pytest.approx(again.confidences.tolist(), abs=2e-6)
    assert not (model.parent / "predictions" / "grid.png").exists()
    message = error_of(partial(predict, into="b"), f"checkpoint={model}", "inputs=val")
    assert message == "blitz-predict: inputs=val: the data has no such split; expected train"


def test_unreadable_files_are_listed_and_skipped(finished, predict, photos, tmp_path, capsys):
    message = error_of(predict, f"run={finished}", f"inputs={photos}")
    line = "1 of 4 files could not be read; the predictions for the others are written"
    assert message == f"blitz-predict: inputs={photos}: {line}"
    out = capsys.readouterr().out
    skipped = [line for line in out.splitlines() if line.startswith("skipped ")]
    assert len(skipped) == 1
    assert f"{photos / 'broken.jpg'}: cannot be read as an image (" in skipped[0]
    found = rows(tmp_path / "predictions" / "predictions.csv")
    expected = [photos / "a (1).PNG", photos / "b" / "grey[0].png", photos / "c.gif"]
    assert [row["file"] for row in found] == list(map(str, expected))
    probabilities = runs.load(finished).predict(expected).probabilities
    assert [float(row["probability/3"]) for row in found] == pytest.approx(probabilities[:, 3].tolist(), abs=2e-6)
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "grid.png", "predictions.csv", "source.json",
    ]  # fmt: skip


def test_nothing_is_written_if_nothing_can_be_read(finished, predict, photos, tmp_path):
    for inputs, expected in {
        photos / "none.png": ": no such file; expected an image, a directory, a pattern such as 'photos/*.jpg'",
        photos / "*.jp*g": f"{photos / 'broken.jpg'}: cannot be read as an image (",
    }.items():
        assert expected in error_of(partial(predict, into="a/b"), f"run={finished}", f"inputs={inputs}")
    assert not (tmp_path / "a").exists()


def test_results_are_never_overwritten(finished, predict, tmp_path, capsys):
    directory = predict(f"run={finished}", "inputs=test", "grid=0")
    assert capsys.readouterr().out.startswith("GroundTruth: "), "also without a picture"
    before = contents(directory)
    assert "results are never overwritten" in error_of(predict, f"run={finished}", "inputs=test")
    assert contents(directory) == before
    moved = tmp_path / "moved"
    predict(f"run={finished}", "inputs=test", "grid=0", f"output_dir={moved}", into="empty")
    assert (moved / "predictions.csv").read_bytes() == before[directory / "predictions.csv"]
    assert not (tmp_path / "empty").exists(), "no empty directory is left behind"


def test_regression(untrained, predict, tmp_path):
    path = untrained("experiment=regression")
    model = f"checkpoint={path}"
    found = rows(predict(model, "inputs=test") / "predictions.csv")
    assert list(found[0]) == ["index", "truth", "prediction"]
    data = Friedman(num_train=2000, num_val=500, num_test=1000, features=10)
    data.setup("test")
    inputs, targets = (torch.cat(part) for part in zip(*data.test_dataloader(), strict=True))
    assert [float(row["truth"]) for row in found] == pytest.approx(targets.flatten().tolist())
    predicted = runs.load(path).predict(inputs)
    assert [float(row["prediction"]) for row in found] == pytest.approx(predicted.tolist(), abs=1e-5)
    again = partial(predict, into="b")
    assert "in a fixed order; expected val or test" in error_of(again, model, "inputs=train")
    assert "Regress has no transform that reads files; expected a split" in error_of(again, model, f"inputs={tmp_path}")


def test_autoencoder_and_one_image_as_json(untrained, predict, photos):
    model, image = untrained("experiment=autoencode"), photos / "a (1).PNG"
    directory = predict(f"checkpoint={model}", f"inputs={image}", "format=json")
    (record,) = json.loads((directory / "predictions.json").read_text(encoding="utf-8"))
    task = runs.load(model)
    with torch.no_grad():
        images = task.transform(image)
        error = float((task(images) - images).square().mean())
    assert record == {"file": str(image), "error": pytest.approx(error, rel=1e-5)}
    with Image.open(directory / "reconstructions.png") as picture:
        assert picture.height > picture.width, "the image is above its reconstruction"
    reconstruction = task.predict(image)
    assert (reconstruction.dtype, reconstruction.shape) == (torch.uint8, (1, 1, 32, 32))


def test_modules_that_know_nothing_of_blitz(untrained, predict):
    model = f"checkpoint={untrained(*WITHOUT_PARTS, *MODULES['boring'])}"
    found = rows(predict(model, "inputs=test") / "predictions.csv")
    assert list(found[0]) == ["index", "output/0", "output/1"]
    model = f"checkpoint={untrained(*WITHOUT_PARTS, *MODULES['autoencoder'])}"
    again = partial(predict, into="b")
    message = error_of(again, model, "inputs=val")
    assert message == "blitz-predict: LitAutoEncoder: it has neither predict_step nor forward; expected one of them"


def test_code_that_is_not_trusted(finished, predict, tmp_path):
    checkpoint = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["config"]["data"]["_target_"] = "os.system"
    torch.save(checkpoint, tmp_path / "model.ckpt")
    assert "config.data._target_=os.system is not trusted" in error_of(
        predict, f"checkpoint={tmp_path / 'model.ckpt'}", "inputs=test"
    )


def test_a_quick_check_does_not_limit_the_predictions(finished, predict, tmp_path):
    checkpoint = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["config"]["trainer"] |= {"fast_dev_run": True, "limit_predict_batches": 1}
    checkpoint["config"]["data"]["eval_batch_size"] = 100
    torch.save(checkpoint, tmp_path / "model.ckpt")
    directory = predict(f"checkpoint={tmp_path / 'model.ckpt'}", "inputs=test", "grid=0")
    assert len(rows(directory / "predictions.csv")) == 359
