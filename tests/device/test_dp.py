"""dp against one device: same splits as the tutorial's, same gradients, weights, metrics and checkpoints."""

import copy
import sys
import threading
from collections import namedtuple
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from blitz.device import dp
from blitz.device.dp import CudaDataParallel, DataParallelStrategy, VirtualDataParallel
from blitz.errors import UserError

SAMPLES, BATCH = 29, 8  # three full batches and one of 5, which splits 3 + 2 over 2 devices and 2 + 2 + 1 over 3
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


class Net(nn.Module):
    """A network without operations across samples. Two layers share a weight, and one has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.hidden = nn.Linear(16, 16)
        self.again = nn.Linear(16, 16)
        self.again.weight = self.hidden.weight
        self.head = nn.Linear(16, 3)
        self.seen: list[tuple[int, torch.dtype, int]] = []  # (samples, dtype, thread) of every forward pass

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).flatten(1)
        x = self.head(torch.tanh(self.again(torch.tanh(self.hidden(x)))))
        self.seen.append((len(x), x.dtype, threading.get_ident()))
        return x


class NormNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


class Task(LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        for stage in ("train", "val", "test"):
            setattr(self, f"{stage}_acc", MulticlassAccuracy(3, average="micro"))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits = self(x.to(self.dtype))
        assert len(logits) == len(y)
        loss = F.cross_entropy(logits, y)
        accuracy = getattr(self, f"{stage}_acc")
        accuracy(logits, y)
        self.log(f"{stage}/loss", loss, on_epoch=True, on_step=False, batch_size=len(y))
        self.log(f"{stage}/acc", accuracy, on_epoch=True, on_step=False)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return self.step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.step("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.step("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return self(batch[0].to(self.dtype))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, 1, 4, 4, generator=generator)
    y = torch.randint(3, (SAMPLES,), generator=generator)
    return DataLoader(TensorDataset(x, y), BATCH)


def make_task(net: type[nn.Module] = Net) -> Task:
    torch.manual_seed(0)
    return Task(net())


def trainer(devices: int | list[int], epochs: int = 2, **kwargs: Any) -> Trainer:
    strategy = DataParallelStrategy() if devices != 1 else "auto"
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {
        "accelerator": "cpu",
        "devices": devices,
        "strategy": strategy,
        "max_epochs": epochs,
        "log_every_n_steps": 1,
    }
    return Trainer(**quiet | options | kwargs)


def listing(*devices: str) -> DataParallelStrategy:
    """A strategy with these devices, whatever the Trainer's are."""
    strategy = DataParallelStrategy()
    strategy.parallel_devices = [torch.device(device) for device in devices]
    return strategy


def sizes(net: nn.Module) -> list[int]:
    return [seen[0] for seen in net.seen]


def difference(ours: nn.Module, reference: nn.Module) -> float:
    """The largest absolute difference of any two weights or buffers."""
    a, b = ours.state_dict(), reference.state_dict()
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


# -- VirtualDataParallel by itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "replicas", "expected"),
    [
        (30, 2, [15, 15]),
        (10, 2, [5, 5]),
        (30, 3, [10, 10, 10]),
        (10, 3, [4, 4, 2]),
        (30, 8, [4, 4, 4, 4, 4, 4, 4, 2]),
        (10, 8, [2, 2, 2, 2, 2]),
        (1, 8, [1]),
        (30, 1, [30]),
    ],
)
def test_splits_as_the_tutorial_prints_them(batch: int, replicas: int, expected: list[int]) -> None:
    net = Net()
    x = torch.randn(batch, 1, 4, 4)
    output = VirtualDataParallel(net, replicas)(x)
    assert sizes(net) == expected
    torch.testing.assert_close(output, net(x))


@pytest.mark.parametrize("replicas", [2, 3, 8])
@pytest.mark.parametrize("samples", [30, 10, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_equal_one_device(replicas: int, samples: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = Net().to(dtype)
    reference = copy.deepcopy(net)
    x, y = torch.randn(samples, 1, 4, 4, dtype=dtype), torch.randint(3, (samples,))
    F.cross_entropy(VirtualDataParallel(net, replicas)(x), y).backward()
    F.cross_entropy(reference(x), y).backward()
    for ours, expected in zip(net.parameters(), reference.parameters(), strict=True):
        assert ours.grad is not None
        assert (ours.grad - expected.grad).abs().max() <= TOLERANCE[dtype]


def test_batchnorm_sees_shards_and_keeps_the_statistics_of_the_first() -> None:
    torch.manual_seed(0)
    net, x, y = NormNet(), torch.randn(10, 1, 4, 4), torch.randint(3, (10,))
    one_device = copy.deepcopy(net)
    shards = [copy.deepcopy(net) for _ in range(3)]

    F.cross_entropy(VirtualDataParallel(net, 3)(x), y).backward()
    F.cross_entropy(torch.cat([n(part) for n, part in zip(shards, x.split([4, 4, 2]), strict=True)]), y).backward()
    F.cross_entropy(one_device(x), y).backward()

    for ours, *parts in zip(net.parameters(), *(n.parameters() for n in shards), strict=True):
        torch.testing.assert_close(ours.grad, sum(part.grad for part in parts), atol=1e-6, rtol=0)
    assert difference(net, shards[0]) == 0  # the buffers: the weights have not moved
    assert difference(net, one_device) > 1e-3
    gradients = zip(net.parameters(), one_device.parameters(), strict=True)
    assert max((a.grad - b.grad).abs().max() for a, b in gradients) > 1e-3


Pair = namedtuple("Pair", "total rows")


class Trees(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.lstm = nn.LSTM(2, 3, batch_first=True)

    def forward(self, x: dict[str, Tensor], scale: float, *, offset: Tensor) -> dict[str, Any]:
        assert not list(self.parameters())  # as in nn.DataParallel, a replica has none
        self.calls += 1
        rows = x["x"] * scale + offset
        return {"pair": Pair(rows.sum(), rows), "list": [self.lstm(rows)[0], None]}


def test_nested_arguments_and_outputs() -> None:
    net = Trees()
    x, offset = torch.randn(5, 4, 2), torch.randn(5, 4, 2)
    output = VirtualDataParallel(net, 3)({"x": x}, 2.0, offset=offset)
    rows = x * 2 + offset
    assert isinstance(output["pair"], Pair)
    torch.testing.assert_close(output["pair"].rows, rows)
    torch.testing.assert_close(output["pair"].total, torch.stack([part.sum() for part in rows.chunk(3)]))
    torch.testing.assert_close(output["list"][0], net.lstm(rows)[0])
    assert output["list"][1] is None
    assert net.calls == 0


def test_a_call_without_tensors_runs_once() -> None:
    class Mean(Net):
        def forward(self) -> Tensor:
            return self.head.weight.mean(0)

    net = Mean()
    assert torch.equal(VirtualDataParallel(net, 3)(), net())


def test_no_gradients_where_the_caller_wants_none() -> None:
    net, x = Net(), torch.randn(4, 1, 4, 4)
    with torch.no_grad():
        assert not VirtualDataParallel(net, 2)(x).requires_grad
    with torch.inference_mode():
        assert VirtualDataParallel(net, 2)(x).is_inference()


def test_replicas_must_be_positive() -> None:
    with pytest.raises(UserError, match="replicas=0: not a valid number; expected a whole number >= 1"):
        VirtualDataParallel(Net(), 0)


# -- Trainer runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [2, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.05}],
    ids=["plain", "accumulate", "clip"],
)
def test_two_epochs_end_in_the_weights_of_one_device(devices: int, dtype: torch.dtype, options: dict[str, Any]) -> None:
    options = options | {"precision": "64-true" if dtype == torch.float64 else "32-true"}
    start, ours, reference = make_task(), make_task(), make_task()
    trainer(devices, **options).fit(ours, loader())
    trainer(1, **options).fit(reference, loader())
    shards = {2: [4, 4] * 3 + [3, 2], 3: [3, 3, 2] * 3 + [2, 2, 1], 8: [1] * 29}[devices]
    assert sizes(ours.net) == shards * 2
    assert difference(ours, start) > 1e-2
    assert difference(ours, reference) <= TOLERANCE[dtype]


def test_options_change_the_reference_too() -> None:
    """Otherwise equal weights with accumulation or clipping would say nothing."""
    plain, accumulated, clipped = make_task(), make_task(), make_task()
    trainer(1).fit(plain, loader())
    trainer(1, accumulate_grad_batches=3).fit(accumulated, loader())
    trainer(1, gradient_clip_val=0.05).fit(clipped, loader())
    assert difference(plain, accumulated) > 1e-3
    assert difference(plain, clipped) > 1e-3


def test_batchnorm_through_fit_equals_the_per_shard_loop() -> None:
    ours, reference = make_task(NormNet), make_task(NormNet)
    trainer(2).fit(ours, loader())
    optimizer = reference.configure_optimizers()
    for _ in range(2):
        for x, y in loader():
            norm = reference.net[2]
            outputs = []
            for index, shard in enumerate(x.chunk(2)):
                norm.track_running_stats = index == 0
                outputs.append(reference.net(shard))
            norm.track_running_stats = True
            optimizer.zero_grad()
            F.cross_entropy(torch.cat(outputs), y).backward()
            optimizer.step()
    assert difference(ours.net, reference.net) <= 1e-6


def test_every_stage_equals_one_device() -> None:
    results, tasks = [], []
    for devices in (1, 3):
        task, run = make_task(), trainer(devices)
        run.fit(task, loader(), loader())
        metrics = dict(run.callback_metrics)
        metrics |= run.validate(task, loader(), verbose=False)[0] | run.test(task, loader(), verbose=False)[0]
        metrics["predict"] = torch.cat(run.predict(task, loader()))
        results.append(metrics)
        tasks.append(task)
    logged = {f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "acc")}
    assert results[0].keys() == logged | {"predict"}
    assert results[0]["predict"].shape == (SAMPLES, 3)
    torch.testing.assert_close(results[1], results[0], atol=1e-6, rtol=0)
    epochs = 2 + 2 + 3  # fit with validation, validate, test, predict; the sanity check adds two batches
    assert sizes(tasks[0].net) == [8, 8] + [8, 8, 8, 5] * epochs
    assert sizes(tasks[1].net) == [3, 3, 2] * 2 + ([3, 3, 2] * 3 + [2, 2, 1]) * epochs


def test_bf16_mixed_stays_bf16_in_the_replicas() -> None:
    task = make_task()
    trainer(3, epochs=1, precision="bf16-mixed").fit(task, loader())
    assert {dtype for _, dtype, _ in task.net.seen} == {torch.bfloat16}
    assert {p.dtype for p in task.parameters()} == {torch.float32}


def test_the_net_is_itself_for_everyone_else() -> None:
    class Inspect(Task):
        def on_train_epoch_end(self) -> None:
            self.inside = (isinstance(self.net, Net), list(self.net.state_dict()), self.net.training)
            self.copied = copy.deepcopy(self.net)

    task = Inspect(Net())
    names = list(task.net.state_dict())
    trainer(3, epochs=1).fit(task, loader())
    assert task.inside == (True, names, True)
    assert type(task.net) is Net
    assert vars(task.net).keys() == vars(Net()).keys()
    # a copy made while training, as weight averaging does, runs on its own weights
    x = torch.randn(4, 1, 4, 4)
    nn.init.zeros_(task.net.head.weight)
    nn.init.zeros_(task.net.head.bias)
    assert task.net(x).abs().max() == 0
    assert task.copied(x).abs().max() > 0


def test_hooks_of_the_net_see_each_shard_and_the_whole_batch() -> None:
    """Those of its layers see the shards alone, as in nn.DataParallel."""
    net, seen = Net(), []
    net.register_forward_hook(lambda module, args, output: seen.append(("net", len(output))))
    net.head.register_forward_hook(lambda module, args, output: seen.append(("head", len(output))))
    trainer(2, epochs=1, limit_train_batches=1).fit(Task(net), loader())
    assert seen == [("head", 4), ("net", 4)] * 2 + [("net", 8)]


def test_a_failed_run_leaves_a_plain_net() -> None:
    class Broken(Net):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("broken net")

    task = make_task(Broken)
    with pytest.raises(RuntimeError, match="broken net"):
        trainer(2).fit(task, loader())
    assert type(task.net) is Broken
    assert "forward" not in vars(task.net)


def test_replicas_share_a_device_that_is_listed_twice() -> None:
    task = make_task()
    trainer(1, epochs=1, strategy=listing("cpu", "cpu")).fit(task, loader())
    assert sizes(task.net) == [4, 4, 4, 4, 4, 4, 3, 2]


# -- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 2)])
def test_a_checkpoint_resumes_on_another_number_of_devices(before: int, after: int, tmp_path: Path) -> None:
    first, second, reference = make_task(), make_task(), make_task()
    run = trainer(before, epochs=1)
    run.fit(first, loader())
    run.save_checkpoint(tmp_path / "one.ckpt")
    resumed = trainer(after, epochs=2)
    resumed.fit(second, loader(), ckpt_path=tmp_path / "one.ckpt")
    trainer(1, epochs=2).fit(reference, loader())
    assert resumed.global_step == 8
    assert len(second.net.seen) == len(loader()) * after  # the second epoch alone
    assert difference(second, reference) <= 1e-6


def test_a_checkpoint_has_the_keys_of_one_device(tmp_path: Path) -> None:
    def names(tree: Any) -> Any:
        return {key: names(value) for key, value in tree.items()} if isinstance(tree, dict) else None

    checkpoints = []
    for devices in (1, 3):
        run = trainer(devices, epochs=1, default_root_dir=tmp_path / str(devices), enable_checkpointing=True)
        run.fit(make_task(), loader())  # ModelCheckpoint saves while the net is parallel
        checkpoints.append(torch.load(run.checkpoint_callback.best_model_path, weights_only=True))
    single, ours = checkpoints
    assert list(ours["state_dict"]) == list(single["state_dict"]) == list(make_task().state_dict())
    assert names(ours["optimizer_states"][0]["state"]) == names(single["optimizer_states"][0]["state"])
    assert ours.keys() == single.keys()


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_nodes": 2}, r"trainer.num_nodes=2: dp runs on one machine; expected 1, or device=ddp"),
        ({"sync_batchnorm": True}, r"trainer.sync_batchnorm=true: .*; expected device=ddp"),
        ({"devices": 1}, r"at least two devices, got 1; raise trainer.devices, or use device=gpu or cpu"),
    ],
)
def test_the_trainer_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        trainer(**{"devices": 2, "strategy": DataParallelStrategy()} | options)
    assert "\n" not in str(error.value)


def test_several_processes_are_refused() -> None:
    class Two(LightningEnvironment):
        def world_size(self) -> int:
            return 2

    with pytest.raises(UserError, match="one process for all devices, got 2; expected one, or device=ddp"):
        trainer(2, plugins=[Two()])


def compiled_in_place(task: Task) -> Task:
    task.net.conv.compile()
    return task


def compiled_net(task: Task) -> Task:
    task.net = torch.compile(task.net)
    return task


def compiled_forward(task: Task) -> Task:
    task.net.forward = torch.compile(task.net.forward)
    return task


@pytest.mark.parametrize("form", [compiled_in_place, compiled_net, compiled_forward])
def test_a_compiled_net_is_refused(form: Any) -> None:
    with pytest.raises(UserError, match=r"dp cannot copy a compiled 'net'; .*or device=ddp"):
        trainer(2).fit(form(make_task()), loader())


def test_a_task_without_the_net_is_refused() -> None:
    with pytest.raises(UserError, match="module=backbone: no submodule of Task; expected one of net, train_acc"):
        trainer(2, strategy=DataParallelStrategy("backbone")).fit(make_task(), loader())


# -- GPUs, played by the CPU ---------------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs as far as Lightning and torch's Python code can tell; the threads are real, the tensors on the CPU."""
    module = sys.modules["torch.nn.parallel.data_parallel"]
    for name in ("lightning.fabric.accelerators.cuda", "lightning.pytorch.accelerators.cuda"):
        monkeypatch.setattr(f"{name}.num_cuda_devices", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("lightning.pytorch.accelerators.cuda.CUDAAccelerator.setup_device", lambda self, device: None)
    monkeypatch.setattr(module, "_get_available_device_type", lambda: "cuda")
    monkeypatch.setattr(module, "_check_balance", lambda device_ids: None)

    def scatter_kwargs(args: Any, kwargs: Any, device_ids: list[int], dim: int) -> Any:
        return tuple(zip(*dp.scatter((args, kwargs), len(device_ids)), strict=True))

    def replicate(net: nn.Module, device_ids: list[int], detach: bool) -> list[nn.Module]:
        return [dp.replicate(net, own_buffers=index == 0) for index in device_ids]

    monkeypatch.setattr(module, "scatter_kwargs", scatter_kwargs)
    monkeypatch.setattr(module, "replicate", replicate)
    monkeypatch.setattr(module, "gather", lambda outputs, device, dim: dp.gather(outputs))
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("cpu"))
    monkeypatch.setattr("torch.accelerator.current_stream", lambda device: nullcontext())
    monkeypatch.setattr("torch.accelerator.device_index", lambda device: nullcontext())


def on_cpu(parallel: CudaDataParallel) -> CudaDataParallel:
    parallel.src_device_obj = torch.device("cpu")
    return parallel


def test_gpus_get_data_parallel(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(2, accelerator="gpu")
    assert run.strategy.root_device == torch.device("cuda", 0)
    assert (run.num_devices, run.world_size, run.global_rank) == (2, 1, 0)
    task = make_task()
    monkeypatch.setattr(DataParallelStrategy, "model_to_device", lambda strategy: None)
    run.strategy.connect(task)
    run.strategy.setup(run)
    parallel = task.net.forward.parallel
    assert isinstance(parallel, nn.DataParallel)
    assert (parallel.device_ids, parallel.output_device) == ([0, 1], 0)
    assert parallel.module is task.net


def test_one_gpu_is_refused(two_gpus: None) -> None:
    with pytest.raises(UserError, match="at least two devices, got 1"):
        trainer([0], accelerator="gpu")


def test_fit_on_gpus_equals_one_device(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataParallelStrategy, "root_device", torch.device("cpu"))
    monkeypatch.setattr(dp, "CudaDataParallel", lambda net, devices: on_cpu(CudaDataParallel(net, devices)))
    ours, reference = make_task(), make_task()
    run = trainer(2, accelerator="gpu")
    run.fit(ours, loader(), loader())
    trainer(1).fit(reference, loader(), loader())
    assert difference(ours, reference) <= 1e-6
    assert sorted(sizes(ours.net)[-2:]) == [2, 3]
    assert threading.get_ident() not in {thread for *_, thread in ours.net.seen}


@pytest.mark.parametrize("mode", ["bf16", "no autocast", "inference", "no grad"])
def test_threads_keep_the_mode_they_are_called_in(two_gpus: None, mode: str) -> None:
    net = Net()
    seen = []
    net.register_forward_hook(
        lambda *_: seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled(), threading.get_ident()))
    )
    parallel = on_cpu(CudaDataParallel(net, [0, 1]))
    context = {
        "bf16": torch.autocast("cpu", torch.bfloat16),
        "no autocast": nullcontext(),
        "inference": torch.inference_mode(),
        "no grad": torch.no_grad(),
    }[mode]
    with context:
        output = parallel(torch.randn(4, 1, 4, 4))
    assert {dtype for _, dtype, _ in net.seen} == {torch.bfloat16 if mode == "bf16" else torch.float32}
    grad = mode in ("bf16", "no autocast")
    assert [(inference, grads) for inference, grads, _ in seen] == [(mode == "inference", grad)] * 2
    assert output.requires_grad == grad
    assert threading.get_ident() not in {thread for *_, thread in seen}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replicas_on_one_real_gpu_equal_it() -> None:
    ours, reference = make_task(), make_task()
    strategy = listing("cuda:0", "cuda:0", "cuda:0")
    trainer([0], accelerator="gpu", precision="64-true", strategy=strategy).fit(ours, loader(), loader())
    trainer(1, accelerator="gpu", precision="64-true").fit(reference, loader(), loader())
    assert len(ours.net.seen) == len(reference.net.seen) * 3
    assert difference(ours, reference) <= 1e-12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_real_threads_keep_bf16() -> None:
    net, x = Net().cuda(), torch.randn(4, 1, 4, 4, device="cuda")
    parallel = CudaDataParallel(net, [0])
    parallel.device_ids = [0, 0]
    with torch.autocast("cuda", torch.bfloat16):
        parallel.parallel_apply([net, net], [(x,), (x,)], [{}, {}])
    assert [dtype for _, dtype, _ in net.seen] == [torch.bfloat16] * 2
    assert threading.get_ident() not in {thread for *_, thread in net.seen}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_real_gpus_equal_one() -> None:
    ours, reference = make_task(), make_task()
    trainer(2, accelerator="gpu", precision="64-true").fit(ours, loader(), loader())
    trainer(1, accelerator="gpu", precision="64-true").fit(reference, loader(), loader())
    assert len(ours.net.seen) == len(reference.net.seen) * 2
    assert difference(ours, reference) <= 1e-12
