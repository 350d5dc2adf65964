"""Lidar points in the image plane: which pixel shows which point, on any device."""

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
    """The points of one scan, or of a batch of scans, that fall into the image.

    Attributes:
        point: int64 (M,): positions in the scan, ascending.
        pixel: int64 (M,): flat positions in the (H, W) or (B, H, W) grid.
        nearest: bool (M,): whether the pixel shows this point; exactly one per pixel hit.
    """

    point: Tensor
    pixel: Tensor
    nearest: Tensor


def project(
    points: Tensor, matrix: Tensor, size: tuple[int, int], scan: Tensor | None = None
) -> View:
    """Project points into the image: those in front of the camera and inside the image.

    Pixel (row, column) covers [column, column + 1) x [row, row + 1). Of several points on a pixel
    the one with the least camera depth is shown (of equal ones the first). Points that are not
    finite, or deeper than 1 km, are dropped. Computed in float64.

    Args:
        points: float32 (N, 4): x, y, z, remission in the lidar frame.
        matrix: float64 (3, 4) from homogeneous points to pixels, or (B, 3, 4) for a batch.
        size: (H, W) of the image, or of every image of the batch.
        scan: int64 (N,): to which of the batch's scans a point belongs; None if there is one.
    """
    height, width = size
    camera = _camera(points[:, :3].double(), matrix, scan)
    depth = camera[2]
    column, row = camera[0] / depth, camera[1] / depth
    # Comparisons with NaN are false, which drops points that are not finite.
    inside = (depth > 0) & (depth < MAX_DEPTH) & (column >= 0) & (column < width)
    inside &= (row >= 0) & (row < height) & points[:, 3].isfinite()
    point = inside.nonzero().flatten()
    pixel = row[point].long() * width + column[point].long()
    if scan is not None:
        pixel += scan[point] * (height * width)
    cells = height * width * (len(matrix) if scan is not None else 1)
    return View(point, pixel, _nearest(pixel, depth[point], cells))


def _camera(xyz: Tensor, matrix: Tensor, scan: Tensor | None) -> Tensor:
    """Return (3, N): pixel coordinates times depth, and depth."""
    if scan is None:
        return torch.addmm(matrix[:, 3:], matrix[:, :3], xyz.T)
    own = matrix[scan]
    return torch.einsum("nij,nj->in", own[:, :, :3], xyz) + own[:, :, 3].T


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


def lidar_image(points: Tensor, view: View, size: tuple[int, int]) -> Tensor:
    """Return the five standardised channels in the image plane: float32 (5, H, W).

    Pixels without a point are 0 in all channels.

    Args:
        points: float32 (N, 4), the scan that was projected.
        view: its projection.
        size: (H, W) of the image; (B * H, W) gives the images of a batch, one below the other.
    """
    image = points.new_zeros(len(CHANNEL_MEAN), size[0] * size[1])
    image[:, view.pixel[view.nearest]] = channels(points[view.point[view.nearest]])
    return image.view(-1, *size)


def at_points(image: Tensor, pixel: Tensor) -> Tensor:
    """Bring predictions back to points: the values (M, C) of (B, C, H, W) at ``pixel`` (M,)."""
    return image.movedim(1, -1).flatten(0, -2)[pixel]


def knn_vote(
    classes: Tensor,
    image_range: Tensor,
    pixel: Tensor,
    point_range: Tensor,
    *,
    neighbours: int = 5,
    window: int = 11,
    sigma: float = 1.0,
    cutoff: float = 1.0,
) -> Tensor:
    """Return a class for every point by the vote of its nearest pixels: int64 (M,).

    A pixel's distance is the difference of ranges, times one minus a Gaussian of the offset in the
    window; a point's own pixel has distance 0. Pixels further than ``cutoff``, and those that show
    no point, do not vote.

    Source: Milioto et al., IROS 2019 (RangeNet++), Algorithm 1. Their window on a range image is
    5 wide; in a camera image neighbouring beams are some 5 pixels apart, hence 11.

    Args:
        classes: int64 (H, W), predicted.
        image_range: float32 (H, W) in metres; 0 where a pixel shows no point.
        pixel: int64 (M,), flat positions of the points in (H, W).
        point_range: float32 (M,) in metres.
        neighbours: votes per point, at least 1.
        window: side of the search window in pixels, odd.
        sigma: of the Gaussian, in pixels.
        cutoff: largest distance that votes, in metres.
    """
    reach = window // 2
    width = classes.shape[1]
    padded_range = torch.nn.functional.pad(image_range, (reach,) * 4)
    padded_classes = torch.nn.functional.pad(classes, (reach,) * 4)
    offset = torch.arange(-reach, reach + 1, device=classes.device)
    square = (offset[:, None] ** 2 + offset**2).flatten()
    shift = (offset[:, None] * padded_range.shape[1] + offset).flatten()
    centre = (pixel // width + reach) * padded_range.shape[1] + pixel % width + reach
    around = centre[:, None] + shift
    seen = padded_range.flatten()[around]
    gap = (seen - point_range[:, None]).abs().masked_fill(seen <= 0, torch.inf)
    gap = gap * (1 - torch.softmax(-square / (2 * sigma**2), 0))
    gap[:, len(square) // 2] = 0
    distance, chosen = gap.topk(min(neighbours, window**2), largest=False)
    labels = padded_classes.flatten()[around.gather(1, chosen)]
    votes = distance.new_zeros(len(pixel), int(classes.max()) + 1)
    return votes.scatter_add_(1, labels, (distance <= cutoff).to(votes.dtype)).argmax(1)
