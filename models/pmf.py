"""PMF: camera and lidar branch with residual fusion of camera features into the lidar branch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ntdh_bench.errors import UserError

from .camera import CameraNet
from .padding import pad_to_multiple
from .resnet import DOWNSAMPLING, WIDTHS, Backbone
from .salsanext import SalsaNext, conv_block


class PMFNet(nn.Module):
    """Perception-aware multi-sensor fusion (Zhuang et al., ICCV 2021, Fig. 3).

    The camera branch is a CameraNet, the lidar branch a SalsaNext into which the camera's features
    are fused at 1/2, 1/4, 1/8 and 1/16. Each predicts every pixel; the lidar branch's prediction is
    PMF's. 36,416,040 parameters with 3 and 5 channels and 20 classes.

    Args:
        num_classes: logits per pixel.
        camera_channels: of the image.
        lidar_channels: of the lidar image.
        width: channels of the lidar branch's first stage; 32 as published.
        backbone: 34 layers as published, or 18 for small runs.
        pretrained: a file with torchvision's weights of the backbone; random weights without it.

    Raises:
        UserError: ``pretrained`` is missing, damaged, or holds another network.
    """

    def __init__(
        self,
        num_classes: int = 20,
        camera_channels: int = 3,
        lidar_channels: int = 5,
        width: int = 32,
        backbone: Backbone = "resnet34",
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.camera = CameraNet(camera_channels, num_classes, backbone, pretrained=pretrained)
        self.lidar = SalsaNext(lidar_channels, num_classes, width)
        self.fusion = nn.ModuleList(map(_ResidualFusion, self.lidar.widths, WIDTHS))
        self.aspp = _ASPP(self.lidar.widths[3])

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits of both branches.

        Args:
            inputs: ``camera`` ``(B, camera_channels, H, W)`` and ``lidar``
                ``(B, lidar_channels, H, W)``, for any H and W.

        Returns:
            ``camera`` and ``lidar``, each ``(B, num_classes, H, W)``.

        Raises:
            UserError: the two images differ in size.
        """
        height, width = inputs["lidar"].shape[-2:]
        if inputs["camera"].shape[-2:] != (height, width):
            raise UserError(
                f"the camera image is {tuple(inputs['camera'].shape[-2:])}, the lidar image "
                f"{(height, width)}: PMF needs both in the same image plane and of the same size"
            )
        camera, lidar = (pad_to_multiple(inputs[key], DOWNSAMPLING) for key in ("camera", "lidar"))
        features = self.camera.encoder(camera)
        x = self.lidar.context(lidar)
        skips = []
        for down, pool, fuse, seen in zip(
            self.lidar.down, self.lidar.pool, self.fusion, features, strict=True
        ):
            skips.append(down(x))
            x = fuse(pool(skips[-1]), seen)
        logits = {
            "camera": self.camera.decoder(features),
            "lidar": self.lidar.decode(self.aspp(self.lidar.bottom(x)), skips),
        }
        return {branch: value[..., :height, :width] for branch, value in logits.items()}


class _ResidualFusion(nn.Module):
    """Adds what both branches see, weighted by attention, to the lidar features."""

    def __init__(self, lidar_channels: int, camera_channels: int) -> None:
        super().__init__()
        self.join = conv_block(lidar_channels + camera_channels, lidar_channels, 3, padding=1)
        self.attention = nn.Sequential(
            nn.Conv2d(lidar_channels, lidar_channels, 3, padding=1),
            nn.BatchNorm2d(lidar_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(lidar_channels, lidar_channels, 3, padding=1),
            nn.BatchNorm2d(lidar_channels),
            nn.Sigmoid(),
        )

    def forward(self, lidar: Tensor, camera: Tensor) -> Tensor:
        joined: Tensor = self.join(torch.cat([lidar, camera], dim=1))
        attention: Tensor = self.attention(joined)
        return joined * attention + lidar


class _ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., 2017) without normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.point = nn.Conv2d(channels, channels, 1)
        self.atrous = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate) for rate in (6, 12, 18)
        )
        self.join = nn.Conv2d(5 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scales = [self.mean(x).expand_as(x), self.point(x), *(conv(x) for conv in self.atrous)]
        joined: Tensor = self.join(torch.cat(scales, dim=1))
        return joined
