"""What a distiller compares in dense tasks: a row a pixel, features averaged to a row a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ntdh_bench.errors import UserError
from ntdh_bench.layers import AVERAGED_LOGITS, LOGITS

_POOLING: dict[int, Callable[[Tensor, Any], Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def samples_kept(keep: Tensor) -> Tensor:
    """Return which samples of ``keep``, bool ``(B, *spatial)``, have a position: bool ``(B,)``."""
    return keep.reshape(len(keep), -1).any(dim=1)


def kept_outputs(outputs: Mapping[str, Tensor], keep: Tensor) -> dict[str, Tensor]:
    """Return what is left of a network's outputs where ``keep`` is true.

    Args:
        outputs: ``logits`` ``(B, C, *spatial)`` and tapped layers ``(B, D, ...)``, by name.
        keep: bool ``(B, *spatial)``.

    Returns:
        ``logits`` as rows ``(M, C)``, one a position kept, in the order of ``keep.flatten()``; the
        layers, and the logits once more, averaged over positions (:func:`averaged`).

    Raises:
        UserError: a layer's outputs do not lie in the plane of the targets.
    """
    if keep.dim() == 1:
        return {name: values[keep] for name, values in outputs.items()}
    features = {AVERAGED_LOGITS if name == LOGITS else name: v for name, v in outputs.items()}
    return {
        LOGITS: outputs[LOGITS].movedim(1, -1)[keep],
        **{name: averaged(values, keep, name) for name, values in features.items()},
    }


def averaged(features: Tensor, keep: Tensor, layer: str) -> Tensor:
    """Average features over the positions kept, one row for every sample that has any.

    A position of a smaller (or larger) feature map weighs as much as the share of the targets under
    it that is kept.

    Args:
        features: ``(B, D, *smaller)``; ``(B, D)`` is taken as it is.
        keep: bool ``(B, *spatial)``.
        layer: named by errors.

    Returns:
        ``(B', D)``, at least float32.

    Raises:
        UserError: ``features`` has another number of spatial dimensions than ``keep``.
    """
    present = samples_kept(keep)
    if features.dim() == 2:
        return features[present]
    if features.dim() != keep.dim() + 1:
        raise UserError(
            f"layer {layer!r} gives {features.dim() - 2} spatial dimensions, but the targets have "
            f"{keep.dim() - 1}: distil another layer"
        )
    rows = features[present].flatten(2)
    weights = _POOLING[keep.dim() - 1](keep[present, None].float(), features.shape[2:]).flatten(2)
    weights = weights / weights.sum(dim=2, keepdim=True)
    with torch.autocast(features.device.type, enabled=False):
        dtype = torch.promote_types(rows.dtype, torch.float32)
        return torch.einsum("bdn,bn->bd", rows.to(dtype), weights.squeeze(1).to(dtype))
