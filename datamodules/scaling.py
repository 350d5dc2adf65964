"""Scaling by what the training samples say."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

#: What :func:`standardised` does, for model cards.
STANDARDISED = (
    "each feature (channel of images) less its mean, divided by its deviation, over the training "
    "samples"
)


def standardised(values: NDArray[Any], train: Tensor, kept: int = 1) -> Tensor:
    """Return float32 values with mean 0 and deviation 1 over the training samples.

    Args:
        values: numbers ``(N, ...)``; may hold nothing.
        train: int64, positions of the training samples.
        kept: the dimension whose positions are scaled each by itself; over all others the mean and
            the deviation are taken. What is constant is only centred.
    """
    scaled = torch.from_numpy(values).double()
    if not scaled.numel():
        return scaled.float()
    others = [dim for dim in range(scaled.dim()) if dim != kept % scaled.dim()]
    chosen = scaled[train]
    spread = chosen.std(others, correction=0, keepdim=True)
    mean = chosen.mean(others, keepdim=True)
    return ((scaled - mean) / spread.where(spread > 0, 1.0)).float()
