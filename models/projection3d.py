"""From the image plane into a voxel grid."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from ntdh_bench.errors import UserError

Grid: TypeAlias = tuple[int, int, int]


def project_to_voxels(features: Tensor, position: Tensor, grid: Grid) -> Tensor:
    """Put the features of every pixel into the voxel that it sees (Li et al., CVPR 2019, Sec. 3.3).

    A voxel gets the maximum of its pixels, channel by channel, whatever their order, and 0 where it
    has none. Where pixels share a maximum, they share its gradient evenly.

    Args:
        features: ``(B, C, H, W)``.
        position: int64 ``(B, H, W)``, flat index (C order) of each pixel's voxel; -1 for none.
        grid: voxels along the three axes.

    Returns:
        ``(B, C, *grid)``, of the type of ``features``.

    Raises:
        UserError: features and positions differ in size, or a position is outside the grid.
    """
    batch, channels, height, width = features.shape
    if position.shape != (batch, height, width):
        raise UserError(
            f"the image is {(batch, height, width)}, the position of its pixels "
            f"{tuple(position.shape)}: the data module must give one voxel for each pixel"
        )
    size = grid[0] * grid[1] * grid[2]
    if torch.compiler.is_exporting():
        return _in_one_step(features, position, size).view(batch, channels, *grid)
    if not (position >= -1).all() or not (position < size).all():
        raise UserError(
            f"positions from {int(position.min())} to {int(position.max())} in a grid of {size} "
            f"voxels: set the network's grid, now {grid}, to that of the data"
        )
    seen = position >= 0
    sample = torch.arange(batch, device=position.device).view(-1, 1, 1).expand_as(position)
    # Pixels are reduced before they enter the grid, which is mostly empty: reducing inside it takes
    # several times as long, and its gradient as much memory again as the grid.
    voxels, voxel = torch.unique(sample[seen] * size + position[seen], return_inverse=True)
    values = features.movedim(1, -1)[seen]
    largest = values.new_zeros(len(voxels), channels).scatter_reduce(
        0, voxel[:, None].expand_as(values), values, "amax", include_self=False
    )
    volume = features.new_zeros(batch, channels, size)
    volume[voxels // size, :, voxels % size] = largest
    return volume.view(batch, channels, *grid)


def _in_one_step(features: Tensor, position: Tensor, size: int) -> Tensor:
    """Do the same without sizes that depend on the data, which no exported program can have."""
    batch, channels = features.shape[:2]
    beyond = torch.where(position < 0, size, position).flatten(1)
    volume = features.new_zeros(batch, channels, size + 1).scatter_reduce(
        2,
        beyond[:, None].expand(-1, channels, -1),
        features.flatten(2),
        "amax",
        include_self=False,
    )
    return volume[:, :, :size].contiguous()
