"""How far a run is: a bar a stage on a terminal; a line an epoch elsewhere, and in its log."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from ntdh_bench.composition import as_list
from ntdh_bench.notices import is_verbose, say
from ntdh_bench.progress import Update, is_shown, progress_bar

_PERIOD = 0.1  # seconds between looks of the bar: a step of a small network takes a millisecond
_SCORES = ("accuracy", "miou")  # shown in per cent


def progress_of(settings: Mapping[str, Any], stage: str) -> list[Callback]:
    """Return what shows the progress of a Trainer with these settings, unless they do themselves.

    Args:
        settings: of the Trainer.
        stage: what it does, in a word or two.
    """
    own = any(isinstance(given, ProgressBar) for given in as_list(settings.get("callbacks")))
    return [] if own or settings.get("enable_progress_bar") is False else [StageProgress(stage)]


class StageProgress(ProgressBar):
    """Shows one stage of a run on standard error.

    Args:
        stage: what it is, in a word or two.
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage
        self._is_first = True
        self._bar = ExitStack()
        self._update: Update | None = None
        self._done = 0
        self._drawn = self._epoch_began = 0.0

    def disable(self) -> None:
        """Say nothing: another process does (Lightning hook)."""
        self._is_first = False

    def enable(self) -> None:
        """Speak again (Lightning hook)."""
        self._is_first = True

    # -- training --------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what begins (Lightning hook)."""
        if not self._is_first:
            return
        first, last = trainer.current_epoch, trainer.max_epochs or 0
        length = f"{last} epochs" if last > 0 else "no fixed number of epochs"
        if last <= 0 < trainer.max_steps:
            length = f"{trainer.max_steps} steps"
        resumed = f", from epoch {first + 1} on" if first else ""
        batches = trainer.num_training_batches
        say(f"{self._stage}: {length}{resumed}, {batches} batches an epoch")
        finite = last > 0 and math.isfinite(batches)
        total = int(last * batches) if finite else None
        self._begin(total, int(first * batches) if finite else 0)
        self._epoch_began = time.monotonic()

    def on_train_batch_end(self, *args: Any) -> None:
        """Move the bar (Lightning hook)."""
        self._advance()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell of the epoch before, whose losses are known only now (Lightning hook)."""
        self._tell(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell of the last epoch, and whether it came early (Lightning hook)."""
        self._tell(trainer)
        self._end()
        asked = trainer.max_epochs or 0
        if self._is_first and trainer.current_epoch < asked and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            say(f"{self._stage}: ended after {trainer.current_epoch} of {asked} epochs")

    def _tell(self, trainer: Trainer) -> None:
        """Say how the last epoch went; nothing if this stage has not finished one yet."""
        if not self._is_first or self._done == 0:
            return
        seconds, self._epoch_began = time.monotonic() - self._epoch_began, time.monotonic()
        words = _words(trainer.callback_metrics)
        asked = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        epoch = f"epoch {trainer.current_epoch}{asked}"
        shown = self._update is not None and is_shown()
        say(f"{self._stage}, {epoch}: {', '.join([*words, f'{seconds:.1f} s'])}", detail=shown)
        if self._update is not None:
            self._update(description=", ".join([self._stage, epoch, *words[:2]]))

    # -- measuring -------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a bar of its own, unless this is part of training (Lightning hook)."""
        if _only_validates(trainer):
            self._begin(_total(trainer.num_val_batches))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a bar (Lightning hook)."""
        self._begin(_total(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a bar (Lightning hook)."""
        self._begin(_total(trainer.num_predict_batches))

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Move the bar, if it is that of validation (Lightning hook)."""
        if _only_validates(trainer):
            self._advance()

    def on_test_batch_end(self, *args: Any) -> None:
        """Move the bar (Lightning hook)."""
        self._advance()

    def on_predict_batch_end(self, *args: Any) -> None:
        """Move the bar (Lightning hook)."""
        self._advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar, if it is that of validation (Lightning hook)."""
        if _only_validates(trainer):
            self._end()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar (Lightning hook)."""
        self._end()

    on_predict_end = on_test_end

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the bar, so that the error starts a new line (Lightning hook)."""
        self._bar.close()
        self._update = None

    # -- the bar ---------------------------------------------------------------------------------

    def _begin(self, total: int | None, done: int = 0) -> None:
        if self._is_first:
            self._done = 0
            self._start, self._drawn = done, time.monotonic()
            self._update = self._bar.enter_context(progress_bar(self._stage, total, done=done))

    def _advance(self) -> None:
        self._done += 1
        now = time.monotonic()
        if self._update is not None and now - self._drawn > _PERIOD:
            self._drawn = now
            self._update(completed=self._start + self._done)

    def _end(self) -> None:
        if self._update is not None:
            self._update(completed=self._start + self._done)
        self._bar.close()
        self._update = None


def _only_validates(trainer: Trainer) -> bool:
    """Return whether validation is all there is to do, not a part of training."""
    return trainer.state.fn == TrainerFn.VALIDATING


def _total(batches: Any) -> int | None:
    total = sum(as_list(batches))
    return int(total) if math.isfinite(total) else None


def _words(metrics: Mapping[str, Any]) -> list[str]:
    """Return the loss and the score of an epoch; all that was measured, if that is asked for."""
    named = {name: float(value) for name, value in metrics.items() if value.numel() == 1}
    if is_verbose():
        return [f"{name} {value:.4g}" for name, value in named.items()]
    loss = [f"loss {named['train/loss']:.4g}"] if "train/loss" in named else []
    scores = [name for name in _SCORES if f"val/{name}" in named]
    return loss + [f"{name} {100 * named[f'val/{name}']:.2f} %" for name in scores]
