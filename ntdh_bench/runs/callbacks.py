"""Callbacks that every `fit` adds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ntdh_bench.cache import write_atomic
from ntdh_bench.checkpoints import TRAINED
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.schema import mismatch
from ntdh_bench.runs.checkpoint_files import BEST
from ntdh_bench.runs.logs import log_settings
from ntdh_bench.stopping import stop_on_sigterm

_RESUME = "give a sound checkpoint, or start anew without --ckpt_path"


class RememberIdentity(Callback):
    """Keeps the run's settings in its checkpoints, so that a resumed run can be held to them.

    Args:
        identity: the settings.
        logged: whether loggers are told them as well.
    """

    def __init__(self, identity: dict[str, Any], logged: bool = True) -> None:
        self.identity = identity
        self.logged = logged

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the settings (Lightning hook)."""
        if self.logged:
            log_settings(trainer.loggers, self.identity)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the settings (Lightning hook)."""
        checkpoint["identity"] = self.identity


class Restored(Callback):
    """Knows whether everything that a resumed checkpoint holds is restored.

    Attributes:
        all: whether it is: what fails from then on is not the checkpoint's fault.
    """

    all = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that training begins (Lightning hook)."""
        self.all = True


class StopAtOnce(Callback):
    """Takes SIGTERM back from the Trainer, whose handler waits for all processes, and for ever."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it back before each stage (Lightning hook)."""
        stop_on_sigterm()

    on_validation_start = on_test_start = on_train_start


class Curves(Callback):
    """Keeps the validation metrics of every epoch: metric name to values, for the record."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add an epoch's metrics while the student is trained (Lightning hook)."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/"):
                self.values.setdefault(name.removeprefix("val/"), []).append(float(value))

    def state_dict(self) -> dict[str, Any]:
        """Return the curves so far (Lightning hook)."""
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curves of the run that is resumed (Lightning hook).

        Raises:
            UserError: they are none.
        """
        if mismatch(state_dict.get("values"), {str: [float]}) is not None:
            raise FileError(f"the checkpoint's curves are damaged: {_RESUME}")
        self.values = {name: list(values) for name, values in state_dict["values"].items()}


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best epoch, and goes on comparing with it when a run is resumed.

    A resumed run has a folder of its own, for which Lightning would forget the best epoch so far.

    Args:
        resumed_from: the checkpoint that is resumed, if any.
        settings: of ModelCheckpoint.
    """

    def __init__(self, resumed_from: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.resumed_from = resumed_from

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy the best checkpoint so far to this run's folder (Lightning hook).

        Raises:
            UserError: it no longer lies beside the one that is resumed, or is no best checkpoint.
        """
        path, score = state_dict["best_model_path"], state_dict["best_model_score"]
        if path == "":
            return  # no epoch was compared yet
        assert self.resumed_from is not None
        name = Path(path).name
        measured = isinstance(score, Tensor) and score.numel() == 1 and bool(torch.isfinite(score))
        if not measured or not re.fullmatch(rf"{BEST}[\w.=-]+\.ckpt", name):
            raise FileError(f"{self.resumed_from}: its best epoch is damaged: {_RESUME}")
        earlier, here = Path(self.resumed_from).with_name(name), Path(str(self.dirpath)) / name
        if not earlier.is_file():
            raise UserError(
                f"{self.resumed_from} was kept with {name}, its run's best epoch so far, which is "
                "no longer beside it: put it back, or resume where both are"
            )
        _copy(earlier, here)
        super().load_state_dict(
            {
                "dirpath": self.dirpath,
                "best_model_path": str(here),
                "best_model_score": score,
                "best_k_models": {str(here): score},
                "kth_best_model_path": str(here),
                "kth_value": score,
            }
        )


class LastCheckpoint(ModelCheckpoint):
    """Keeps the last epoch; of a class of its own, so that configured ones may stand beside it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take no path from elsewhere, which the next save would remove (Lightning hook)."""

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from the trained weights, not from their average (Lightning hook)."""
        if TRAINED in checkpoint:
            pl_module.load_state_dict(checkpoint[TRAINED])


@rank_zero_only
def _copy(source: Path, target: Path) -> None:
    with write_atomic(target) as temporary:
        shutil.copyfile(source, temporary)


def cut_short(trainer: Trainer) -> bool:
    """Return whether the clock ended a training: what it gives is of this moment and machine."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    ended = any((timer.time_remaining() or 0) <= 0 for timer in timers)
    return bool(trainer.strategy.broadcast(ended))
