"""One checkpoint, measured on validation or test data, or its predictions there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer

from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import UserError
from ntdh_bench.runs.identity import check_evaluated
from ntdh_bench.runs.predictions import PredictionFiles
from ntdh_bench.runs.processes import build_trainer
from ntdh_bench.runs.progress import progress_of
from ntdh_bench.runs.run import Run
from ntdh_bench.runs.teacher import load_trained
from ntdh_bench.runs.trainers import measuring_trainer


def measure(run: Run, split: Literal["val", "test"] = "test") -> dict[str, float]:
    """Return what the run's checkpoint measures on a split: metric to value.

    Raises:
        UserError: there is no such split, or the checkpoint or its teacher does not fit.
    """
    return _measured(run, prepared(run, split), split, run.checkpoint)


def predict(run: Run, output: str | None = None, logits: bool = False) -> Path:
    """Write the checkpoint's predictions on test data batch by batch; returns their folder.

    Args:
        run: made from a checkpoint.
        output: a new folder; by default one beside the checkpoint.
        logits: whether logits are written also where a sample has many targets.

    Raises:
        UserError: it is there already, or cannot be written; or the checkpoint does not fit.
    """
    # Several processes would each return a part.
    trainer = prepared(run, "predict", devices=1, num_nodes=1, strategy="auto")
    path = Path(output).absolute() if output else _beside_checkpoint(run)
    if path.exists():
        raise UserError(f"{path} is there already: remove it, or name another folder by --output")
    with write_atomic(path) as temporary:
        temporary.mkdir()
        with PredictionFiles(temporary, logits) as files:
            trainer.callbacks.append(files)  # type: ignore[attr-defined]
            trainer.predict(
                run.model, datamodule=run.data, ckpt_path=run.checkpoint, return_predictions=False
            )
    return path


def measure_splits(
    run: Run, path: Path | None, watching: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Return the metrics of each split, of a checkpoint or (None) of the model as it is.

    ``watching`` are callbacks that see the batches and what is measured on them.

    ``test_per_class`` holds the student's IoU of each class that is evaluated, where the data are
    judged by the mean IoU.
    """
    trainer = measuring_trainer(run, watching)
    result: dict[str, Any] = {}
    if run.data.has_validation and trainer.limit_val_batches:
        result["val"] = _measured(run, trainer, "val", path)
    result["test"] = _measured(run, trainer, "test", path)
    if per_class := run.described.test_per_class:
        names = run.data.class_names or map(str, range(len(per_class)))
        named = zip(names, per_class, strict=True)
        result["test_per_class"] = {name: iou for name, iou in named if not math.isnan(iou)}
    return result


def _beside_checkpoint(run: Run) -> Path:
    assert run.checkpoint is not None
    checkpoint = Path(run.checkpoint).resolve()
    limit = run.trainer["limit_predict_batches"]
    whole = limit is None or (isinstance(limit, float) and limit == 1)  # 1 is one batch
    part = run.is_trial or not whole
    return checkpoint.with_name(f"predictions-{checkpoint.stem}{'-part' if part else ''}")


def prepared(run: Run, split: str, **changes: Any) -> Trainer:
    """Load data and teacher; returns a Trainer without log and checkpoints, the mask in place.

    Args:
        run: made from a checkpoint.
        split: ``val``, ``test``, or ``predict`` for the test data.
        changes: of the Trainer's settings.

    Raises:
        UserError: there is no such split, or the checkpoint or its teacher does not fit.
    """
    run.load_data("test")
    if split == "val" and not run.data.has_validation:
        raise UserError(f"{run.data.name} has no validation split here: use `test`")
    assert run.checkpoint is not None
    check_evaluated(run.checkpoint, run.identity)
    check_measured(run, split)
    if teacher := run.described.frozen_teacher:
        load_trained(run, teacher)
    quiet = {"logger": False, "enable_checkpointing": False}
    settings = {**run.trainer, **quiet, **changes, "callbacks": None}
    mask = [] if run.mask is None else [run.mask]
    settings["callbacks"] = [*mask, *progress_of(settings, run.command)]
    return build_trainer(settings, trains=False)


def _measured(
    run: Run, trainer: Trainer, split: Literal["val", "test"], path: str | Path | None
) -> dict[str, float]:
    method = trainer.validate if split == "val" else trainer.test
    found = method(run.model, datamodule=run.data, ckpt_path=path, verbose=False)[0]
    return metrics_by_name(found)


def metrics_by_name(logged: Mapping[str, float]) -> dict[str, float]:
    """Return what was logged: ``val/x`` and ``test/x`` as ``x``, other names as they are.

    Raises:
        UserError: two names become one.
    """
    found: dict[str, float] = {}
    for name, value in logged.items():
        short = name.removeprefix("val/").removeprefix("test/")
        if short in found:
            raise UserError(f"the metric {short} is logged twice, also as {name}: rename one")
        found[short] = float(value)
    return found


def check_measured(run: Run, split: str) -> None:
    """Refuse to measure a split, once loaded, of which ``limit_<split>_batches`` leaves none.

    Raises:
        UserError: nothing would be measured.
    """
    limit = run.trainer[f"limit_{split}_batches"]
    if limit is None:
        return
    batches = len(getattr(run.data, f"{split}_dataloader")())
    if (limit if isinstance(limit, int) else int(limit * batches)) == 0:
        raise UserError(
            f"trainer.limit_{split}_batches is {limit}, which leaves none of the {batches} "
            "batches: nothing would be measured; raise it, or leave it out"
        )
