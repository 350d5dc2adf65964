"""AICNet: semantic scene completion with kernels that every voxel chooses."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ddrnet import BRANCH_WIDTH, GRID, WIDTH, Branch, CompletionNet, axis_kernels
from .projection3d import Grid

_KERNELS = (3, 5, 7)


class AICNet(CompletionNet):
    """AICNet on one modality.

    Li et al., "Anisotropic Convolutional Networks for 3D Semantic Scene Completion", CVPR 2020. It
    has 667,764 parameters for depth (one channel) and 667,780 for RGB.

    Args:
        in_channels: of the image: 3 for RGB, 1 for depth.
        num_classes: logits per voxel, empty included.
        grid: voxels along the three axes, multiples of 4.

    Raises:
        UserError: the grid is not of that kind.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 12, grid: Grid = GRID) -> None:
        branch = Branch(in_channels, grid, 8, [AICBlock3d(WIDTH, WIDTH // 2) for _ in range(3)])
        context = nn.Sequential(AICBlock3d(BRANCH_WIDTH, WIDTH), AICBlock3d(BRANCH_WIDTH, WIDTH))
        super().__init__(branch, context, BRANCH_WIDTH, num_classes)


class AICBlock3d(nn.Module):
    """Anisotropic convolution with a shortcut: along each axis, every voxel mixes three kernels.

    Li et al., CVPR 2020, Sec. 3.2, Eq. 2-4: convolutions along one axis of 3, 5 and 7 voxels, in
    shares that sum to 1; the axes one after the other.

    Args:
        channels: of the volume.
        width: channels inside.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.narrow = nn.Conv3d(channels, width, 1, bias=False)
        self.share = nn.Conv3d(width, 3 * len(_KERNELS), 1, bias=False)
        self.axes = nn.ModuleList(
            nn.ModuleList(nn.Conv3d(width, width, kernel, padding="same") for kernel in kernels)
            for kernels in zip(*map(axis_kernels, _KERNELS), strict=True)
        )
        self.widen = nn.Conv3d(width, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return a volume of the same shape."""
        narrow = F.relu(self.narrow(x))
        shares = self.share(narrow).unflatten(1, (3, len(_KERNELS), 1)).softmax(dim=2)
        mixed = narrow
        for axis, share in zip(self.axes, shares.unbind(dim=1), strict=True):
            mixed = _mix(axis, share, mixed)
        return F.relu(self.widen(F.relu(mixed + narrow)) + x)


def _mix(convolutions: nn.Module, shares: Tensor, x: Tensor) -> Tensor:
    """Return the sum of the convolutions, weighted by ``shares`` ``(B, kernels, 1, *grid)``."""
    parts = (
        share * F.relu(convolution(x))
        for convolution, share in zip(convolutions.children(), shares.unbind(dim=1), strict=True)
    )
    return reduce(torch.add, parts)
