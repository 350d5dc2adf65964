"""What a distiller compares in dense tasks: a row a pixel, features averaged to a row a sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ntdh_bench.distillers.maps import pooled
from ntdh_bench.errors import UserError
from ntdh_bench.layers import AVERAGED_LOGITS, LOGITS, map_of, share_of


def samples_kept(keep: Tensor) -> Tensor:
    """Return which samples of ``keep``, bool ``(B, *spatial)``, have a position: bool ``(B,)``."""
    return keep.reshape(len(keep), -1).any(dim=1)


def kept_outputs(
    outputs: Mapping[str, Tensor], keep: Tensor, maps: bool = False
) -> dict[str, Tensor]:
    """Return what is left of a network's outputs where ``keep`` is true.

    Args:
        outputs: ``logits`` ``(B, C, *spatial)`` and tapped layers ``(B, D, ...)``, by name.
        keep: bool ``(B, *spatial)``.
        maps: whether positions are compared one by one.

    Returns:
        ``logits`` as rows ``(M, C)``, one a position kept, in the order of ``keep.flatten()``; the
        layers, and the logits once more, averaged over positions (:func:`averaged`). With ``maps``
        the outputs of samples that have any position as they are, ``(B', D, *smaller)`` under
        ``map_of(name)``, and how much of each position is kept, ``(B', *smaller)`` under
        ``share_of(name)``.

    Raises:
        UserError: a layer's outputs do not lie in the plane of the targets.
    """
    if keep.dim() == 1:
        return {name: values[keep] for name, values in outputs.items()}
    features = {AVERAGED_LOGITS if name == LOGITS else name: v for name, v in outputs.items()}
    kept = {
        LOGITS: outputs[LOGITS].movedim(1, -1)[keep],
        **{name: averaged(values, keep, name) for name, values in features.items()},
    }
    for name, values in outputs.items() if maps else ():
        if values.dim() > 2:
            kept[map_of(name)] = values[samples_kept(keep)]
            kept[share_of(name)] = shares(keep, values)
    return kept


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
    weights = shares(keep, features).flatten(1)
    weights = weights / weights.sum(dim=1, keepdim=True)
    with torch.autocast(features.device.type, enabled=False):
        dtype = torch.promote_types(rows.dtype, torch.float32)
        return torch.einsum("bdn,bn->bd", rows.to(dtype), weights.to(dtype))


def shares(keep: Tensor, features: Tensor) -> Tensor:
    """Return how much of the targets under each position of a map is kept.

    Args:
        keep: bool ``(B, *spatial)``.
        features: ``(B, D, *smaller)``, of as many axes.

    Returns:
        float32 ``(B', *smaller)`` in [0, 1], of the samples that have any position.
    """
    return pooled(keep[samples_kept(keep), None].float(), features.shape[2:]).squeeze(1)
