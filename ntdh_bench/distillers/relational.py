"""Relational knowledge distillation in O(B^2) memory, with a hand-written backward.

By the law of cosines the angle at row j between rows i and k follows from the distances alone:
``cos = (d_ji^2 + d_jk^2 - d_ik^2) / (2 d_ji d_jk)``, so no B x B x D differences are needed. The
B^3 cosines of each member are visited in chunks, and the gradient is accumulated on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntdh_bench.distillers.precision import full_precision
from ntdh_bench.stacks.layers import beside

# Elements of a chunk's (members, anchors, B, B): its buffers fit the CPU's cache, and fill a GPU.
CPU_CHUNK = 2**16
GPU_CHUNK = 2**23
# Below this ratio of a distance to the mean distance, differences of squares lose too many digits
# in float32.
CLOSE = 0.05


@full_precision
def rkd(
    student: Tensor,
    teacher: Tensor,
    distance_weight: float | Tensor = 25.0,
    angle_weight: float | Tensor = 50.0,
    *,
    stacked: bool = False,
) -> Tensor:
    """Relational distillation: smooth L1 loss of pairwise distances and of triplet angles.

    Park et al., "Relational Knowledge Distillation", CVPR 2019, Eq. 4-10. Distances are divided by
    the mean of the positive ones; means are over all B^2 pairs and B^3 triplets; the angle between
    coinciding rows counts as cosine 0.

    Args:
        student: ``(B, ...)``, flattened per row.
        teacher: ``(B, ...)``; may be of another width.
        distance_weight: weight of the distances.
        angle_weight: weight of the angles.
        stacked: whether both are ``(K, B, ...)``.

    Returns:
        Scalar or ``(K,)``.
    """
    between_s, between_t = (
        _relative_distances(x.flatten(1 + stacked) if stacked else x.flatten(1)[None])
        for x in (student, teacher)
    )
    distance = F.smooth_l1_loss(between_s, between_t, reduction="none").mean(dim=(1, 2))
    loss = beside(distance_weight, distance) * distance
    if isinstance(angle_weight, Tensor) or angle_weight:
        angle: Tensor = _AngleLoss.apply(between_s, between_t, student.dtype)
        loss = loss + beside(angle_weight, angle) * angle
    loss = loss.to(student.dtype)
    return loss if stacked else loss.squeeze(0)


def _relative_distances(x: Tensor) -> Tensor:
    """Distances of rows ``(K, B, D)`` over the mean of the positive ones: float64 ``(K, B, B)``."""
    distances: Tensor = _Distances.apply(x)
    return distances / _mean_positive(distances)


def _mean_positive(distances: Tensor) -> Tensor:
    """Mean of the positive distances of each member ``(K, 1, 1)``; 1 where there is none."""
    count = (distances > 0).sum(dim=(1, 2), keepdim=True)
    total = distances.sum(dim=(1, 2), keepdim=True)
    return torch.where(count > 0, total / count.clamp(min=1), 1.0)


class _Distances(torch.autograd.Function):
    """Euclidean distances, float64 ``(K, B, B)``, exact for near-duplicates; gradient 0 at 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = x.double()
        rows = rows - rows.mean(dim=1, keepdim=True)
        distances = _from_products(rows) if x.device.type == "cpu" else _from_differences(rows)
        ctx.save_for_backward(rows, distances)
        ctx.dtype = x.dtype
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rows, distances = ctx.saved_tensors
        slope = torch.where(distances > 0, grad / distances, 0.0)
        slope = slope + slope.mT
        gradient: Tensor = slope.sum(dim=2, keepdim=True) * rows - slope @ rows
        return gradient.to(ctx.dtype)


def _from_products(rows: Tensor) -> Tensor:
    """Distances of centred rows from their Gram matrix, those of members with close pairs exact."""
    gram = rows @ rows.mT
    squares = gram.diagonal(dim1=1, dim2=2)
    distances = (squares[:, :, None] + squares[:, None, :] - 2.0 * gram).clamp_(min=0.0).sqrt_()
    distances.diagonal(dim1=1, dim2=2).zero_()
    close = distances < CLOSE * _mean_positive(distances)
    inexact = close.sum(dim=(1, 2)) > rows.shape[1]  # more than each row to itself
    if inexact.any():
        distances[inexact] = _from_differences(rows[inexact])
    return distances


def _from_differences(rows: Tensor) -> Tensor:
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


class _AngleLoss(torch.autograd.Function):
    """Means ``(K,)`` over (j, i, k) of the smooth L1 difference of the angles' cosines."""

    @staticmethod
    def forward(ctx: Any, between_s: Tensor, between_t: Tensor, dtype: torch.dtype) -> Tensor:
        needs = ctx.needs_input_grad[:2]
        loss = torch.empty_like(between_s[:, 0, 0])
        slopes = [torch.empty_like(between_s) if needed else None for needed in needs]
        for members, exact in _by_precision(between_s, between_t, dtype):
            s, t = (_Angles(x[members], dtype, exact) for x in (between_s, between_t))
            loss[members] = _visit(s, t, needs)
            for slope, side in zip(slopes, (s, t), strict=True):
                if slope is not None:
                    slope[members] = side.gradient()
        size = between_s.shape[1] ** 3
        slope_s, slope_t = slopes
        ctx.save_for_backward(
            None if slope_s is None else slope_s.div_(size),
            None if slope_t is None else slope_t.div_(-size),
        )
        return loss.div_(size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad[:, None, None]
        return *(None if slope is None else grad * slope for slope in ctx.saved_tensors), None


def _by_precision(
    between_s: Tensor, between_t: Tensor, dtype: torch.dtype
) -> Iterator[tuple[Tensor | slice, bool]]:
    """Yield members, and whether their squares are added in float64.

    On a GPU all are, since asking which must would wait for it.
    """
    if dtype == torch.float64 or between_s.device.type != "cpu":
        yield slice(None), True
        return
    close = torch.stack([(x > 0) & (x < CLOSE) for x in (between_s, between_t)])
    close = close.any(dim=3).any(dim=2).any(dim=0)
    for exact in (False, True):
        members = (close == exact).nonzero().squeeze(1)
        if len(members):
            yield members, exact


def _visit(s: _Angles, t: _Angles, needs: tuple[bool, bool]) -> Tensor:
    """Return the sums ``(K,)`` of the losses; gather the slopes of the sides that need them."""
    count, size = s.half.shape[:2]
    chunk = CPU_CHUNK if s.half.device.type == "cpu" else GPU_CHUNK
    anchors = min(size, max(1, chunk // size**2))
    members = min(count, max(1, chunk // size**3))
    buffers = s.inverse.new_empty(4, members * anchors, size, size)
    total = s.half.new_zeros(count, dtype=torch.float64)
    for first in range(0, count, members):
        for start in range(0, size, anchors):
            at = slice(first, first + members), slice(start, start + anchors)
            shape = *s.half[at].shape, size
            cos_s, cos_t, slope, work = (x[: shape[0] * shape[1]].view(shape) for x in buffers)
            s.cosines(at, cos_s, work)
            t.cosines(at, cos_t, work)
            gap = torch.sub(cos_s, cos_t, out=work)
            torch.clamp(gap, -1.0, 1.0, out=slope)  # the derivative of smooth L1
            # and smooth L1 itself
            total[at[0]] += gap.sub_(slope, alpha=0.5).mul_(slope).sum(dim=(1, 2, 3))
            for side, cos, needed in zip((s, t), (cos_s, cos_t), needs, strict=True):
                if needed:
                    side.add_slope(at, slope, cos, work)
    return total


class _Angles:
    """Cosines ``(k, j, i, l)`` of the angle at row j between rows i and l, and their gradient.

    Args:
        distances: relative ones, float64 ``(K, B, B)``.
        dtype: of the cosines.
        exact: whether squares are added in float64, since they cancel where rows are close.
    """

    def __init__(self, distances: Tensor, dtype: torch.dtype, exact: bool) -> None:
        self.distances = distances
        inverse = torch.where(distances > 0, distances.reciprocal(), 0.0)
        self.inverse = inverse.to(dtype)
        half = distances.square() / 2.0
        self.half = half if exact else half.to(dtype)
        # With w = slope / (d_ji d_jl): sums of w over j, of w over l, and of slope * cos over l.
        self.pairs = torch.zeros_like(distances)
        self.weights = torch.empty_like(self.inverse)
        self.radial = torch.empty_like(self.inverse)

    def cosines(self, at: tuple[slice, slice], out: Tensor, work: Tensor) -> None:
        """Write the cosines at members and anchors to ``out``."""
        half = self.half[at]
        sums = torch.sub(
            half[..., None], self.half[at[0], None], out=out if half.dtype == out.dtype else None
        )
        sums += half[:, :, None]
        torch.mul(sums, self._inverse_products(at, work), out=out)

    def add_slope(self, at: tuple[slice, slice], slope: Tensor, cos: Tensor, work: Tensor) -> None:
        """Add d loss / d cos at members and anchors to the sums; overwrites ``cos``."""
        self.radial[at] = cos.mul_(slope).sum(dim=3)
        w = self._inverse_products(at, work).mul_(slope)
        self.weights[at] = w.sum(dim=3)
        self.pairs[at[0]] += w.sum(dim=1)

    def gradient(self) -> Tensor:
        """Return d loss / d distances, float64 ``(K, B, B)``."""
        inverse = torch.where(self.distances > 0, self.distances.reciprocal(), 0.0)
        return (2.0 * self.weights - self.pairs) * self.distances - 2.0 * self.radial * inverse

    def _inverse_products(self, at: tuple[slice, slice], out: Tensor) -> Tensor:
        inverse = self.inverse[at]
        return torch.mul(inverse[..., None], inverse[:, :, None], out=out)
