"""Algorithm 1 alone, or the divergence of pixels, with its figures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ntdh_bench.batch import PairedBatch
from ntdh_bench.runs.fitting import fit, make_record, origin_notes, source_note
from ntdh_bench.commands.summary import print_summary
from ntdh_bench.runs.teacher import load_pair
from ntdh_bench.runs.training import FitCLI, running
from ntdh_bench.contract import described
from ntdh_bench.errors import UserError
from ntdh_bench.masks import FeatureMask, SampleMask
from ntdh_bench.masks.divergence_maps import divergence_report
from ntdh_bench.masks.saliency_figures import HEATMAPS, saliency_report


def run(cli: FitCLI) -> dict[str, Any]:
    """Train the pair if need be, write what Algorithm 1 finds; returns a record with the maps.

    In dense tasks without a FeatureMask the student is trained as well, and what is written is
    where the two diverge, and what a SampleMask (by default the most divergent quarter) drops.

    Raises:
        UserError: the config has no teacher, or another mask than a FeatureMask (dense tasks: or a
            SampleMask); or targets are volumes, which cannot be drawn.
    """
    with running(cli):
        return _run(cli)


def _run(cli: FitCLI) -> dict[str, Any]:
    started = time.monotonic()
    if described(cli.model).frozen_teacher is None:
        raise UserError("saliency needs a teacher: give a config whose model is DistillationModule")
    if not isinstance(cli.mask, FeatureMask) and (size := _target_size(cli)):
        if len(size) != 2:
            raise UserError(
                f"saliency draws divergence on images, but the targets of {cli.datamodule.name} "
                f"have the size {size} here: choose a task that labels pixels"
            )
        return _divergence(cli, started)
    mask = cli.mask or FeatureMask(ratio=0.25, seed=cli.config.seed_everything)
    if not isinstance(mask, FeatureMask):
        raise UserError(f"saliency needs --mask FeatureMask, not {type(mask).__name__}")
    mask.check(cli.model.frozen_teacher)
    teacher = load_pair(cli)
    mask.anew = not cli.uses_cache
    paths = saliency_report(cli.model.frozen_teacher, cli.datamodule, mask, cli.folder / "saliency")
    if mask.from_cache:
        cli.from_cache["saliency"] = mask.from_cache
    maps = _average_maps(cli.folder / "saliency" / HEATMAPS)
    return _finish(cli, paths, maps, teacher, started)


def _target_size(cli: FitCLI) -> tuple[int, ...]:
    """Return the size of one target: () for a class a sample, (height, width) for one a pixel."""
    batch: PairedBatch = next(cli.datamodule.batches("train", batch_size=1))
    return tuple(batch["target"].shape[1:])


def _divergence(cli: FitCLI, started: float) -> dict[str, Any]:
    teacher = load_pair(cli)
    fit(cli)
    mask = cli.mask or SampleMask(ratio=0.25, seed=cli.config.seed_everything)
    folder = cli.folder / "divergence"
    paths, maps = divergence_report(
        cli.model.frozen_teacher.network, cli.model.student, cli.datamodule, mask, folder
    )
    return _finish(cli, paths, maps, teacher, started)


def _finish(
    cli: FitCLI, paths: list[Path], maps: dict[str, Any], teacher: str, started: float
) -> dict[str, Any]:
    """Print where the files are; returns the record."""
    notes = {"source": source_note(cli.datamodule.source), **origin_notes(cli, teacher)}
    notes["numbers"] = str(paths[0])
    notes |= {path.stem.replace("_", " "): str(path) for path in paths if path.suffix == ".png"}
    print_summary("", {}, notes)
    outcome = {
        "arm": "saliency",
        "epochs": cli.trainer.current_epoch,
        "metrics": {"last": None, "best": None},
        "curves": {},
        "maps": maps,
    }
    return make_record(cli, outcome, teacher, time.monotonic() - started)


def _average_maps(path: Path) -> dict[str, Any]:
    """Return what each mask removes, in pixels, averaged over images; empty without images."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        removed = arrays["removed_pixels"][:, 0].tolist()
        return dict(zip(arrays["masks"].tolist(), removed, strict=True))
