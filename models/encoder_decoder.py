"""A light network that labels every pixel, for images of any modality."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from .padding import pad_to_multiple

_DOWNSAMPLING = 32


class EncoderDecoder(nn.Module):
    """Residual encoder with a feature-pyramid decoder (He et al. 2016; Lin et al. 2017).

    ``(B, in_channels, H, W) -> (B, num_classes, H, W)`` for any H and W: images are padded to
    multiples of 32 inside. The encoder halves the image five times, the decoder adds what each
    stage saw on the way back to half the resolution, from where logits are interpolated. Only the
    first convolution knows the modality: with 40 classes there are 783,432 parameters for RGB and
    783,144 for depth.

    Args:
        in_channels: of the image.
        num_classes: logits per pixel.
        width: channels of the first stage; the others have 2, 4, 6 and 8 times as many.
        decoder_width: channels of the decoder.
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 40, width: int = 16, decoder_width: int = 48
    ) -> None:
        super().__init__()
        widths = [width * factor for factor in (1, 2, 4, 6, 8)]
        self.stages = nn.ModuleList(
            [
                _convolution(in_channels, widths[0], stride=2),
                *(
                    nn.Sequential(_convolution(before, after, stride=2), _Residual(after))
                    for before, after in pairwise(widths)
                ),
            ]
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, decoder_width, 1) for width in widths)
        self.smooth = _convolution(decoder_width, decoder_width)
        self.head = nn.Conv2d(decoder_width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, num_classes, H, W)``."""
        x = pad_to_multiple(images, _DOWNSAMPLING)
        size = x.shape[-2:]
        seen = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            seen.append(lateral(x))
        merged = seen.pop()
        while seen:
            finer = seen.pop()
            merged = finer + F.interpolate(merged, finer.shape[-2:], mode="bilinear")
        logits = F.interpolate(self.head(self.smooth(merged)), size, mode="bilinear")
        return logits[..., : images.shape[-2], : images.shape[-1]]


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
