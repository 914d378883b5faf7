"""Lightning's fit loop, with a place between two steps at which a run can be left and taken up again.

Lightning's hooks lie within a step or an epoch: when they are called, figures are still to be logged or a validation is
due, and a run saved there does not go on as it would have. ``Keeper.pause`` is called where nothing is open: after a
step, its validation and its logging, and after an epoch.
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from lightning import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer


class Keeper(Protocol):
    """What saves a run in its pauses and takes it up again: ``callback.last_checkpoint.LastCheckpoint``."""

    def on_duty(self) -> AbstractContextManager[None]: ...

    def restore_random(self) -> None: ...

    def pause(self) -> None: ...


class FitLoop(_FitLoop):
    """Takes the place of the one that ``trainer`` has; without a keeper nothing is saved in the pauses."""

    def __init__(self, trainer: Trainer, keeper: Keeper | None = None) -> None:
        was = trainer.fit_loop
        super().__init__(trainer, was.min_epochs, was.max_epochs)
        self.epoch_loop = EpochLoop(trainer, was.min_steps, was.max_steps, keeper)
        self._keeper = keeper

    @_Loop.restarting.setter  # type: ignore[attr-defined, untyped-decorator]
    def restarting(self, restarting: bool) -> None:
        # Lightning's is also true after a whole epoch, where trainer.max_steps is set, and then ends that epoch again.
        progress = self.epoch_progress.current
        _Loop.restarting.fset(self, restarting and progress.ready != progress.processed)  # type: ignore[attr-defined]

    def run(self) -> None:
        with self._keeper.on_duty() if self._keeper else nullcontext():
            super().run()

    def on_advance_start(self) -> None:
        # A schedule that asks for the number of steps has the loader made before Lightning has read its state.
        self._load_combined_loader_states()
        if self._keeper:
            self._keeper.restore_random()
        super().on_advance_start()

    def on_advance_end(self) -> None:
        super().on_advance_end()
        if self._keeper:
            self._keeper.pause()


class EpochLoop(_TrainingEpochLoop):
    """One epoch, whose steps cost 0.2 ms less than Lightning's: what nobody has overridden is not called.

    Everything else is as Lightning does it, in its order.
    """

    automatic_optimization: "_Optimization"

    def __init__(self, trainer: Trainer, min_steps: int | None, max_steps: int, keeper: Keeper | None) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self._keeper = keeper
        self.automatic_optimization = _Optimization(trainer)

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        trainer, module = self.trainer, self.trainer.lightning_module
        self._hooks = _Hooks(trainer)
        self._takes_index = "batch_idx" in self._build_kwargs(OrderedDict(), None, 0)  # of a signature: 15 µs
        self._transfers = type(trainer.strategy).batch_to_device is not Strategy.batch_to_device or any(
            is_overridden(name, owner)
            for name in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
            for owner in (module, trainer.datamodule)
        )
        self._lean = (
            module.automatic_optimization
            and isinstance(trainer.profiler, PassThroughProfiler)  # others measure every hook
            and not isinstance(data_fetcher, _DataLoaderIterDataFetcher)
        )
        self.automatic_optimization.set_up(self._hooks, self._lean)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self.restarting:
            self.trainer.fit_loop.restarting = False  # no validation or epoch's end was left open
        if self._lean:
            self._step(data_fetcher)
        else:
            super().advance(data_fetcher)

    def _broadcast_sigterm_tensor(self) -> None:
        """Lightning's processes tell each other of a SIGTERM, and wait for it, in every step: ours do in pauses."""

    def _step(self, data_fetcher: _DataFetcher) -> None:
        trainer, progress, hooks = self.trainer, self.batch_progress, self._hooks
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        batch = trainer.precision_plugin.convert_input(batch)
        if self._transfers or not _all_on(batch, trainer.strategy.root_device):  # 40 µs
            batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
            batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        progress.increment_ready()
        trainer._logger_connector.on_batch_start(batch)

        outputs: dict[str, Any] | None = None
        skips = False
        if batch is None:
            self._warning_cache.warn("train_dataloader yielded None. If this was on purpose, ignore this warning...")
        else:
            skips = hooks("on_train_batch_start", batch, batch_idx) == -1
            trainer.strategy.on_train_batch_start(batch, batch_idx)
            if skips:
                progress.increment_by(0, is_last_batch=True)
            else:
                progress.increment_started()
                inputs = (
                    OrderedDict(batch=batch, batch_idx=batch_idx) if self._takes_index else OrderedDict(batch=batch)
                )
                outputs = self.automatic_optimization.run(trainer.optimizers[0], batch_idx, inputs)
        progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if skips:
            raise StopIteration
        hooks("on_train_batch_end", outputs, batch, batch_idx)
        trainer._logger_connector.on_batch_end()
        progress.increment_completed()
        trainer._logger_connector.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        super().on_advance_end(data_fetcher)
        done = self._is_training_done or self.trainer.should_stop
        if self._keeper and not done and not self._should_accumulate():
            self._keeper.pause()


class _Optimization(_AutomaticOptimization):
    """Forward, backward and the optimizer's step in one closure, where nobody has changed how they are done.

    Lightning's six, one in the other and each with its hooks, take 0.1 ms.
    """

    def set_up(self, hooks: "_Hooks", lean: bool) -> None:
        self._hooks = hooks
        trainer, precision, strategy = self.trainer, self.trainer.precision_plugin, type(self.trainer.strategy)
        self._lean = (
            lean
            and trainer.world_size == 1
            and strategy.backward is Strategy.backward
            and strategy.optimizer_step is Strategy.optimizer_step
            and type(precision) in (Precision, HalfPrecision, DoublePrecision, MixedPrecision)
            and getattr(precision, "scaler", None) is None
            and not any(
                is_overridden(name, trainer.lightning_module)
                for name in ("backward", "optimizer_zero_grad", "optimizer_step", "configure_gradient_clipping")
            )
        )

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        if not self._lean:
            return super().run(optimizer, batch_idx, kwargs)
        progress = self.optim_progress.optimizer.step
        steps = not self.trainer.fit_loop._should_accumulate()
        result = ClosureResult(None)

        def closure() -> Tensor | None:
            nonlocal result
            result = self._forward_backward(optimizer, batch_idx, kwargs, steps)
            return result.loss

        if steps:
            progress.increment_ready()
            optimizer.step(closure=closure)  # type: ignore[arg-type]
            progress.increment_completed()
        else:
            closure()
        return {} if result.loss is None else result.asdict()

    @torch.enable_grad()
    def _forward_backward(
        self, optimizer: Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any], steps: bool
    ) -> ClosureResult:
        trainer, hooks, progress = self.trainer, self._hooks, self.optim_progress.optimizer.zero_grad
        module, strategy, accumulate = trainer.lightning_module, trainer.strategy, trainer.accumulate_grad_batches
        module._current_fx_name = "training_step"
        output = strategy.training_step(*kwargs.values())
        module._current_fx_name = None
        if isinstance(output, Tensor) and accumulate == 1:
            result = ClosureResult(output)
        else:
            result = ClosureResult.from_training_step_output(output, accumulate)
        loss = result.closure_loss
        if loss is None:
            Closure.warning_cache.warn("`training_step` returned `None`. If on purpose, ignore this warning...")
        if batch_idx % accumulate == 0:
            progress.increment_ready()
            hooks("on_before_zero_grad", optimizer)
            progress.increment_started()
            _zero_grad(optimizer)
            progress.increment_completed()
        if loss is not None:
            strategy.pre_backward(loss)
            hooks("on_before_backward", loss)
            loss.backward()  # type: ignore[no-untyped-call]
            hooks("on_after_backward")
            strategy.post_backward(loss.detach())
        if steps:
            hooks("on_before_optimizer_step", optimizer)
            if trainer.gradient_clip_val:
                module.configure_gradient_clipping(
                    optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                )
        return result


class _Hooks:
    """Calls the hooks that callbacks and module override, looked up once an epoch: empty ones take 0.1 ms a step."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._module = trainer.lightning_module
        self._found: dict[str, tuple[list[Callable[..., Any]], Callable[..., Any] | None]] = {}

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Returns what the module's own gives."""
        if name not in self._found:
            callbacks = [
                getattr(callback, name)
                for callback in self._trainer.callbacks  # type: ignore[attr-defined]
                if is_overridden(name, callback)
            ]
            own = getattr(self._module, name) if is_overridden(name, self._module) else None
            self._found[name] = callbacks, own
        callbacks, own = self._found[name]
        if not callbacks and own is None:
            return None
        module = self._module
        before, module._current_fx_name = module._current_fx_name, name
        for hook in callbacks:
            hook(self._trainer, module, *arguments)
        returned = None if own is None else own(*arguments)
        module._current_fx_name = before
        return returned


def _zero_grad(optimizer: Optimizer) -> None:
    """As torch's own does it, without the note to its profiler, which takes 50 µs."""
    if getattr(optimizer.zero_grad, "__func__", None) is not Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _all_on(batch: Any, device: torch.device) -> bool:
    return type(batch) is tuple and all(isinstance(item, Tensor) and item.device == device for item in batch)
