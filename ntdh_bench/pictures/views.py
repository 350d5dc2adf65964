"""A few samples as a network sees them, small enough to keep: images or lines."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ntdh_bench.batch import Inputs

_SIDE = 256  # of an image, at most, in pixels
_POINTS = 256  # of a line, at most
_LINES = 16  # a series of more channels is shown as an image
_TILES = 4  # frames, or channels that are no colours, side by side


def views(inputs: Inputs, name: str) -> dict[str, NDArray[np.uint8] | NDArray[np.float32]]:
    """Return what can be shown of inputs, by name.

    Args:
        inputs: of N samples, on any device.
        name: of the modality; of several inputs each is ``name.input``.

    Returns:
        ``(N, H, W)`` or ``(N, H, W, 3)`` in uint8, images on one scale over all samples; or
        ``(N, K, L)`` in float32, K lines. What is neither, such as positions, is left out.
    """
    given: Mapping[str, Tensor] = inputs if isinstance(inputs, dict) else {"": inputs}
    found = {f"{name}.{key}" if key else name: _view(value) for key, value in given.items()}
    return {key: value for key, value in found.items() if value is not None}


def _view(values: Tensor) -> NDArray[np.uint8] | NDArray[np.float32] | None:
    if not values.is_floating_point() or not values.numel():
        return None
    values = torch.nan_to_num(values.detach().float().cpu())
    if values.dim() == 2:
        return _lines(values.unsqueeze(1))
    if values.dim() == 3 and min(values.shape[1:]) <= _LINES:
        channels_last = values.shape[2] < values.shape[1]
        return _lines(values.transpose(1, 2) if channels_last else values)
    if values.dim() == 3:
        return _image(_in_small(values.unsqueeze(1)))
    if values.dim() == 4 and values.shape[1] in (1, 3):
        return _image(_in_small(values))
    if values.dim() == 4:
        return _image(_tiled(values.unsqueeze(2)))
    if values.dim() == 5 and values.shape[2] in (1, 3):
        return _image(_tiled(values))
    if values.dim() == 5 and values.shape[1] in (1, 3):
        return _image(_tiled(values.transpose(1, 2)))
    return None


def _lines(values: Tensor) -> NDArray[np.float32]:
    """Return lines ``(N, K, L)``, longer ones as means of neighbours."""
    step = -(-values.shape[2] // _POINTS)
    if step > 1:
        values = F.avg_pool1d(values, step, ceil_mode=True)
    result: NDArray[np.float32] = values.numpy()
    return result


def _tiled(frames: Tensor) -> Tensor:
    """Return some of ``(N, T, C, H, W)`` side by side: ``(N, C, H', T' * W')``, each scaled."""
    count = frames.shape[1]
    chosen = [place * count // min(count, _TILES) for place in range(min(count, _TILES))]
    return torch.cat([_scaled(_in_small(frames[:, place])) for place in chosen], dim=3)


def _image(values: Tensor) -> NDArray[np.uint8]:
    """Return images ``(N, H, W)``, or ``(N, H, W, 3)`` of three channels."""
    scaled = (255 * _scaled(values)).round().to(torch.uint8).movedim(1, -1)
    result: NDArray[np.uint8] = scaled.squeeze(-1).numpy()
    return result


def _in_small(values: Tensor) -> Tensor:
    step = _stride(values.shape[2:])
    return F.avg_pool2d(values, step, ceil_mode=True) if step > 1 else values


def _scaled(values: Tensor) -> Tensor:
    """Return values in [0, 1], by the range over all samples but for its outermost 3 %."""
    ordered = values.flatten().sort().values
    tail = len(ordered) * 3 // 100
    low, high = ordered[tail], ordered[len(ordered) - 1 - tail]
    return ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def _stride(size: torch.Size) -> int:
    """Return how many pixels of a side become one: labels are taken as often."""
    return max(1, -(-max(size) // _SIDE))


def labels(values: Tensor, ignored: Tensor) -> NDArray[np.int16]:
    """Return class numbers ``(N,)``, or a map ``(N, H, W)`` in small, -1 where ignored.

    Of volumes ``(N, A, B, C)`` one sees along the shortest side, from its end, the first class but
    0 (empty) among what counts.

    Args:
        values: int64 classes of N samples.
        ignored: bool, which do not count.
    """
    values = values.masked_fill(ignored, -1).cpu()
    if values.dim() == 4:
        values = _projected(values)
    if values.dim() == 3:
        step = _stride(values.shape[1:])
        values = values[:, step // 2 :: step, step // 2 :: step]
    result: NDArray[np.int16] = values.to(torch.int16).numpy()
    return result


def _projected(values: Tensor) -> Tensor:
    """Return ``(N, A, B)`` of ``(N, A, B, C)``, or of another shortest side than the last."""
    sides = values.shape[1:]
    axis = 1 + min(range(3), key=lambda place: sides[place])
    seen = values.movedim(axis, -1).flip(-1)
    first = (seen > 0).int().argmax(dim=-1, keepdim=True)  # 0 where there is none
    found = seen.gather(-1, first).squeeze(-1)
    empty = (seen == 0).any(dim=-1) & ~(seen > 0).any(dim=-1)
    return found.masked_fill(empty, 0)
