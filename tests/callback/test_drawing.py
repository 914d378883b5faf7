"""The dashboards of a run: a real TensorBoard server receives the requests of its web page."""

import io
import json
import re
import subprocess
import sys
import time
import tracemalloc
import urllib.parse
import urllib.request
from collections import Counter

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn

import blitz.train
from blitz.callback.drawing import Drawing, Sample
from blitz.callback.mistakes import Mistakes
from blitz.callback.pr_curves import PRCurves
from blitz.errors import UserError
from blitz.process.signals import STOPPED
from tests import processes
from tests.conftest import call
from tests.test_foreign import BLOBS, WITHOUT_PARTS

NET = "{_target_: blitz.model.net.Net, in_channels: 1, num_classes: 10, image_size: 32}"
MODEL = (
    "model._target_=torch.nn.Sequential", f"+model._args_=[{{_target_: torch.nn.Dropout, p: 0.2}}, {NET}]",
    "~model.in_channels", "~model.num_classes", "~model.image_size",
)  # fmt: skip
RUN = (
    "seed=1", "device=cpu", "threads=1", "trainer.max_epochs=2", "trainer.limit_train_batches=6",
    "data.batch_size=64", "trainer.log_every_n_steps=2", "schedule=constant", "optimizer.lr=3e-3", *MODEL,
)  # fmt: skip
FULL = (*RUN, "callback/dashboard=full", "callback.histograms.every_n_steps=6")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the directory of a run that draws everything."""
    path = tmp_path_factory.mktemp("dashboard") / "run"
    with pytest.MonkeyPatch.context() as patch:
        call(patch, blitz.train.main, "blitz-train", *FULL, f"hydra.run.dir={path}")
    return path


@pytest.fixture(scope="module")
def get(run):
    """``get(path, **query)`` returns the answer of the server to a request: JSON, or bytes of another type."""
    options = ("--logdir", str(run.parent), "--port", "0", "--load_fast", "false")
    command = [sys.executable, "-m", "tensorboard.main", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        address = next(found[1] for line in server.stderr if (found := re.search(r"http://\S+?:(\d+)/", line)))

        def request(path, body=None, **query):
            url = f"http://127.0.0.1:{address}/data/{path}?{urllib.parse.urlencode(query)}"
            data = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json"}
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
                content = answer.read()
                return json.loads(content) if "json" in answer.headers["Content-Type"] else content

        try:
            for _ in range(120):
                if "test/acc" in request("plugin/scalars/tags").get("run", {}):
                    break
                time.sleep(0.5)
            yield request
        finally:
            server.terminate()


def _blob(get, entry):
    return get("plugin/images/individualImage", **dict(urllib.parse.parse_qsl(entry["query"])))


def colors(picture):
    """Return how many pixels of a picture are green, and how many are red."""
    red, green, blue = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8).view(-1, 3).T
    is_green = (green > 100) & (red < 60) & (blue < 60)
    return int(is_green.sum()), int(((red > 200) & (green < 60) & (blue < 60)).sum())


def test_first_group_of_curves_is_no_test(get):
    tags = list(get("plugin/scalars/tags")["run"])
    groups = sorted({tag.partition("/")[0] for tag in tags})
    assert groups == ["acc", "loss", "test", "train", "val"], "the page opens with the first two"
    assert {tag for tag in tags if tag.startswith(("acc", "loss", "test"))} == {
        "acc/train", "acc/val", "loss/train", "loss/val", "test/acc", "test/loss",
    }  # fmt: skip
    assert len(get("plugin/scalars/scalars", tag="loss/train", run="run")) == 2, "epochs"


def test_curves_of_the_training(get):
    def values(name):
        return [(step, value) for _, step, value in get("plugin/scalars/scalars", tag=f"train/{name}", run="run")]

    steps = [2, 4, 6, 8, 10, 12]
    assert values("lr") == [(step, pytest.approx(3e-3)) for step in steps]
    for name in ("gradient_norm", "samples_per_second", "seconds_per_step"):
        assert [step for step, _ in values(name)] == steps
        assert all(value > 0 for _, value in values(name))
    speed, seconds = values("samples_per_second"), values("seconds_per_step")
    assert [a * b for (_, a), (_, b) in zip(speed, seconds, strict=True)] == pytest.approx([64.0] * 6)
    if sys.platform == "linux":
        assert all(100 < value < 20_000 for _, value in values("memory_mib"))


def test_charts_hold_several_curves(get):
    layout = get("plugin/custom_scalars/layout")
    charts = {
        chart["title"]: chart["multiline"]["tag"] for category in layout["category"] for chart in category["chart"]
    }
    assert [category["title"] for category in layout["category"]] == ["train and val", "by class", "training"]

    def shown(title):
        found = [get("plugin/custom_scalars/scalars", tag=tag, run="run") for tag in charts[title]]
        return {tag for one in found for tag in one["tag_to_events"]}

    assert shown("loss") == {"loss/train", "loss/val"}
    assert shown("acc") == {"acc/train", "acc/val"}
    assert shown("val acc") == {f"val/acc/{digit}" for digit in range(10)}
    assert shown("lr") == {"train/lr"}


def test_hparams_show_hyper_parameters_and_final_figures(run, get):
    experiment = get("plugin/hparams/experiment", {"experimentName": ""})
    names = {info["name"].partition(".")[0] for info in experiment["hparamInfos"]}
    assert names == {"data", "model", "task", "optimizer", "trainer", "seed"}
    first = [info["name"]["tag"] for info in experiment["metricInfos"]][:5]
    assert first == ["acc/train", "acc/val", "loss/train", "loss/val", "test/acc"], "the page shows five"
    body = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "startIndex": 0, "sliceSize": 9}
    body["colParams"] = [{"metric": info["name"]} for info in experiment["metricInfos"]]
    (group,) = get("plugin/hparams/session_groups", body)["sessionGroups"]
    shown = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
    assert shown["test/acc"] == pytest.approx(json.loads((run / "metrics.json").read_text())["test/acc"])


def test_pictures(get):
    tags = get("plugin/images/tags")["run"]
    names = {
        f"{name}_{stage}" for name in ("confusion", "mistakes", "predictions", "filters") for stage in ("val", "test")
    }
    assert tags.keys() == {f"pictures/{name}" for name in {*names, "train_images"}}
    for tag in tags:
        shown = get("plugin/images/images", tag=tag, run="run", sample=0)
        assert [entry["step"] for entry in shown] == (
            [0] if tag.endswith("train_images") else [12] if tag.endswith("test") else [6, 12]
        )
        green, red = colors(Image.open(io.BytesIO(_blob(get, shown[-1]))))
        assert ("mistakes" in tag or "predictions" in tag) == (red > 0), "some predictions are wrong"
        assert ("predictions" in tag) == (green > 0), "and some are right"


def test_texts(run, get):
    def text(tag):
        return get("plugin/text/text", tag=f"{tag}/text_summary", run="run")[-1]["text"]

    assert "limit_train_batches: 6" in text("run/config")
    assert f"blitz-train reproduce={run}" in text("run/command")
    assert "blitz-train seed=1 device=cpu" in text("run/command")
    rows = [line.split(",") for line in (run / "per_class.csv").read_text().splitlines()]
    cells = re.findall(r"<td>(.*?)</td>", text("test/per_class"))
    assert [cells[i : i + 3] for i in range(0, len(cells), 4)] == [row[:3] for row in rows[1:]]
    assert "test/acc/9" in text("test/metrics")


def test_graph_and_histograms(get):
    assert b"Conv2d" in get("plugin/graphs/graph", run="run", limit_attr_size=1024, large_attrs_key="_too_large_attrs")
    tags = get("plugin/histograms/tags")["run"]
    assert {"weights/net.1.fc3.weight", "weights/net.1.fc3.weight.grad"} <= tags.keys()
    steps = [entry[1] for entry in get("plugin/histograms/histograms", tag="weights/net.1.fc3.bias", run="run")]
    assert steps == [0, 6]


def test_pr_curves(get):
    tags = get("plugin/pr_curves/tags")["run"]
    assert tags.keys() == {f"{stage}/{digit}" for stage in ("val", "test") for digit in range(10)}
    curve = get("plugin/pr_curves/pr_curves", tag="test/3", run="run")["run"][-1]
    counts = zip(curve["true_positives"], curve["false_negatives"], strict=True)
    assert {a + b for a, b in counts} == {37}, "the test has 37 threes"


def test_projector(run, get):
    config = get("plugin/projector/info", run="run")
    (embedding,) = config["embeddings"]
    vectors = get("plugin/projector/tensor", run="run", name=embedding["tensorName"])
    assert len(vectors) == 200 * 84 * 4, "float32, of the inputs of the last layer"
    labels = get("plugin/projector/metadata", run="run", name=embedding["tensorName"]).decode().split()
    assert len(labels) == 200
    assert set(labels) == set("0123456789")
    sprite = Image.open(io.BytesIO(get("plugin/projector/sprite_image", run="run", name=embedding["tensorName"])))
    assert sprite.size == (15 * 32, 15 * 32)


# -- the run itself ----------------------------------------------------------------------------------------------------


def state(run):
    checkpoint = torch.load(run / "checkpoints" / "resume.ckpt", weights_only=True)
    parts = (checkpoint["state_dict"], checkpoint["optimizer_states"], checkpoint["resume"]["random"])
    return [value.tolist() if isinstance(value, torch.Tensor) else value for part in parts for value in flat(part)]


def flat(node):
    if isinstance(node, dict | list | tuple):
        for value in node.values() if isinstance(node, dict) else node:
            yield from flat(value)
    else:
        yield node


def events(run):
    """Return every value in the event files, with its tag and step."""
    found = (event for path in sorted(run.glob("events.*")) for event in EventFileLoader(str(path)).Load())
    return [(value.tag, event.step, value.SerializeToString()) for event in found for value in event.summary.value]


def test_drawing_changes_no_weight_and_no_random_number(run, train):
    without = train(*RUN, "callback/dashboard=none")
    assert state(run) == state(without)
    assert (run / "metrics.json").read_bytes() == (without / "metrics.json").read_bytes()
    assert not [tag for tag, _, _ in events(without) if tag.startswith(("pictures", "run/", "train/lr"))]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process could handle")
def test_resumed_run_shows_everything_once(run, train, command, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        train(*FULL, "+callback.die={_target_: tests.test_foreign.Die, by: SIGTERM}")
    assert stopped.value.code == STOPPED
    command("blitz-train", f"resume={tmp_path / 'run'}")
    assert state(tmp_path / "run") == state(run)
    measured = ("_hparams_", "run/", "train/memory", "train/seconds", "train/samples")
    whole, resumed = (
        [event for event in events(one) if not event[0].startswith(measured)] for one in (run, tmp_path / "run")
    )
    assert Counter(event[:2] for event in resumed) == Counter(event[:2] for event in whole)
    assert sorted(resumed) == sorted(whole), "every picture, too"


def test_each_part_can_be_turned_off(train):
    parts = (
        "charts",
        "texts",
        "graph",
        "train_images",
        "confusion",
        "predictions",
        "filters",
        "projector",
        "pr_curves",
    )
    path = train(*RUN, "trainer.max_epochs=1", *(f"callback.{name}=null" for name in parts))
    tags = {tag for tag, _, _ in events(path)}
    assert "train/lr" in tags
    assert not {tag for tag in tags if tag.startswith(("pictures/c", "pictures/p", "pictures/f", "run", "val/0"))}
    assert not list(path.glob("projector*"))


@pytest.mark.parametrize("logger", ["none", "csv"])
def test_without_tensorboard_nothing_is_drawn(logger, train, monkeypatch):
    monkeypatch.setattr("blitz.plots.image_grid", None)
    monkeypatch.setattr("blitz.plots.confusion_matrix", None)
    path = train(*FULL, "trainer.max_epochs=1", f"logger={logger}")
    assert not list(path.glob("events*"))


def test_module_that_offers_nothing_runs(train):
    path = train(
        *WITHOUT_PARTS, "seed=3", "trainer.max_epochs=1",
        "optimized_metric=val_loss", "direction=min", "+task._target_=tests.foreign.LitAutoEncoder", BLOBS,
        "callback/dashboard=full", "trainer.log_every_n_steps=2",
    )  # fmt: skip
    tags = {tag for tag, _, _ in events(path)}
    assert {"train/gradient_norm", "train/lr", "val_loss", "run/config/text_summary"} <= tags
    assert not [tag for tag in tags if tag.startswith("pictures")]


def test_reconstructions_have_training_images_and_filters(train):
    """A task of another kind shows what it offers."""
    overrides = ("experiment=autoencode", "seed=1", "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    tags = {tag for tag, _, _ in events(train(*overrides, "callback/dashboard=full", "callback.histograms=null"))}
    assert {tag for tag in tags if tag.startswith("pictures")} == {
        "pictures/train_images", "pictures/filters_val", "pictures/filters_test",
    }  # fmt: skip


def test_two_processes(tmp_path):
    path = tmp_path / "run"
    arguments = (*FULL, "trainer.max_epochs=1", "device=ddp_cpu", f"hydra.run.dir={path}")
    done = processes.run(processes.TRAIN_WITH_FORKED_RANKS, *arguments)
    assert done.returncode == 0, done.stderr
    tags = Counter(tag for tag, step, _ in events(path))
    names = ("confusion_val", "mistakes_test", "predictions_test", "train_images")
    assert [tags[f"pictures/{name}"] for name in names] == [1, 1, 1, 1], "only the first rank draws"


# -- time and memory ---------------------------------------------------------------------------------------------------


class Trainer:
    """The part of a trainer that a drawing reads to know whether there is time."""

    class state:
        fn = "fit"


def test_drawings_share_their_time(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "process_time", lambda: clock[0])

    class Slow(Drawing):
        def draw(self, *_):
            clock[0] += 1

        def accepts(self, module):
            return True

    trainer, drawings = Trainer(), [Slow(0.03), Slow(0.03)]
    monkeypatch.setattr("blitz.callback.drawing.writers", lambda _: [None])
    trainer.sanity_checking, trainer.global_step = False, 0

    def drawn(fn):
        trainer.state.fn, before = fn, clock[0]
        for drawing in drawings:
            drawing._begin(trainer, None)
        for drawing in drawings:
            drawing._end(trainer, None, "val")
        return clock[0] - before

    assert drawn("fit") == 1, "a quarter of 3 % is 0.75 s; before the first drawing, it is assumed to be short"
    assert drawn("fit") == 0
    clock[0] = 110.0
    assert drawn("test") == 2, "at the end, all 3 %, which are 3.3 s"
    drawings[0].time_share = drawings[1].time_share = None
    assert drawn("fit") == 2


@pytest.mark.parametrize("share", [0, 1.5, -1])
def test_time_share_is_checked(share):
    with pytest.raises(UserError, match=f"time_share={share}: out of range; expected > 0 and <= 1, or null"):
        Mistakes(time_share=share)


class Task(nn.Module):
    """Four classes; a batch is its own pixels, labels and probabilities."""

    classes = ("a", "b", "c", "d")

    def batch_pixels(self, batch):
        return batch[0]

    def batch_captions(self, batch):
        return [""] * len(batch[0])

    def batch_predictions(self, batch, outputs):
        return batch[1], outputs


def test_a_thousand_epochs_keep_nothing():
    task, drawings = Task(), [Mistakes(), PRCurves()]
    batch, outputs = (torch.rand(8, 1, 4, 4), torch.randint(4, (8,))), torch.rand(8, 4).softmax(1)

    def epochs(n):
        for _ in range(n):
            for drawing in drawings:
                drawing.begin(task)
                drawing.collect(task, batch, outputs)
                drawing.collect(task, batch, outputs)
                drawing.end()

    tracemalloc.start()
    epochs(1500)  # until Python has filled its free lists
    before, _ = tracemalloc.get_traced_memory()
    epochs(1000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 50_000, "50 bytes an epoch"


def test_sample_has_as_many_of_each_class():
    """The files of a data set may be sorted by class."""
    sample = Sample(5, 3)
    batches = (torch.tensor([0, 0, 0, 1]), torch.tensor([], dtype=torch.long), torch.tensor([1, 1, 2, 2]))
    assert [sample.select(labels).tolist() for labels in batches] == [[0, 1, 3], [], [0, 2]]
    assert sample.missing == 0


def test_most_confident_mistakes_come_first():
    mistakes = Mistakes(images=2)
    pixels = torch.arange(6.0).view(6, 1, 1, 1)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    first = torch.tensor([0.9, 0.8, 0.3, 0.2, 0.4, 0.7])  # wrong: the second, third, fifth and sixth
    probabilities = torch.stack([first, 1 - first], 1)
    for rows in (slice(0, 3), slice(3, 6)):
        mistakes.collect(Task(), (pixels[rows], labels[rows]), probabilities[rows])
    found, truths, predicted, confidences = mistakes._worst
    assert found.flatten().tolist() == [1, 2]
    assert truths.tolist() == [1, 0]
    assert predicted.tolist() == [0, 1]
    assert confidences.tolist() == pytest.approx([0.8, 0.7])
