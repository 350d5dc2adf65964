"""SalsaNext, the lidar branch: segmentation of projected scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .padding import pad_to_multiple

DOWNSAMPLING = 16


class SalsaNext(nn.Module):
    """Segmentation of lidar images (Cortinhal et al., ISVC 2020).

    ``(B, in_channels, H, W) -> (B, num_classes, H, W)`` for any H and W: images are padded to
    multiples of 16 inside. With 5 channels and 20 classes it has 6,711,572 parameters.

    Args:
        in_channels: of the lidar image (range, x, y, z, intensity).
        num_classes: logits per pixel.
        width: channels of the first stage; 32 as published.
        dropout: probability that a channel is dropped.
    """

    def __init__(
        self, in_channels: int = 5, num_classes: int = 20, width: int = 32, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.context = nn.Sequential(
            _ContextBlock(in_channels, width),
            _ContextBlock(width, width),
            _ContextBlock(width, width),
        )
        self.widths = (2 * width, 4 * width, 8 * width, 8 * width)
        before = (width, *self.widths[:3])
        self.down = nn.ModuleList(map(_DownBlock, before, self.widths))
        self.pool = nn.ModuleList(_pooling(p) for p in (0.0, dropout, dropout, dropout))
        self.bottom = nn.Sequential(_DownBlock(8 * width, 8 * width), nn.Dropout2d(dropout))
        self.up = nn.ModuleList(
            [
                _UpBlock(8 * width, self.widths[3], 4 * width, dropout),
                _UpBlock(4 * width, self.widths[2], 4 * width, dropout),
                _UpBlock(4 * width, self.widths[1], 2 * width, dropout),
                _UpBlock(2 * width, self.widths[0], width, 0.0),
            ]
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, num_classes, H, W)``."""
        height, width = images.shape[-2:]
        x = self.context(pad_to_multiple(images, DOWNSAMPLING))
        skips = []
        for down, pool in zip(self.down, self.pool, strict=True):
            skips.append(down(x))
            x = pool(skips[-1])
        return self.decode(self.bottom(x), skips)[..., :height, :width]

    def decode(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Return logits at full resolution from the map at 1/16 and the four ``down`` outputs."""
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip)
        logits: Tensor = self.head(x)
        return logits


class _ContextBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shortcut = _shortcut(in_channels, out_channels)
        self.residual = nn.Sequential(
            conv_block(out_channels, out_channels, 3, padding=1),
            conv_block(out_channels, out_channels, 3, padding=2, dilation=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(x)
        residual: Tensor = self.residual(shortcut)
        return shortcut + residual


class _DilatedStack(nn.Module):
    """Three convolutions of growing reach, their outputs joined by a fourth."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.near = conv_block(in_channels, out_channels, 3, padding=1)
        self.middle = conv_block(out_channels, out_channels, 3, padding=2, dilation=2)
        self.far = conv_block(out_channels, out_channels, 2, padding=1, dilation=2)
        self.join = conv_block(3 * out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.near(x)
        middle = self.middle(near)
        joined: Tensor = self.join(torch.cat([near, middle, self.far(middle)], dim=1))
        return joined


class _DownBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shortcut = _shortcut(in_channels, out_channels)
        self.residual = _DilatedStack(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(x)
        residual: Tensor = self.residual(x)
        return shortcut + residual


class _UpBlock(nn.Module):
    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.shuffle = nn.Sequential(nn.PixelShuffle(2), nn.Dropout2d(dropout))
        self.dropout = nn.Dropout2d(dropout)
        self.stack = _DilatedStack(in_channels // 4 + skip_channels, out_channels)
        self.last_dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined = self.dropout(torch.cat([self.shuffle(x), skip], dim=1))
        out: Tensor = self.last_dropout(self.stack(joined))
        return out


def conv_block(in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any) -> nn.Module:
    """Return convolution, LeakyReLU and batch normalisation, in this order."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, **kwargs),
        nn.LeakyReLU(),
        nn.BatchNorm2d(out_channels),
    )


def _shortcut(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.LeakyReLU())


def _pooling(dropout: float) -> nn.Module:
    return nn.Sequential(nn.Dropout2d(dropout), nn.AvgPool2d(3, stride=2, padding=1))
