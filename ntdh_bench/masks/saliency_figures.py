"""Algorithm 1 alone: its numbers and figures in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch, PairedData
from ntdh_bench.frozen_teacher import FrozenTeacher
from ntdh_bench.layers import INPUT
from ntdh_bench.masks import heatmaps, plots
from ntdh_bench.masks.base import Removes
from ntdh_bench.masks.feature_mask import FeatureMask, SaliencyReading
from ntdh_bench.masks.nontarget import FeatureScore
from ntdh_bench.masks.saliency import Saliency
from ntdh_bench.networks import device_of, evaluating

HEATMAPS = "heatmaps.npz"  # holds (masks, 1 + classes, H, W), the average over classes first
# Enough for maps without visible noise; all of MNIST would take ten times as long.
_SAMPLES = 6000
_CLASSES = 10  # shown at most, so that a figure fits on a page; the file holds all
_SCORES: dict[FeatureScore, tuple[str, str]] = {  # name and unit
    "ncjsd": ("NCJSD", "nats"),
    "mse": ("mean squared difference of logits", "squared logits"),
}
_READINGS: dict[SaliencyReading, str] = {
    "signed": "Saliency",
    "literal": "Saliency as printed (less a constant)",
}
_MASKS: dict[Removes, str] = {  # in the order of Fig. 10, with the paper's names
    "most_divergent": "True mask",
    "random": "Random mask",
    "least_divergent": "False mask",
}


def saliency_report(
    teacher: FrozenTeacher, datamodule: PairedData, mask: FeatureMask, out_dir: Path
) -> list[Path]:
    """Run Algorithm 1 (or read its cache) and write what it found; returns the files.

    ``saliency.npz`` and a plot of it; where the teacher sees images also ``removed_pixels`` (which
    pixels each of the three masks removes, Fig. 10) and ``input_gradients`` (through the masked
    teacher, removed features at 0), each as PNG and SVG, and ``heatmaps.npz`` with their numbers.

    Args:
        teacher: the unmasked pair.
        datamodule: after ``setup("fit")``; its training split is used.
        mask: names ratio, layer, permutations and seed; need not be prepared.
        out_dir: created if needed.

    Raises:
        UserError: no companion, no such layer, or a folder that cannot be written.
    """
    saliency = mask.saliency or mask.find_saliency(teacher, datamodule)
    saliency.save(out_dir / "saliency.npz")
    batch = next(iter(datamodule.batches("train")))
    note = " (simulated data)" if datamodule.source == "simulated" else ""
    name, unit = _SCORES[saliency.score]
    figure = plots.saliency_figure(
        mask.divergence_of(saliency).numpy(),
        round(mask.ratio * len(saliency.values)),
        f"{_READINGS[mask.reading]} of {mask.layer}: {name} {saliency.unmasked:.4f} unmasked, "
        f"M = {saliency.permutations}, {saliency.n_samples} samples{note}",
        _grey_shape(batch) if mask.layer == INPUT else None,
        unit,
    )
    paths = [out_dir / "saliency.npz", *plots.save_figure(figure, out_dir, "saliency")]
    if heatmaps.are_images(batch):
        paths += _write_heatmaps(teacher.network, datamodule, mask, saliency, out_dir, note)
    return paths


def _grey_shape(batch: PairedBatch) -> tuple[int, int] | None:
    images = batch["teacher"]
    if not heatmaps.are_images(batch) or not isinstance(images, Tensor) or images.shape[1] != 1:
        return None
    return images.shape[2], images.shape[3]


def _write_heatmaps(
    teacher: nn.Module,
    datamodule: PairedData,
    mask: FeatureMask,
    saliency: Saliency,
    out_dir: Path,
    note: str,
) -> list[Path]:
    classes, layer = datamodule.num_classes, mask.layer
    device = device_of(teacher)
    batches = datamodule.batches("train")
    images = list(heatmaps.first_images(batches, _SAMPLES, device, datamodule.ignore_index))
    divergence = mask.divergence_of(saliency)
    keeps = [mask.choose(divergence, removes).to(device) for removes in _MASKS]
    with evaluating(teacher):
        removed = [heatmaps.removed_maps(teacher, images, classes, layer, keep) for keep in keeps]
        gradients = [
            heatmaps.gradient_maps(teacher, images, classes, layer, keep) for keep in [None, *keeps]
        ]
    arrays = {
        "removed_pixels": torch.stack(removed).numpy(),
        "input_gradients": torch.stack(gradients).numpy(),
        "keep": torch.stack(keeps).cpu().numpy(),
    }
    masks = [f"{removes}\n({name})" for removes, name in _MASKS.items()]
    columns = ["average", *[f"class {k}" for k in range(min(classes, _CLASSES))]]
    share = f"{mask.ratio:.0%} of {layer}{note}"
    removed_figure = plots.heatmap_figure(
        arrays["removed_pixels"][:, : len(columns)],
        masks,
        columns,
        f"What masks of {share} remove, in input pixels",
        "pixel removed" if layer == INPUT else "mean |gradient| through the removed units",
        scale_per_row=layer != INPUT,
    )
    gradient_figure = plots.heatmap_figure(
        arrays["input_gradients"][:, : len(columns)],
        ["no mask", *masks],
        columns,
        f"Input gradients of the target's logit with masks of {share}",
        "mean |gradient|",
    )
    return [
        plots.save_arrays(out_dir / HEATMAPS, {**arrays, "masks": np.array([*_MASKS])}),
        *plots.save_figure(removed_figure, out_dir, "removed_pixels"),
        *plots.save_figure(gradient_figure, out_dir, "input_gradients"),
    ]
