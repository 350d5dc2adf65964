"""Where teacher and student of a dense task diverge, pixel by pixel, on the image (Fig. 12)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ntdh_bench.batch import Inputs, PairedBatch, PairedData, Split, has_both, inputs_of
from ntdh_bench.divergence import ncjsd
from ntdh_bench.masks import plots
from ntdh_bench.masks.sample_mask import SampleMask
from ntdh_bench.networks import device_of, evaluating, to_device

_SAMPLES = 2
_ROWS = 32  # of the maps that are kept in a record, at most
_DIGITS = 4


class DivergenceMaps(NamedTuple):
    """Maps of B samples, one value a pixel.

    Attributes:
        image: float32 ``(B, H, W)``, grey, in [0, 1].
        seen: bool ``(B, H, W)``, pixels with a target that counts.
        ncjsd: float32 ``(B, H, W)`` in nats; 0 where there is no target.
        dropped: bool ``(B, H, W)``, pixels that the sample mask drops.
    """

    image: Tensor
    seen: Tensor
    ncjsd: Tensor
    dropped: Tensor


@torch.no_grad()
def divergence_maps(
    teacher: nn.Module,
    student: nn.Module,
    batch: PairedBatch,
    mask: SampleMask,
    ignore_index: int = 255,
) -> DivergenceMaps:
    """Return the maps of a batch with targets ``(B, H, W)``, ranked together as in training."""
    device = device_of(student)
    teacher.to(device)
    target = batch["target"].to(device)
    with evaluating(teacher, student):
        logits_a = teacher(to_device(batch["teacher"], device))
        logits_b = student(to_device(batch["student"], device))
    seen = target != ignore_index
    rows_a, rows_b = (logits.movedim(1, -1)[seen] for logits in (logits_a, logits_b))
    values = torch.zeros(target.shape, device=device)
    values[seen] = ncjsd(rows_a, rows_b, target[seen]).float()
    kept = mask.keep_rows(rows_a, rows_b, target[seen], 0, 0)
    left = torch.ones(len(rows_a), dtype=torch.bool, device=device)
    left[kept] = False
    dropped = torch.zeros_like(seen)
    dropped[seen] = left
    image = _grey(batch["teacher"], target.shape[1:])
    return DivergenceMaps(image.cpu(), seen.cpu(), values.cpu(), dropped.cpu())


def divergence_report(
    teacher: nn.Module, student: nn.Module, datamodule: PairedData, mask: SampleMask, out_dir: Path
) -> tuple[list[Path], dict[str, Any]]:
    """Draw the divergence of a few validation samples (test samples without a validation split).

    Args:
        teacher: trained.
        student: trained.
        datamodule: of images with a target for each pixel, set up.
        mask: whose choice is drawn.
        out_dir: created if needed.

    Returns:
        The files (numbers, PNG, SVG), and the maps in small, as lists, by name, for a record.

    Raises:
        UserError: a folder that cannot be written.
    """
    split: Split = "val" if datamodule.has_validation else "test"
    batch = next(datamodule.batches(split, batch_size=_SAMPLES))
    maps = divergence_maps(teacher, student, batch, mask, datamodule.ignore_index)
    arrays = {name: values.numpy() for name, values in maps._asdict().items()}
    note = " (simulated data)" if datamodule.source == "simulated" else ""
    figure = plots.divergence_figure(
        **arrays,
        title=f"Non-target divergence of teacher and student{note}",
        dropped_label=f"dropped: {mask}",
    )
    paths = [
        plots.save_arrays(out_dir / "divergence.npz", arrays),
        *plots.save_figure(figure, out_dir, "divergence"),
    ]
    return paths, _in_small(maps)


def _grey(inputs: Inputs, size: torch.Size) -> Tensor:
    """Return images in [0, 1] as a backdrop ``(B, H, W)``; plain where the input is none."""
    if has_both(inputs):
        inputs = inputs_of("teacher", inputs)
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or inputs.shape[2:] != size:
        count = len(inputs) if isinstance(inputs, Tensor) else len(next(iter(inputs.values())))
        return torch.zeros(count, *size)
    grey = inputs.float().mean(dim=1)
    low, high = grey.amin(dim=(1, 2), keepdim=True), grey.amax(dim=(1, 2), keepdim=True)
    return (grey - low) / (high - low).clamp(min=torch.finfo(grey.dtype).eps)


def _in_small(maps: DivergenceMaps) -> dict[str, Any]:
    """Return every sample's maps, averaged over blocks (of pixels with a target) and rounded."""
    height, width = maps.image.shape[1:]
    rows = min(_ROWS, height)
    size = rows, max(1, round(width * rows / height))
    seen = adaptive_avg_pool2d(maps.seen.float(), size)
    small = {
        "image": adaptive_avg_pool2d(maps.image, size),
        "NCJSD": _ratio(adaptive_avg_pool2d(maps.ncjsd, size), seen),
        "share dropped": _ratio(adaptive_avg_pool2d(maps.dropped.float(), size), seen),
    }
    return {
        f"sample {number + 1}, {name}": values[number].double().round(decimals=_DIGITS).tolist()
        for number in range(len(maps.image))
        for name, values in small.items()
    }


def _ratio(values: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen > 0, values / seen.clamp(min=1e-12), 0.0)
