"""The Trainers of a run: of its teachers, of its student, and those that measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO

from ntdh_bench.composition import as_list
from ntdh_bench.runs.callbacks import (
    BestCheckpoint,
    Curves,
    LastCheckpoint,
    RememberIdentity,
    Restored,
    StopAtOnce,
)
from ntdh_bench.runs.checkpoint_files import BEST, LAST, WholeCheckpoints
from ntdh_bench.runs.logs import Prefixed
from ntdh_bench.runs.processes import build_trainer
from ntdh_bench.runs.progress import progress_of
from ntdh_bench.runs.run import PARTS, Run


class Student(NamedTuple):
    """The Trainer of a run's student, and its callbacks that are asked afterwards."""

    trainer: Trainer
    curves: Curves
    best: BestCheckpoint | None
    restored: Restored


def student_trainer(run: Run) -> Student:
    """Return the Trainer of the student, with the run's log, checkpoints and mask."""
    curves, restored, best = Curves(), Restored(), _best_checkpoint(run)
    logged = run.trainer["enable_autolog_hparams"] is not False
    callbacks: list[Callback] = [RememberIdentity(run.identity, logged), curves]
    callbacks += [callback for callback in (best, run.mask) if callback is not None]
    callbacks.append(restored)
    if run.keeps_checkpoints:
        # Two callbacks: `save_last` of the best one would follow the best epoch, not the last.
        callbacks.append(LastCheckpoint(filename=LAST.removesuffix(".ckpt"), **_checkpointing(run)))
    return Student(make_trainer(run, "student", run.folder, callbacks), curves, best, restored)


def teacher_trainer(run: Run, stage: str) -> Trainer:
    """Return the Trainer of a teacher: the same settings, its own epochs and log.

    Args:
        run: has begun.
        stage: which of the run's teachers, for the log: ``teacher``, ``retrained`` or, the student
            without KD, ``reference``.
    """
    changes: dict[str, Any] = {"enable_checkpointing": False, "callbacks": None}
    loggers = as_list(run.trainer["logger"])
    if all(isinstance(logger, Logger) for logger in loggers) and loggers:
        changes["logger"] = [Prefixed(logger, stage) for logger in loggers]
    length = {} if stage == "reference" else teacher_length(run)
    return make_trainer(run, PARTS[stage], run.folder / stage, [], **changes, **length)


def teacher_length(run: Run) -> dict[str, Any]:
    """Return how long teachers are trained where that is not as long as students."""
    epochs = run.described.teacher_epochs
    return {"max_epochs": epochs, "max_steps": -1} if epochs else {}


def measuring_trainer(run: Run, watching: Sequence[Callback] = ()) -> Trainer:
    """Return a Trainer that measures checkpoints as they are on disk.

    Callbacks of the training would restore their state from them, or change the weights.
    """
    callbacks = [*([] if run.mask is None else [run.mask]), *watching]
    changes = {"enable_checkpointing": False, "callbacks": None, "logger": False}
    return make_trainer(run, "measuring", run.folder, callbacks, trains=False, **changes)


def make_trainer(
    run: Run,
    stage: str,
    folder: Path,
    extra_callbacks: Sequence[Callback],
    *,
    trains: bool = True,
    **changes: Any,
) -> Trainer:
    """Return a Trainer with the configured settings that logs to ``folder``.

    Args:
        run: has begun.
        stage: what it does, on the screen.
        folder: of its log.
        extra_callbacks: beside the configured ones.
        trains: see :func:`build_trainer`.
        changes: of the settings.
    """
    settings = {**run.trainer, "default_root_dir": str(folder), **changes}
    if settings.get("logger") in (None, True) and not run.is_trial:
        settings["logger"] = TensorBoardLogger(
            folder, name="tensorboard", version="", default_hp_metric=False
        )
    callbacks = [*as_list(settings.get("callbacks")), StopAtOnce(), *extra_callbacks]
    callbacks += progress_of(settings, stage)
    settings["callbacks"] = callbacks
    settings["enable_autolog_hparams"] = False  # RememberIdentity logs all of them
    plugins = as_list(settings.get("plugins"))
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, WholeCheckpoints(run.folder)]
    return build_trainer({**settings, "plugins": plugins}, trains=trains)


def _checkpointing(run: Run) -> dict[str, Any]:
    return {
        "dirpath": run.folder / "checkpoints",
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
    }


def _best_checkpoint(run: Run) -> BestCheckpoint | None:
    if not run.keeps_checkpoints or not run.data.has_validation:
        return None
    return BestCheckpoint(
        run.checkpoint,
        filename=BEST + "{epoch}",
        monitor=f"val/{run.data.metric}",
        mode="max",
        **_checkpointing(run),
    )
