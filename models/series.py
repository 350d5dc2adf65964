"""Convolutional network of the paired sets of series."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Windows(nn.Module):
    """Takes every window of a series: ``(B, C, T)`` to ``(B, T, C * size)``, padded with zeros.

    With a linear layer behind it, that is a convolution over time, whose batched form is a product
    of matrices: on a CPU twice as fast as ``Conv1d`` at these sizes.

    Args:
        size: time steps of a window, odd.
    """

    samplewise = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, series: Tensor) -> Tensor:
        """Return the windows around all time steps."""
        padded = F.pad(series, (self.size // 2, self.size // 2))
        return padded.unfold(2, self.size, 1).transpose(1, 2).flatten(2)


class Transposed(nn.Module):
    """Exchanges time and channels: ``(B, T, *)`` to ``(B, prod(*), T)``."""

    samplewise = True

    def forward(self, series: Tensor) -> Tensor:
        """Return the series the other way round."""
        return series.flatten(2).transpose(1, 2)


class SeriesCNN(nn.Sequential):
    """Classifier of series ``(B, T, C) -> (B, num_classes)``; T at least 2, more dimensions go.

    Two convolutions over time with maximum pooling, the second to four parts of the series, and two
    linear layers. They are called ``conv1``, ``conv2`` (``(B, width, time)``, after ReLU and
    pooling), ``flatten``, ``hidden2`` (after ReLU; before the head as in other networks here) and
    ``head``.

    Args:
        channels: values of a time step; of frames ``(T, H, W)`` their pixels.
        num_classes: logits.
        widths: channels of the two convolutions.
        hidden: width of the layer before the head.
        kernel: time steps that a convolution sees, odd.
    """

    parts = 4

    def __init__(
        self,
        channels: int,
        num_classes: int,
        widths: Sequence[int] = (32, 64),
        hidden: int = 64,
        kernel: int = 5,
    ) -> None:
        super().__init__()
        first, second = widths
        self.add_module("transposed", Transposed())
        self.add_module("conv1", _convolution(channels, first, kernel, nn.MaxPool1d(2)))
        pool = nn.AdaptiveMaxPool1d(self.parts)
        self.add_module("conv2", _convolution(first, second, kernel, pool))
        self.add_module("flatten", nn.Flatten())
        linear = nn.Linear(self.parts * second, hidden)
        self.add_module("hidden2", nn.Sequential(linear, nn.ReLU()))
        self.add_module("head", nn.Linear(hidden, num_classes))


def _convolution(before: int, after: int, kernel: int, pool: nn.Module) -> nn.Sequential:
    linear = nn.Linear(before * kernel, after)
    return nn.Sequential(Windows(kernel), linear, Transposed(), nn.ReLU(), pool)
