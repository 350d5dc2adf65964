"""Camera branch of PMF: a ResNet encoder with a light decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .padding import pad_to_multiple
from .resnet import DOWNSAMPLING, WIDTHS, Backbone, ResNetEncoder

_DECODER_WIDTH = 16


class CameraDecoder(nn.Module):
    """Decoder from the four maps of a ResNetEncoder to logits at full resolution.

    Args:
        num_classes: logits per pixel.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.up4 = _upsampling(WIDTHS[3], kernel_size=3)
        self.up3 = _upsampling(WIDTHS[2] + _DECODER_WIDTH, kernel_size=3)
        self.up2 = _upsampling(WIDTHS[1] + _DECODER_WIDTH, kernel_size=3)
        self.up1 = _upsampling(WIDTHS[0] + _DECODER_WIDTH, kernel_size=1)
        self.head = nn.Conv2d(_DECODER_WIDTH, num_classes, 3, padding=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits ``(B, num_classes, H, W)``."""
        first, second, third, fourth = features
        x = self.up4(fourth)
        x = self.up3(torch.cat([x, third], dim=1))
        x = self.up2(torch.cat([x, second], dim=1))
        x = self.up1(torch.cat([x, first], dim=1))
        logits: Tensor = self.head(x)
        return logits


class CameraNet(nn.Module):
    """Segmentation of images, PMF's camera branch (Zhuang et al., ICCV 2021).

    ``(B, in_channels, H, W) -> (B, num_classes, H, W)`` for any H and W: images are padded to
    multiples of 16 inside. With 3 channels and 20 classes it has 21,422,676 parameters, the 21.42M
    of the paper's Table I. With 5 channels the same network takes lidar images.

    Args:
        in_channels: of the image.
        num_classes: logits per pixel.
        backbone: 34 layers as published, or 18 for small runs.
        dropout: on the two deepest feature maps.
        pretrained: a file with torchvision's weights of the backbone; random weights without it.

    Raises:
        UserError: ``pretrained`` is missing, damaged, or holds another network.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 20,
        backbone: Backbone = "resnet34",
        dropout: float = 0.2,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(in_channels, backbone, dropout, pretrained)
        self.decoder = CameraDecoder(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, num_classes, H, W)``."""
        height, width = images.shape[-2:]
        logits: Tensor = self.decoder(self.encoder(pad_to_multiple(images, DOWNSAMPLING)))
        return logits[..., :height, :width]


def _upsampling(in_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, _DECODER_WIDTH, kernel_size, padding=kernel_size // 2),
        nn.LeakyReLU(),
        nn.BatchNorm2d(_DECODER_WIDTH),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    )
