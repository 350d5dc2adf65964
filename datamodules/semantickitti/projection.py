"""Lidar points in the image plane: which pixel shows which point."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Mean and standard deviation of range, x, y, z and remission (Zhuang et al., ICCV 2021).
CHANNEL_MEAN = (12.12, 10.88, 0.23, -1.04, 0.21)
CHANNEL_STD = (12.32, 11.47, 6.91, 0.86, 0.16)
#: No lidar sees this far (metres): points beyond it, as those not finite, are broken.
MAX_DEPTH = 1000.0


class View(NamedTuple):
    """The points of a scan that fall into the image.

    Attributes:
        point: int64 (M,): positions in the scan, ascending.
        pixel: int64 (M,): flat positions in the (H, W) grid.
        nearest: bool (M,): whether the pixel shows this point; exactly one per pixel hit.
    """

    point: Tensor
    pixel: Tensor
    nearest: Tensor


def project(points: Tensor, matrix: Tensor, size: tuple[int, int]) -> View:
    """Project points into the image: those in front of the camera and inside the image.

    Pixel (row, column) covers [column, column + 1) x [row, row + 1). Of several points on a pixel
    the one with the least camera depth is shown (of equal ones the first). Points that are not
    finite, or deeper than 1 km, are dropped. Computed in float64.

    Args:
        points: float32 (N, 4): x, y, z, remission in the lidar frame.
        matrix: float64 (3, 4) from homogeneous points to pixels.
        size: (H, W) of the image.
    """
    height, width = size
    camera = torch.addmm(matrix[:, 3:], matrix[:, :3], points[:, :3].double().T)
    depth = camera[2]
    column, row = camera[0] / depth, camera[1] / depth
    # Comparisons with NaN are false, which drops points that are not finite.
    inside = (depth > 0) & (depth < MAX_DEPTH) & (column >= 0) & (column < width)
    inside &= (row >= 0) & (row < height) & points[:, 3].isfinite()
    point = inside.nonzero().flatten()
    pixel = row[point].long() * width + column[point].long()
    return View(point, pixel, _nearest(pixel, depth[point], height * width))


def _nearest(pixel: Tensor, depth: Tensor, cells: int) -> Tensor:
    """Return bool (M,): whether a point is the nearest of its pixel."""
    # The bits of positive floats are ordered as the floats: one minimum over depth, then position.
    bits = depth.float().view(torch.int32).long() << 32
    key = bits | torch.arange(len(pixel), device=pixel.device)
    least = key.new_full((cells,), torch.iinfo(torch.int64).max)
    least.scatter_reduce_(0, pixel, key, "amin")
    return least[pixel] == key


def channels(points: Tensor) -> Tensor:
    """Return range, x, y, z and remission of points (M, 4), standardised: float32 (5, M)."""
    spread = points.new_tensor(CHANNEL_STD)[:, None]
    values = torch.cat([points[:, :3].norm(dim=1)[None], points.T])
    return (values - points.new_tensor(CHANNEL_MEAN)[:, None]) / spread
