"""Algorithm 1 alone, or the divergence of pixels, with its figures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ntdh_bench.batch import PairedBatch
from ntdh_bench.errors import UserError
from ntdh_bench.frozen_teacher import FrozenTeacher
from ntdh_bench.masks import FeatureMask, SampleMask
from ntdh_bench.masks.divergence_maps import divergence_report
from ntdh_bench.masks.saliency_figures import HEATMAPS, saliency_report
from ntdh_bench.runs.fitting import make_record, train_student
from ntdh_bench.runs.run import Run
from ntdh_bench.runs.session import running
from ntdh_bench.runs.teacher import load_pair
from ntdh_bench.runs.trainers import student_trainer


def map_divergence(run: Run) -> tuple[dict[str, Any], list[Path]]:
    """Train the pair if need be, write what Algorithm 1 finds.

    In dense tasks without a FeatureMask the student is trained as well, and what is written is
    where the two diverge, and what a SampleMask (by default the most divergent quarter) drops.

    Returns:
        A record with the maps, and what was written: the numbers first, then the figures.

    Raises:
        UserError: the config has no teacher, an intervention on it, or another mask than a
            FeatureMask (dense tasks: or a SampleMask); or targets are volumes, which cannot be
            drawn.
    """
    with running(run):
        started = time.monotonic()
        student = student_trainer(run)
        if (pair := run.described.frozen_teacher) is None:
            raise UserError(
                "saliency needs a teacher: give a config whose model is DistillationModule"
            )
        if pair.intervention is not None:
            raise UserError(
                "saliency shows the networks as they are trained, but model.intervention changes "
                "what the teacher says: leave it out"
            )
        dense = not isinstance(run.mask, FeatureMask) and _is_dense(run)
        mask = _mask_of(run, pair, dense)
        teacher = load_pair(run, pair)
        if isinstance(mask, FeatureMask):
            paths, maps = _saliency(run, pair, mask)
        else:
            train_student(run, student)
            folder, parts = run.folder / "divergence", (pair.network, run.model.student)
            paths, maps = divergence_report(*parts, run.data, mask, folder)
        outcome = {
            "arm": "saliency",
            "epochs": student.trainer.current_epoch,
            "metrics": {"last": None, "best": None},
            "curves": {},
            "maps": maps,
        }
        seconds = time.monotonic() - started
        return make_record(run, student.trainer, outcome, teacher, seconds), paths


def _is_dense(run: Run) -> bool:
    """Return whether targets are a class a pixel, not one a sample.

    Raises:
        UserError: they are volumes.
    """
    batch: PairedBatch = next(run.data.batches("train", batch_size=1))
    size = tuple(batch["target"].shape[1:])
    if len(size) not in (0, 2):
        raise UserError(
            f"saliency draws divergence on images, but the targets of {run.data.name} "
            f"have the size {size} here: choose a task that labels pixels"
        )
    return bool(size)


def _mask_of(run: Run, pair: FrozenTeacher, dense: bool) -> FeatureMask | SampleMask:
    """Return the mask whose choice is drawn: the run's, or one of a quarter."""
    wanted = SampleMask if dense else FeatureMask
    mask = run.mask or wanted(ratio=0.25, seed=run.config["seed_everything"])
    if not isinstance(mask, wanted):
        raise UserError(f"saliency needs --mask {wanted.__name__}, not {type(mask).__name__}")
    if isinstance(mask, SampleMask):
        return mask
    mask.check(pair, run.data)
    mask.anew = not run.uses_cache
    return mask


def _saliency(
    run: Run, pair: FrozenTeacher, mask: FeatureMask
) -> tuple[list[Path], dict[str, Any]]:
    folder = run.folder / "saliency"
    paths = saliency_report(pair, run.data, mask, folder)
    if mask.from_cache:
        run.from_cache["saliency"] = mask.from_cache
    return paths, _average_maps(folder / HEATMAPS)


def _average_maps(path: Path) -> dict[str, Any]:
    """Return what each mask removes, in pixels, averaged over images; empty without images."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        removed = arrays["removed_pixels"][:, 0].tolist()
        return dict(zip(arrays["masks"].tolist(), removed, strict=True))
