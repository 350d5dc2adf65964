"""Residual networks of torchvision as encoders that keep the image's full resolution longer."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from ntdh_bench.checkpoints import read_weights
from ntdh_bench.errors import UserError

Backbone: TypeAlias = Literal["resnet18", "resnet34"]
WIDTHS = (64, 128, 256, 512)
DOWNSAMPLING = 16


class ResNetEncoder(nn.Module):
    """ResNet whose first convolution has stride 1: features at 1/2, 1/4, 1/8 and 1/16.

    Takes ``(B, in_channels, H, W)`` with H and W multiples of 16 and returns four tensors of 64,
    128, 256 and 512 channels, as the camera branches of PMF (Zhuang et al., ICCV 2021) and 2DPASS
    (Yan et al., ECCV 2022) do.

    Args:
        in_channels: of the image.
        backbone: 34 layers as published, or 18 for small runs.
        dropout: on the features at 1/8 and 1/16.
        pretrained: a file with torchvision's weights of the backbone; random weights without it.
            The first convolution stays random unless there are 3 input channels.

    Raises:
        UserError: ``pretrained`` is missing, damaged, or holds another network.
    """

    def __init__(
        self,
        in_channels: int = 3,
        backbone: Backbone = "resnet34",
        dropout: float = 0.0,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        from torchvision import models  # only here: as long to import as torch

        net: Any = getattr(models, backbone)(weights=None)
        if pretrained is not None:
            _load_pretrained(net, pretrained, backbone)
        if in_channels != 3:
            net.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 7, padding=3, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.conv1.stride = (1, 1)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1 = net.layer1
        self.layer2 = net.layer2
        self.layer3 = nn.Sequential(net.layer3, nn.Dropout(dropout))
        self.layer4 = nn.Sequential(net.layer4, nn.Dropout(dropout))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features at 1/2, 1/4, 1/8 and 1/16."""
        first = self.layer1(self.stem(images))
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)


def _load_pretrained(net: nn.Module, path: str, backbone: str) -> None:
    advice = f"give a file of torchvision's {backbone} weights, or null for random ones"
    weights = read_weights(path, advice)
    try:
        net.load_state_dict(weights)
    except RuntimeError:  # names or shapes, many lines of them
        raise UserError(f"{path}: weights of another network; {advice}") from None
