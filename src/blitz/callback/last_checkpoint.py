"""Save ``checkpoints/resume.ckpt``, from which a stopped or killed run resumes as if it had never ended.

Lightning's checkpoints lack the random states, the metrics that callbacks monitor, the positions of loggers and plain
loaders, and whether a callback has stopped the training. Its ModelCheckpoint saves in hooks at which a step is still
unfinished. This callback saves at the start of the next step, where the step before is finished with its validation
and logging, and takes the started step back in the checkpoint.
"""

import copy
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import distributed

from blitz.callback import loop_progress, private_state
from blitz.callback.resumable_loader import Position, ResumableLoader
from blitz.errors import UserError
from blitz.process import random_state
from blitz.process.agreement import Agreement
from blitz.process.random_state import RandomState
from blitz.process.signals import StopRequest
from blitz.runs.folder import LAST, NEXT, PREVIOUS


class LastCheckpoint(Callback):
    """Save a checkpoint regularly, after each epoch, at the end, and when a signal asks the run to stop.

    The file is ``checkpoints/resume.ckpt`` in the trainer's ``default_root_dir``. The previous one is kept as
    ``resume-previous.ckpt``.

    On SIGTERM, SIGUSR1 or SIGUSR2 the run finishes its step, saves, and exits with status 143; on the first Ctrl-C
    with 130. A second Ctrl-C ends the process at once.

    It must be the first of the trainer's callbacks: the others' hooks belong to the step that follows.

    Args:
        every_n_steps: maximum number of optimizer steps lost if the run is killed.
        time_share: save less often if saving would take more than this share of the run's time. None: no limit.

    Raises:
        UserError: an argument is out of range.
    """

    runs_first = True

    def __init__(self, every_n_steps: int = 100, time_share: float | None = 0.01) -> None:
        if every_n_steps < 1:
            raise UserError(f"callback.last.every_n_steps={every_n_steps}: out of range; expected a number >= 1")
        if time_share is not None and not 0 < time_share <= 1:
            raise UserError(f"callback.last.time_share={time_share}: out of range; expected > 0 and <= 1, or null")
        self.every_n_steps = every_n_steps
        self.time_share = time_share
        self._begin_fit()

    def _begin_fit(self) -> None:
        self._request = StopRequest()
        self._agreement: Agreement | None = None  # while training
        self._until_end = ExitStack()  # undone at the end of the training
        self._until_teardown = ExitStack()  # undone after the last hook of the fit
        self._until_first_step = ExitStack()  # undone at the first step after a resume
        self._loaders: list[ResumableLoader] = []
        self._resumed: dict[str, Any] = {}  # entry "resume" of the checkpoint, until the first step
        self._checkpoint: dict[str, Any] = {}  # the whole checkpoint, until it is restored a second time
        self._loggers: list[Any] = []  # the trainer's loggers, while ``on_train_epoch_start`` is called again
        self._weights: dict[str, Any] = {}  # the module's weights before these hooks
        self._sums: private_state.Sums = {}  # of the epoch before the resume, until their values are logged again
        self._resumed_batch = 0
        self._saving: int | None = None  # finished batches of the epoch, while this callback saves
        self._flags: tuple[bool, bool] | None = None  # whether to stop and to save, as of the last fetch
        self._random: RandomState = {}  # before the last fetch, like the positions
        self._positions: list[Position] = []
        self._saved = (0, 0)
        self._save_began = self._save_ended = 0.0

    # -- before the training ------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._end_fit()
        self._begin_fit()
        self._directory = Path(trainer.default_root_dir) / "checkpoints"
        self._wrap_loaders(trainer)

    def _wrap_loaders(self, trainer: Trainer) -> None:
        """Wrap each training loader where Lightning lets a strategy wrap it, before its first iterator is made."""
        strategy: Any = trainer.strategy
        process = strategy.process_dataloader

        def wrap(loader: object) -> object:
            loader = process(loader)
            return self._wrap(loader, trainer) if trainer.training else loader

        strategy.process_dataloader = wrap
        self._until_end.callback(vars(strategy).pop, "process_dataloader", None)

    def _wrap(self, loader: Any, trainer: Trainer) -> ResumableLoader:
        wrapped = ResumableLoader(loader, _nothing if self._loaders else self._before_fetch)
        if batch := self._resumed_batch:
            wrapped.restore(self._position_to_restore(len(self._loaders), trainer))
            if not wrapped.restores_itself and not self._loaders and trainer.is_global_zero:
                condition = "; exact only if the IterableDataset yields them again" if wrapped.repeats else ""
                _print(f"skipping the {batch:,} batches of this epoch that are done{condition}")
        self._loaders.append(wrapped)
        return wrapped

    def _position_to_restore(self, index: int, trainer: Trainer) -> Position:
        ranks = self._resumed.get("loaders", [])  # absent in checkpoints of earlier versions
        positions = ranks[trainer.global_rank] if trainer.global_rank < len(ranks) else []
        position = positions[index] if index < len(positions) else {}
        # A loader of unknown length was one batch ahead: Lightning fetches early, to know which batch is the last.
        return {**position, "taken": min(position.get("taken", self._resumed_batch), self._resumed_batch)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or "resume" not in checkpoint:
            return
        self._resumed, self._checkpoint = checkpoint["resume"], checkpoint
        self._resumed_batch = loop_progress.finished_batches(checkpoint)
        loop_progress.drop_loader_states(checkpoint)
        if trainer.is_global_zero and (line := loop_progress.exactness()):
            _print(line)
        self._until_first_step.callback(setattr, trainer, "num_sanity_val_steps", trainer.num_sanity_val_steps)
        trainer.num_sanity_val_steps = 0
        # ModelCheckpoint forgets its best checkpoints if their directory differs from the saved one.
        checkpoint["callbacks"] = _moved(
            checkpoint["callbacks"], self._resumed["folder"], os.path.realpath(self._directory)
        )
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):  # it saves its current score and does not restore it
                callback.current_score = checkpoint["callbacks"].get(callback.state_key, {}).get("current_score")
        if "files" in self._resumed:  # absent in checkpoints of earlier versions
            self._overwrite_later_files(trainer)

    def _overwrite_later_files(self, trainer: Trainer) -> None:
        """Let each ModelCheckpoint overwrite the files that it saved after this checkpoint, as it repeats the steps.

        Otherwise it would save to another name, such as ``step=9-v1.ckpt``, because the file exists.
        """
        known = _moved(
            dict.fromkeys(self._resumed["files"]), self._resumed["folder"], os.path.realpath(self._directory)
        )
        later = set(trainer.strategy.broadcast(_checkpoint_files(trainer))) - known.keys()
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.file_exists = partial(_file_exists, callback.file_exists, later)  # type: ignore[method-assign]
                self._until_teardown.callback(vars(callback).pop, "file_exists", None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed:
            trainer.callback_metrics.update(self._resumed["metrics"])
            trainer.should_stop |= self._resumed["should_stop"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer
        # Some devices, such as TPUs, have several ranks without torch.distributed: each then decides by itself.
        self._num_ranks = trainer.world_size if distributed.is_initialized() else 1
        self._agreement = Agreement(self._num_ranks)
        self._within_epochs = loop_progress.can_take_back(trainer)
        self._saved = self._progress()
        self._save_began = self._save_ended = time.perf_counter()
        self._until_end.enter_context(self._request.noted())
        if self._resumed and self._resumed_batch:
            # Otherwise Lightning takes a finished validation for one that is due, and steps its schedules twice.
            every = trainer.check_val_every_n_epoch
            self._until_first_step.callback(setattr, trainer, "check_val_every_n_epoch", every)
            trainer.check_val_every_n_epoch = sys.maxsize
            loop_progress.repeat_epoch_start(trainer)
        elif self._resumed:
            loop_progress.begin_epoch(trainer)

    # -- steps --------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed and self._resumed_batch:
            # The hooks of other callbacks run again; their state is restored later. They must not log a second time.
            self._until_first_step.callback(setattr, trainer, "loggers", trainer.loggers)
            self._loggers, trainer.loggers = trainer.loggers, []
            self._weights = copy.deepcopy(pl_module.state_dict())  # the checkpoint may hold averaged weights
            return
        self._restore_last_state(trainer, pl_module)
        if self._progress() != (0, 0) and self._within_epochs:
            self._before_fetch(between_epochs=True)
            self._save_if_due(trainer, 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._sums:
            private_state.add_sums(trainer, self._sums)
        self._restore_last_state(trainer, pl_module)
        if self._flags is None:  # no loader was wrapped
            self._before_fetch()
        if batch_idx and self._within_epochs:
            self._save_if_due(trainer, batch_idx)
        self._flags = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._sums:
            private_state.add_sums(trainer, self._sums)
            self._sums = {}
        if not self._within_epochs:
            self._before_fetch(between_epochs=True)
            self._save_if_due(trainer, 0)

    def _before_fetch(self, between_epochs: bool = False) -> None:
        """Note the random state and the loaders' positions if the run may be saved once the next batch is fetched."""
        if self._agreement is None:
            return
        if self._resumed:
            self._restore_states(self._trainer)
            random_state.put(self._of_this_rank("random"))
        self._flags = (self._request.received is not None, self._is_due())
        # Another rank may ask for a checkpoint. A single one saves the 40 µs of noting the state in vain.
        if any(self._flags) or self._num_ranks > 1:
            self._note_positions(between_epochs)

    def _note_positions(self, between_epochs: bool) -> None:
        self._random = random_state.get()
        self._positions = [loader.position(between_epochs) for loader in self._loaders]

    def _restore_last_state(self, trainer: Trainer, module: LightningModule) -> None:
        """Restore, at the first step after a resume, what Lightning or other callbacks would have overwritten."""
        if not self._resumed:
            return
        self._restore_states(trainer)
        if not self._resumed_batch or not self._loaders:  # otherwise the batch was fetched with this state
            random_state.put(self._of_this_rank("random"))
        if not self._resumed_batch:
            for index, loader in enumerate(self._loaders):
                loader.put_generator_states(self._position_to_restore(index, trainer).get("generators", []))
        loop_progress.end_restart(trainer)
        trainer.accumulate_grad_batches = self._resumed.get("accumulate_grad_batches", trainer.accumulate_grad_batches)
        gradients = self._resumed.get("gradients", {})
        for name, parameter in module.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)
        if "private" in self._resumed:  # absent in checkpoints of earlier versions
            private = self._of_this_rank("private")
            private_state.restore_counters(trainer, private)
            self._sums = private["sums"] if self._resumed_batch else {}
        self._resumed, self._resumed_batch = {}, 0
        self._until_first_step.close()

    def _restore_states(self, trainer: Trainer) -> None:
        """Restore the state in the checkpoint again: hooks at the start of the fit or the epoch may have changed it."""
        checkpoint, self._checkpoint = self._checkpoint, {}
        if not checkpoint:
            return
        if self._loggers:
            trainer.loggers = self._loggers
        module = trainer.lightning_module
        module.on_load_checkpoint(checkpoint)
        if self._weights:
            module.load_state_dict(self._weights)
            self._weights = {}
        trainer.strategy.load_optimizer_state_dict(checkpoint)
        for config, state in zip(trainer.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=False):
            config.scheduler.load_state_dict(state)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if state := checkpoint["callbacks"].get(callback.state_key):
                callback.load_state_dict(copy.deepcopy(state))
        trainer.callback_metrics.update(self._resumed["metrics"])
        if "frozen" in self._resumed:  # absent in checkpoints of earlier versions
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name not in self._resumed["frozen"])
            for name, child in module.named_modules():
                child.training = name not in self._resumed["evaluating"]

    def _of_this_rank(self, key: str) -> Any:
        ranks = self._resumed[key]
        if key == "private":  # the sums of another number of ranks are incomplete
            return ranks[self._trainer.global_rank] if len(ranks) == self._num_ranks else {"sums": {}}
        return ranks[self._trainer.global_rank] if self._trainer.global_rank < len(ranks) else random_state.get()

    def _save_if_due(self, trainer: Trainer, batch: int) -> None:
        assert self._agreement is not None
        assert self._flags is not None
        if self._num_ranks > 1 and batch % trainer.accumulate_grad_batches:
            return  # each rank has accumulated gradients of its own
        stop, save = self._agreement(*self._flags)
        if stop or save:
            self._save(trainer, batch)
        if stop:
            self._exit(trainer)

    def _is_due(self) -> bool:
        steps, epochs = self._progress()
        if steps - self._saved[0] < self.every_n_steps and epochs == self._saved[1]:
            return False
        share, now = self.time_share, time.perf_counter()
        return share is None or self._save_ended - self._save_began <= share * (now - self._save_began)

    def _progress(self) -> tuple[int, int]:
        """Return the numbers of finished optimizer steps and epochs."""
        return self._trainer.global_step, self._trainer.current_epoch

    # -- saving -------------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer, batch: int) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._save_began = time.perf_counter()
        self._saving = batch
        trainer.save_checkpoint(self._directory / NEXT)
        self._saving = None
        if trainer.is_global_zero:
            if (self._directory / LAST).exists():
                (self._directory / LAST).replace(self._directory / PREVIOUS)
            (self._directory / NEXT).replace(self._directory / LAST)
        self._saved, self._save_ended = self._progress(), time.perf_counter()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._saving is None:  # saved by somebody else, perhaps within a step: Lightning resumes it in its own way
            return
        batch = self._saving
        loop_progress.take_back(checkpoint, batch)
        private = private_state.saved(trainer)
        private["sums"] = {**self._sums, **private["sums"]} if batch else {}
        mine = (self._random, self._positions, private)
        ranks: list[Any] = [mine] * self._num_ranks
        if self._num_ranks > 1:
            distributed.all_gather_object(ranks, mine)
        checkpoint["resume"] = {
            "folder": os.path.realpath(self._directory),
            "random": [random for random, _, _ in ranks],
            "loaders": [positions for _, positions, _ in ranks],
            "private": [state for _, _, state in ranks],
            "metrics": {key: value.detach().cpu().clone() for key, value in trainer.callback_metrics.items()},
            "should_stop": trainer.should_stop,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradients": _open_gradients(trainer, pl_module, batch),
            "files": _checkpoint_files(trainer),
            "frozen": [name for name, parameter in pl_module.named_parameters() if not parameter.requires_grad],
            "evaluating": [name for name, child in pl_module.named_modules() if not child.training],
            "loggers": [
                logger.position(trainer.global_step) if trainer.is_global_zero and hasattr(logger, "position") else {}
                for logger in trainer.loggers
            ],
        }

    # -- the end ------------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._agreement is not None
        if self._progress() != self._saved:
            self._note_positions(between_epochs=True)
            self._save(trainer, 0)
        (stop,) = self._agreement.now(self._request.received is not None)
        if stop:
            self._exit(trainer)
        self._keep_last_files(trainer)
        self._end_fit()
        # A signal that came too late for the ranks to agree on. The handlers from before the training are back.
        if self._request.received is not None:
            raise SystemExit(self._request.status)

    def _keep_last_files(self, trainer: Trainer) -> None:
        """Keep each ``save_last`` file. ModelCheckpoint saves it again at the end if it has not since a resume."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.last_model_path:
                self._until_teardown.callback(setattr, callback, "save_last", callback.save_last)
                callback.save_last = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a resumed run that had nothing left to do: it was saved before the other callbacks ended theirs."""
        if "loaders" in self._resumed:
            self._keep_last_files(trainer)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if callback is not self:
                    callback.on_train_end(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end_fit()
        self._until_teardown.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SystemExit) and self._agreement is not None and trainer.is_global_zero:
            signal = self._request.received.name if self._request.received else "a signal to another process"
            _print(f"stopped by {signal} after step {trainer.global_step:,}")
        self._end_fit()

    def _exit(self, trainer: Trainer) -> None:
        trainer.strategy.barrier()  # the parent of the ranks may kill the others once the first has ended
        raise SystemExit(self._request.status)

    def _end_fit(self) -> None:
        self._agreement = None
        self._resumed, self._resumed_batch, self._checkpoint = {}, 0, {}
        self._until_first_step.close()
        self._until_end.close()


def _checkpoint_files(trainer: Trainer) -> list[str]:
    """Return the real paths of all local files of ModelCheckpoints, without those of this callback."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    directories = {Path(callback.dirpath) for callback in callbacks if callback.dirpath}
    paths = {path for directory in directories for path in directory.rglob(f"*{ModelCheckpoint.FILE_EXTENSION}")}
    return sorted(os.path.realpath(path) for path in paths if path.name not in (LAST, PREVIOUS, NEXT))


def _file_exists(file_exists: Callable[..., bool], later: set[str], path: str, trainer: Trainer) -> bool:
    """Return whether a file exists. Return False once for each file in ``later``, so that it is overwritten."""
    exists, real = file_exists(path, trainer), os.path.realpath(path)
    if real not in later:
        return exists
    later.remove(real)  # the callback overwrites it now
    return False


def _nothing() -> None:
    """Do nothing before the fetch of a second loader: the state before the first one counts."""


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _open_gradients(trainer: Trainer, module: LightningModule, batch: int) -> dict[str, Any]:
    """Return the gradients that the next step adds to, by the names of their parameters."""
    if module.automatic_optimization and not batch % trainer.accumulate_grad_batches:
        return {}
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def _moved(node: Any, old: str, new: str) -> Any:
    """Return ``node`` with all paths in the directory ``old``, among keys and values, moved to ``new``."""
    if isinstance(node, dict):
        return {_moved(key, old, new): _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, str) and f"{node}{os.sep}".startswith(f"{old}{os.sep}"):
        return new + node[len(old) :]
    return node
