"""Run each lesson of the tour once, then check its results and its output."""

import contextlib
import hashlib
import io
import pickle
import re
import shutil
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from blitz.config.paths import PROJECT

TOUR = PROJECT / "scripts" / "tour"
CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASS_DIRECTORIES = ("airplane", "automobile", *CLASSES[2:])


def run(lesson, directory, replaced=(), **constants):
    """Return the lesson's variables and its output.

    Args:
        replaced: pairs of a text of the lesson and another text in its place.
        constants: values for constants of the lesson.
    """
    source = (TOUR / lesson).read_text(encoding="utf-8")
    for text, other in replaced:
        assert source.count(text) == 1
        source = source.replace(text, other)
    for name in constants:
        source, found = re.subn(rf"^{name} = .*$", f"{name} = given[{name!r}]", source, flags=re.MULTILINE)
        assert found == 1
    variables = {"__name__": "__main__", "given": constants}
    threads = torch.get_num_threads()
    with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.chdir(directory), torch.random.fork_rng():
        exec(compile(source, TOUR / lesson, "exec"), variables)
    torch.set_printoptions(sci_mode=None)
    torch.set_num_threads(threads)
    return SimpleNamespace(**variables, printed=stdout.getvalue(), directory=directory)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    return run("1_tensors.py", tmp_path_factory.mktemp("tour"))


@pytest.fixture(scope="module")
def autograd(tmp_path_factory):
    return run("2_autograd.py", tmp_path_factory.mktemp("tour"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return run("3_neural_networks.py", tmp_path_factory.mktemp("tour"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Run lesson 4 on a generated image folder, large enough for one loss line; the last batch is not full.

    Both loops print the line after 500 steps, which takes less time than 2,000.
    """
    directory = tmp_path_factory.mktemp("tour")
    image_folder(directory / "data/cifar10-jpeg", train=201, test=5)
    replaced = (
        ("if i % 2000 == 1999", "if i % 500 == 499"),
        ("running_loss / 2000", "running_loss / 500"),
        ('"logger=none",', '"logger=none", "callback.progress.every_n_steps=500",'),
    )
    return run("4_classifier.py", directory, replaced, DATA=directory / "data")


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """Run lesson 4 for two epochs on a generated archive in the official layout, with matching checksums."""
    directory = tmp_path_factory.mktemp("tour")
    base = directory / "data/cifar-10-batches-py"
    base.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    files = {"batches.meta": {"label_names": list(CLASS_DIRECTORIES)}}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = (torch.randperm(40, generator=generator) % 10).tolist()
        files[name] = {"data": photographs(labels, generator).flatten(1).numpy(), "labels": labels}
    sums = {}
    for name, content in files.items():
        raw = pickle.dumps(content)
        (base / name).write_bytes(raw)
        sums[name] = hashlib.md5(raw).hexdigest()
    lists = [[name, sums[name]] for name in files if "batch_" in name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.datasets.CIFAR10.train_list", lists)
        patch.setattr("torchvision.datasets.CIFAR10.test_list", [["test_batch", sums["test_batch"]]])
        meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
        patch.setattr("torchvision.datasets.CIFAR10.meta", meta)
        return run("4_classifier.py", directory, DATA=directory / "data", EPOCHS=2)


def image_folder(path, **images):
    """Create an image folder; ``images`` gives the number of images per class for each split."""
    generator = torch.Generator().manual_seed(0)
    for split, n in images.items():
        for label, name in enumerate(CLASS_DIRECTORIES):
            folder = path / split / name
            folder.mkdir(parents=True)
            for i, picture in enumerate(photographs([label] * n, generator)):
                Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{i:04}.jpg")


def photographs(labels, generator):
    """Return noise, uint8 ``(n, 3, 32, 32)``, with a bright corner whose position and colour depend on the class."""
    pictures = torch.randint(0, 130, (len(labels), 3, 32, 32), generator=generator)
    for picture, label in zip(pictures, labels, strict=True):
        picture[label % 3, 8 * (label % 4) :, 2 * label :] += 120
    return pictures.to(torch.uint8)


@pytest.fixture(scope="module")
def parallelism(tmp_path_factory):
    return run("5_data_parallelism.py", tmp_path_factory.mktemp("tour"))


def between(text, start, end):
    return text.split(start, 1)[1].split(end, 1)[0]


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+(?:e[+-]\d+)?", text)]


# Lesson 1


def test_install_check(tensors):
    drawn = numbers(tensors.printed.split("CUDA")[0])
    assert len(drawn) == 15
    assert all(0 <= number < 1 for number in drawn)
    assert f"CUDA is available: {torch.cuda.is_available()}\n" in tensors.printed
    assert f"MPS is available: {torch.backends.mps.is_available()}\n" in tensors.printed


def test_tensor_creation(tensors):
    assert len(between(tensors.printed, "empty: ", "rand: ").splitlines()) == 5
    drawn = numbers(between(tensors.printed, "rand: ", "zeros: "))
    assert len(drawn) == 15
    assert all(0 <= number < 1 for number in drawn)
    assert re.findall(r"\d\S?", between(tensors.printed, "zeros: ", "tensor: ")) == ["0,", "0,", "0]"] * 5
    assert "tensor: tensor([5.5000, 3.0000])\n" in tensors.printed


def test_tensor_created_from_another(tensors):
    assert tensors.ones.dtype == torch.float64
    assert torch.equal(tensors.ones, torch.ones(5, 3, dtype=torch.float64))
    assert "[1., 1., 1.]], dtype=torch.float64)\nrandn_like: tensor([[" in tensors.printed
    assert tensors.x.dtype == torch.float32


def test_size_unpacks_like_a_tuple(tensors):
    assert isinstance(tensors.x.size(), tuple)
    assert "torch.Size([5, 3])\n5 rows, 3 columns\n" in tensors.printed


def test_all_four_additions_are_equal(tensors):
    x = np.array(numbers(between(tensors.printed, "randn_like: ", "torch.Size"))).reshape(5, 3)
    for result in (tensors.by_operator, tensors.by_function, tensors.into_out, tensors.x):
        np.testing.assert_allclose(result.numpy(), x + tensors.y.numpy(), atol=1e-4)
    for name in ("x + y", "torch.add(x, y)", "out", "x"):
        assert f"\n{name} = {tensors.by_operator}\n" in tensors.printed


def test_indexing_and_views(tensors):
    assert f"{tensors.x[:, 0]}\ntorch.Size([4, 4]) torch.Size([16]) torch.Size([2, 8])\n" in tensors.printed
    assert tensors.square.data_ptr() == tensors.flat.data_ptr() == tensors.wide.data_ptr()


def test_item_is_a_python_number(tensors):
    assert isinstance(tensors.single.item(), float)
    assert f"{tensors.single}\n{tensors.single.item()}\n" in tensors.printed


def test_numpy_shares_memory_both_ways(tensors):
    to_numpy = "tensor([2., 2., 2., 2., 2.])\n[2. 2. 2. 2. 2.]\n"
    from_numpy = "[2. 2. 2. 2. 2.]\ntensor([2., 2., 2., 2., 2.], dtype=torch.float64)\n"
    assert to_numpy + from_numpy in tensors.printed


def test_across_devices_and_dtypes(tensors):
    assert tensors.total.device.type == tensors.device.type
    assert tensors.single.device.type == "cpu"
    assert tensors.printed.endswith(f"{tensors.total}\n{(tensors.single + 1).double()}\n")


# Lesson 2


def test_operations_have_a_grad_fn(autograd):
    assert "[1., 1.]], requires_grad=True)\n" in autograd.printed
    assert re.search(r"\[3., 3.\]\], grad_fn=<AddBackward0>\)\n<AddBackward0 object at \w+>\nNone\n", autograd.printed)
    assert "z = tensor([[27., 27.],\n        [27., 27.]], grad_fn=<MulBackward0>)\n" in autograd.printed
    assert "out = tensor(27., grad_fn=<MeanBackward0>)\n" in autograd.printed


def test_requires_grad_in_place(autograd):
    assert re.search(r"\nFalse\nTrue\n<SumBackward0 object at \w+>\n", autograd.printed)


def test_gradient_is_four_and_a_half_everywhere(autograd):
    assert "\ntensor([[4.5000, 4.5000],\n        [4.5000, 4.5000]])\n" in autograd.printed


def test_vector_jacobian_product(autograd):
    norm = autograd.x.detach().norm() * 2**autograd.doublings
    assert norm / 2 < 1000 <= norm
    assert torch.equal(autograd.x.grad, 2**autograd.doublings * torch.tensor([0.1, 1.0, 0.0001]))
    answer = "tensor([ 102.4000, 1024.0000,    0.1024])\n"
    assert f"\n{answer}2^10 v = {answer}" in autograd.printed


def test_disabled_gradients(autograd):
    assert autograd.printed.endswith("\nTrue\nTrue\nFalse\nFalse\ntensor(True)\n")
    assert autograd.y.data_ptr() == autograd.x.data_ptr()


# Lesson 3


def test_structure_of_the_network(networks):
    assert networks.printed.startswith("def forward(self, ")
    assert (
        "\nNet(\n"
        "  (conv1): Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1))\n"
        "  (conv2): Conv2d(6, 16, kernel_size=(5, 5), stride=(1, 1))\n"
        "  (fc1): Linear(in_features=400, out_features=120, bias=True)\n"
        "  (fc2): Linear(in_features=120, out_features=84, bias=True)\n"
        "  (fc3): Linear(in_features=84, out_features=10, bias=True)\n"
        ")\n"
        "Number of parameters: 10\n"
        "conv1's weight: torch.Size([6, 1, 5, 5])\n"
        "torch.Size([1, 1, 32, 32])\n"
    ) in networks.printed


def test_output_and_loss(networks):
    assert networks.out.shape == networks.target.shape == (1, 10)
    expected = ((networks.out - networks.target) ** 2).mean().item()
    assert f"\ntensor({expected:.4f}, grad_fn=<MseLossBackward0>)\n" in networks.printed


def test_chain_of_functions(networks):
    names = ("MseLossBackward0", "AddmmBackward0", "AccumulateGrad", "ReluBackward0", "TBackward0")
    assert re.search(r"\s+".join(f"<{name} object at \\w+>" for name in names), networks.printed)

    assert "\n-> ".join(networks.chain) + "\n" in networks.printed
    chain = [name.removesuffix("Backward0") for name in networks.chain]
    assert chain[:6] == ["MseLoss", "Addmm", "Relu", "Addmm", "Relu", "Addmm"]
    assert chain[-1] == "Convolution"
    assert [chain.count(name) for name in ("Convolution", "MaxPool2DWithIndices", "Relu", "Addmm")] == [2, 2, 4, 3]


def test_backward_fills_the_gradient(networks):
    start = networks.start  # the weights of that backward pass
    loss = nn.functional.mse_loss(start(networks.input), networks.target)
    (gradient,) = torch.autograd.grad(loss, start.conv1.bias)
    assert gradient.abs().max() > 1e-3
    before, after = "conv1.bias.grad before backward\nNone\n", "conv1.bias.grad after backward\n"
    assert numbers(between(networks.printed, before + after, "])")) == pytest.approx(gradient.tolist(), abs=1e-4)


def test_sgd_by_hand_equals_torch(networks):
    step = networks.by_hand.conv1.bias - networks.start.conv1.bias
    gradient = numbers(between(networks.printed, "after backward\n", "])"))
    assert step.tolist() == pytest.approx([-0.01 * g for g in gradient], abs=1e-6)
    assert networks.difference < 1e-7
    assert f"Largest difference between the two: {networks.difference:.1e}\n" in networks.printed


def test_four_optimizers_on_one_problem(networks):
    losses = networks.losses
    assert list(losses) == ["SGD", "Nesterov", "Adam", "RMSProp"]
    assert len({curve[0] for curve in losses.values()}) == 1
    for name, curve in losses.items():
        assert len(curve) == 100
        assert curve[-1] < 1e-3 * curve[0]
        assert f"{name:>8}: loss {curve[0]:.4f} -> {curve[-1]:.1e}\n" in networks.printed
    assert all(losses[name][25] < 0.1 * losses["SGD"][25] for name in ("Nesterov", "Adam", "RMSProp"))
    assert min(losses["RMSProp"]) < 0.1 * losses["RMSProp"][-1]  # it does not converge


def test_saved_plot_of_the_optimizers(networks):
    (axes,) = networks.figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines] == list(networks.losses.values())
    assert [label.get_text() for label in axes.texts] == list(networks.losses)
    assert plt.imread(networks.directory / "logs/tour/optimizers.png").shape == (675, 1200, 4)


# Lesson 4


@pytest.mark.parametrize("lesson", ["classifier", "two_epochs"])
def test_template_ends_with_the_same_weights(lesson, request):
    lesson = request.getfixturevalue(lesson)
    torch.manual_seed(0)
    before, by_hand, by_template = (
        nn.utils.parameters_to_vector(net.parameters()) for net in (lesson.Net(), lesson.net, lesson.task.net)
    )
    assert (by_hand - before).abs().max() > 1e-3
    assert torch.equal(by_hand, by_template)
    assert lesson.trainer.global_step == lesson.EPOCHS * -(-len(lesson.trainset) // 4)
    for name in ("first batch", "weights before training", "weights after training", "counts"):
        assert f"The same {name}: True\n" in lesson.printed


def test_command_line_ends_with_the_same_weights(tmp_path, train):
    image_folder(tmp_path / "cifar10-jpeg", train=9, test=1)
    lesson = run("4_classifier.py", tmp_path, DATA=tmp_path, EPOCHS=2)
    root = f"data.root={tmp_path / 'cifar10-jpeg'}"
    bit_identical = ("device=cpu", "seed=0", "channels_last=false", "optimizer.fused=false")
    run_dir = train("experiment=cifar10_tutorial", "data=image_folder", root, *bit_identical)
    state = torch.load(run_dir / "checkpoints/resume.ckpt", weights_only=True)["state_dict"]
    for name, weight in lesson.net.state_dict().items():
        torch.testing.assert_close(state[f"net.{name}"], weight, rtol=0, atol=0)


def test_data_source_is_printed(classifier, two_epochs):
    data = classifier.directory / "data"
    assert classifier.printed.startswith(f"ImageFolder in {data / 'cifar10-jpeg'}: 2010 + 50 images\n")
    assert two_epochs.printed.startswith(f"CIFAR10 in {two_epochs.directory / 'data'}: 200 + 40 images\n")


def test_images_are_in_minus_one_to_one(classifier):
    values = torch.stack([classifier.trainset[i][0] for i in range(20)])
    assert -1 <= values.min() < -0.9
    assert 0.9 < values.max() <= 1


def test_loss_lines(classifier, two_epochs):
    """The loop and the template print the same line, in the tutorial's format."""
    first, second = re.findall(r"^\[1,   500\] loss: (\d\.\d{3})$", classifier.printed, re.MULTILINE)
    assert first == second
    assert float(first) < 2.303  # ln 10: the loss of a uniform guess
    assert "loss: " not in two_epochs.printed


@pytest.mark.parametrize("lesson", ["classifier", "two_epochs"])
def test_ground_truth_and_predictions_of_four_images(lesson, request):
    lesson = request.getfixturevalue(lesson)
    images, labels = zip(*(lesson.testset[i] for i in range(4)), strict=True)
    logits = lesson.task.net(torch.stack(images))
    truth, guesses = (" ".join(f"{CLASSES[i]:>5}" for i in row) for row in (labels, logits.argmax(1)))
    assert f"\nGroundTruth: {truth}\nPredicted:   {guesses}\n" in lesson.printed


def test_classes_of_an_image_folder_alternate(classifier):
    assert "\nGroundTruth: plane   car  bird   cat\n" in classifier.printed


@pytest.mark.parametrize("lesson", ["classifier", "two_epochs"])
def test_accuracy_by_class(lesson, request):
    lesson = request.getfixturevalue(lesson)
    total, correct = [0] * 10, [0] * 10
    for image, label in lesson.testset:
        total[label] += 1
        correct[label] += int(lesson.net(image[None]).argmax()) == label
    assert lesson.total.tolist() == total
    assert lesson.correct.tolist() == correct
    assert sum(total) == len(lesson.testset)
    assert f"on the {sum(total)} test images: {100 * sum(correct) / sum(total):.0f} %\n" in lesson.printed
    for name, right, count in zip(CLASSES, correct, total, strict=True):
        assert f"\nAccuracy of {name:>5} : {100 * right / count:2.0f} %\n" in lesson.printed


def test_the_network_has_learned(classifier):
    assert classifier.correct.sum() > 0.5 * classifier.total.sum()


def test_saved_images_of_the_classifier(classifier):
    for name in ("training_images.png", "test_images.png"):
        assert plt.imread(classifier.directory / "logs/tour" / name).shape == (345, 1200, 4)
    right = "#2a9d8f"
    assert [colour == right for colour in classifier.colours] == [caption in CLASSES for caption in classifier.captions]


def test_classifier_on_real_images(cifar10_folder, tmp_path):
    for name in CLASS_DIRECTORIES:
        for split, n in (("train", 12), ("test", 3)):
            (tmp_path / "cifar10-jpeg" / split / name).mkdir(parents=True)
            for path in sorted((cifar10_folder / split / name).glob("*.jpg"))[:n]:
                shutil.copy(path, tmp_path / "cifar10-jpeg" / split / name)
    lesson = run("4_classifier.py", tmp_path, DATA=tmp_path, STEPS=20)
    assert lesson.printed.count(": True\n") == 4
    assert lesson.trainer.global_step == 20
    assert lesson.total.tolist() == [3] * 10


def test_missing_data_without_network_exits_with_one_line_of_advice(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(SystemExit) as stop:
        run("4_classifier.py", tmp_path, DATA=tmp_path / "data")
    message = str(stop.value)
    assert message.startswith(f"CIFAR-10 is not in {tmp_path / 'data'} and cannot be downloaded (")
    assert message.endswith(
        "): put cifar-10-python.tar.gz there, "
        "or its images as cifar10-jpeg/train/<class>/*.jpg and cifar10-jpeg/test/<class>/*.jpg"
    )
    assert "\n" not in message


# Lesson 5


@pytest.mark.parametrize(
    ("devices", "full", "rest"),
    [
        (1, [30], [10]),
        (2, [15, 15], [5, 5]),
        (3, [10, 10, 10], [4, 4, 2]),
        (8, [4, 4, 4, 4, 4, 4, 4, 2], [2, 2, 2, 2, 2]),
    ],
)
def test_sizes_of_the_slices(parallelism, devices, full, rest):
    tables = re.split(r"Let's use \d .*!\n", parallelism.printed.split("The whole batch")[0])
    printed = tables[[1, 2, 3, 8].index(devices)].splitlines()

    expected = []
    for slices in (full, full, full, rest):
        expected += [f"\tIn Model: input size torch.Size([{n}, 5]) output size torch.Size([{n}, 2])" for n in slices]
        n = sum(slices)
        expected += [f"Outside: input size torch.Size([{n}, 5]) output_size torch.Size([{n}, 2])"]

    if 1 < devices <= torch.cuda.device_count():  # GPUs print in any order
        printed, expected = sorted(printed), sorted(expected)
    assert printed == expected


def test_devices_are_printed(parallelism):
    gpus = torch.cuda.device_count()
    names = [f"{n} GPUs" if n <= gpus else f"{n} replicas on the CPU" for n in (2, 3, 8)]
    assert re.findall(r"Let's use (.*)!\n", parallelism.printed) == names


def test_slices_join_to_the_same_output(parallelism):
    assert torch.allclose(parallelism.joined, parallelism.expected)
    assert parallelism.printed.endswith("The same output: True\n")


# All lessons


def test_paths_in_the_tour_exist():
    texts = [path.read_text(encoding="utf-8") for path in [*TOUR.glob("*.py"), PROJECT / "docs/tour.md"]]
    named = {name for text in texts for name in re.findall(r"`((?:src|configs|docs|scripts)/[\w/.]*)`", text)}
    assert len(named) > 10
    assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []
