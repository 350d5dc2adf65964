"""DDRNet: semantic scene completion from one image, of colours or of depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntdh_bench.errors import UserError

from .projection3d import Grid, project_to_voxels

#: The grid of the published data, 4.8 m x 2.88 m x 4.8 m in voxels of 0.02 m.
GRID = (240, 144, 240)
#: Of the logits to the grid, along each axis.
DOWNSAMPLING = 4
#: Channels of a feature map at the resolution of the logits.
WIDTH = 64
#: Channels of a branch: its volume and the outputs of its three blocks.
BRANCH_WIDTH = 4 * WIDTH


class CompletionNet(nn.Module):
    """What networks for semantic scene completion share: a branch, its context, a head.

    Layers to tap: ``branches.image.volume`` and ``branches.image.blocks.0`` to ``.2`` (64
    channels), ``branches.image`` (all four, 256 channels), ``context``.

    Args:
        branch: of the modality; the published networks add one of RGB and one of depth.
        context: from the branch's 256 channels to the head's.
        context_channels: what it returns.
        num_classes: logits per voxel.
    """

    def __init__(
        self,
        branch: Branch,
        context: nn.Module,
        context_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"image": branch})
        self.context = context
        self.head = nn.Sequential(
            nn.Conv3d(context_channels, 128, 1),
            nn.ReLU(),
            nn.Conv3d(128, 128, 1),
            nn.ReLU(),
            nn.Conv3d(128, num_classes, 1),
        )
        self.apply(_initialise)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits ``(B, num_classes, *grid / 4)``.

        Args:
            inputs: ``image`` ``(B, channels, H, W)`` and ``position`` int64 ``(B, H, W)``: flat
                index (C order) in the grid of the voxel that a pixel sees, -1 for none.

        Raises:
            UserError: an input is missing, a position is outside the grid, or there is not one for
                each pixel.
        """
        for name in ("image", "position"):
            if name not in inputs:
                raise UserError(
                    f"{type(self).__name__} takes image and position, but {name} is not among the "
                    "data's inputs: choose another network"
                )
        volume = self.branches["image"](inputs["image"], inputs["position"])
        logits: Tensor = self.head(self.context(volume))
        return logits


class DDRNet(CompletionNet):
    """DDRNet on one modality.

    Li et al., "RGBD Based Dimensional Decomposition Residual Network for 3D Semantic Scene
    Completion", CVPR 2019. It has 155,032 parameters for depth (one channel) and 155,048 for RGB.
    The 0.17M of the NTDH paper (168,232 and 168,248) count the blocks of the other modality, 13,200
    parameters that the authors' networks hold and never run.

    Args:
        in_channels: of the image: 3 for RGB, 1 for depth.
        num_classes: logits per voxel, empty included.
        grid: voxels along the three axes, multiples of 4.

    Raises:
        UserError: the grid is not of that kind.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 12, grid: Grid = GRID) -> None:
        branch = Branch(in_channels, grid, 4, _blocks())
        super().__init__(branch, _ASPP(), _ASPP.out_channels, num_classes)


class Branch(nn.Module):
    """One modality: features of the image, their projection, features of the volume at 1/4.

    Args:
        in_channels: of the image.
        grid: voxels along the three axes, multiples of 4.
        width: channels inside the block at half the grid's resolution.
        blocks: applied in turn to the volume's 64 channels.

    Raises:
        UserError: the grid is not of that kind.
    """

    def __init__(
        self, in_channels: int, grid: Grid, width: int, blocks: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        if any(side < 1 or side % DOWNSAMPLING for side in grid):
            raise UserError(
                f"grid is {grid}: expected three multiples of {DOWNSAMPLING}, such as {GRID}"
            )
        self.grid = grid
        self.image = nn.Sequential(
            nn.Conv2d(in_channels, 8, 1), _DDRBlock2d(8, 4), _DDRBlock2d(8, 4)
        )
        self.volume = nn.Sequential(
            _Downsample(8, 16),
            DDRBlock3d(16, width, 16),
            _Downsample(16, WIDTH),
            DDRBlock3d(WIDTH, 16, WIDTH),
        )
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor, position: Tensor) -> Tensor:
        """Return the volume and each block's output, joined: ``(B, 256, *grid / 4)``."""
        features = [self.volume(project_to_voxels(self.image(image), position, self.grid))]
        for block in self.blocks:
            features.append(block(features[-1]))
        return torch.cat(features, dim=1)


class DDRBlock3d(nn.Module):
    """Dimensional decomposition residual block: a 3x3x3 convolution as three along one axis each.

    Li et al., CVPR 2019, Fig. 3. The shortcut is there where the number of channels stays.

    Args:
        in_channels: of the volume.
        width: channels inside.
        out_channels: of the result.
        dilation: of the three convolutions.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.shortcut = in_channels == out_channels
        self.narrow = nn.Conv3d(in_channels, width, 1, bias=False)
        self.axes = nn.ModuleList(
            nn.Conv3d(width, width, kernel, padding="same", dilation=dilation)
            for kernel in axis_kernels(3)
        )
        self.widen = nn.Conv3d(width, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, out_channels, *grid)``."""
        first = F.relu(self.axes[0](F.relu(self.narrow(x))))
        second = F.relu(self.axes[1](first) + first)
        third = F.relu(self.axes[2](second) + second + first)
        wide = self.widen(third)
        return F.relu(wide + x if self.shortcut else wide)


class _DDRBlock2d(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(width, width, (1, 3), padding="same"),
            nn.ReLU(),
            nn.Conv2d(width, width, (3, 1), padding="same"),
            nn.ReLU(),
            nn.Conv2d(width, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.residual(x))


class _Downsample(nn.Module):
    """Halves a volume, by a convolution for the new channels and by pooling for the old ones."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        new = out_channels - in_channels
        self.convolution = nn.Conv3d(in_channels, new, 3, stride=2, padding=1, bias=False)
        self.pool = nn.MaxPool3d(2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.cat([self.convolution(x), self.pool(x)], dim=1))


class _ASPP(nn.Module):
    """Atrous spatial pyramid pooling of DDR blocks, with the mean over the volume."""

    out_channels = 5 * WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Conv3d(BRANCH_WIDTH, WIDTH, 1, bias=False)
        self.atrous = nn.ModuleList(
            DDRBlock3d(BRANCH_WIDTH, 16, WIDTH, rate) for rate in (6, 12, 18)
        )
        self.mean = nn.Sequential(
            nn.AdaptiveAvgPool3d(1), nn.Conv3d(BRANCH_WIDTH, WIDTH, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        point = self.point(x)
        scales = [point, *(block(x) for block in self.atrous), self.mean(x).expand_as(point)]
        return torch.cat(scales, dim=1)


def axis_kernels(size: int) -> tuple[Grid, Grid, Grid]:
    """Return the kernels along one axis each, the last axis first."""
    return (1, 1, size), (1, size, 1), (size, 1, 1)


def _blocks() -> list[nn.Module]:
    return [DDRBlock3d(WIDTH, 16, WIDTH, dilation) for dilation in (2, 3, 5)]


def _initialise(module: nn.Module) -> None:
    """Draw weights as the authors of DDRNet and AICNet do; biases are PyTorch's."""
    if isinstance(module, nn.Conv3d):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.1)
