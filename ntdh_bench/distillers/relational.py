"""Relational knowledge distillation in O(B^2) memory, with a hand-written backward.

By the law of cosines the angle at row j between rows i and l follows from the distances alone:
``cos = (d_ji^2 + d_jl^2 - d_il^2) / (2 d_ji d_jl)``, so no B x B x D differences are needed. The
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
CPU_CHUNK = 2**18
GPU_CHUNK = 2**23
# Below this ratio of a distance to the mean distance, differences of squares lose too many digits
# in float32; below this ratio to the largest norm, those of the Gram matrix in float64.
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
    if not stacked:
        student, teacher = student[None], teacher[None]
    between_s: Tensor = _RelativeDistances.apply(student.flatten(2))
    between_t: Tensor = _RelativeDistances.apply(teacher.flatten(2))
    distance = F.smooth_l1_loss(between_s, between_t, reduction="none").mean(dim=(1, 2))
    loss = beside(distance_weight, distance) * distance
    if isinstance(angle_weight, Tensor) or angle_weight:
        angle: Tensor = _AngleLoss.apply(between_s, between_t, student.dtype)
        loss = loss + beside(angle_weight, angle) * angle
    loss = loss.to(student.dtype)
    return loss if stacked else loss.squeeze(0)


class _RelativeDistances(torch.autograd.Function):
    """Euclidean distances of rows ``(K, B, D)`` over the mean of the positive ones.

    Float64 ``(K, B, B)``, exact for near-duplicates, with gradient 0 at 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = x.double()
        rows = rows - rows.mean(dim=1, keepdim=True)
        distances = _from_products(rows) if x.device.type == "cpu" else _from_differences(rows)
        count, mean = _mean_positive(distances)
        relative = distances.div_(mean)
        ctx.save_for_backward(rows, relative, count, mean)
        ctx.dtype = x.dtype
        return relative

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rows, relative, count, mean = ctx.saved_tensors
        through_mean = (grad * relative).sum(dim=(1, 2), keepdim=True) / count
        slope = (grad - through_mean) * _inverse(relative) / mean.square()
        slope = slope + slope.mT
        gradient: Tensor = slope.sum(dim=2, keepdim=True) * rows - slope @ rows
        return gradient.to(ctx.dtype)


def _from_products(rows: Tensor) -> Tensor:
    """Distances of centred rows from their Gram matrix, those of members with close pairs exact.

    Close beside their norms: where all rows are the same, the centred ones are rounding errors.
    """
    gram = rows @ rows.mT
    squares = gram.diagonal(dim1=1, dim2=2)
    distances = squares[:, :, None] + squares[:, None, :]
    distances = distances.sub_(gram, alpha=2.0).clamp_(min=0.0).sqrt_()
    itself = distances.diagonal(dim1=1, dim2=2)
    itself.fill_(torch.inf)
    smallest = distances.amin(dim=(1, 2))
    itself.zero_()
    close = smallest <= CLOSE * squares.amax(dim=1).sqrt()
    if close.any():
        distances[close] = _from_differences(rows[close])
    return distances


def _from_differences(rows: Tensor) -> Tensor:
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_positive(distances: Tensor) -> tuple[Tensor, Tensor]:
    """How many are positive (at least 1), and their mean, 1 where there is none: ``(K, 1, 1)``."""
    count = (distances > 0).sum(dim=(1, 2), keepdim=True).clamp_(min=1)
    mean = distances.sum(dim=(1, 2), keepdim=True) / count
    return count, mean.masked_fill_(mean == 0, 1.0)


def _inverse(distances: Tensor) -> Tensor:
    """One over them; 0 where they are."""
    return distances.reciprocal().masked_fill_(distances == 0, 0.0)


class _AngleLoss(torch.autograd.Function):
    """Means ``(K,)`` over (j, i, l) of the smooth L1 difference of the angles' cosines."""

    @staticmethod
    def forward(ctx: Any, between_s: Tensor, between_t: Tensor, dtype: torch.dtype) -> Tensor:
        needs = ctx.needs_input_grad[:2]
        size = between_s.shape[1] ** 3
        inverse_s, inverse_t = _inverse(between_s), _inverse(between_t)
        loss = torch.empty_like(between_s[:, 0, 0])
        slope_s, slope_t = (torch.empty_like(between_s) if needed else None for needed in needs)
        for members, exact in _by_precision(inverse_s, inverse_t, dtype):
            s = _Angles(between_s[members], inverse_s[members], dtype, exact)
            t = _Angles(between_t[members], inverse_t[members], dtype, exact)
            loss[members] = _visit(s, t, needs) / size
            if slope_s is not None:
                slope_s[members] = s.gradient() / size
            if slope_t is not None:
                slope_t[members] = t.gradient() / -size
        ctx.save_for_backward(slope_s, slope_t)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad[:, None, None]
        return *(None if slope is None else grad * slope for slope in ctx.saved_tensors), None


def _by_precision(
    inverse_s: Tensor, inverse_t: Tensor, dtype: torch.dtype
) -> Iterator[tuple[Tensor | slice, bool]]:
    """Yield members, and whether their squares are added in float64.

    On a GPU all are, since asking which must would wait for it.
    """
    if dtype == torch.float64 or inverse_s.device.type != "cpu":
        yield slice(None), True
        return
    close = torch.maximum(inverse_s.amax(dim=(1, 2)), inverse_t.amax(dim=(1, 2))) > 1 / CLOSE
    if not close.any():
        yield slice(None), False  # views instead of copies
        return
    for exact in (False, True):
        members = (close == exact).nonzero().squeeze(1)
        if len(members):
            yield members, exact


def _visit(s: _Angles, t: _Angles, needs: tuple[bool, bool]) -> Tensor:
    """Return the sums ``(K,)`` of the losses; gather the slopes of the sides that need them."""
    count, size = s.inverse.shape[:2]
    chunk = CPU_CHUNK if s.inverse.device.type == "cpu" else GPU_CHUNK
    anchors = min(size, max(1, chunk // size**2))
    members = min(count, max(1, chunk // size**3))
    buffers = s.inverse.new_empty(4, members * anchors, size, size)
    total = s.inverse.new_zeros(count, dtype=torch.float64)
    for first in range(0, count, members):
        for start in range(0, size, anchors):
            at = slice(first, first + members), slice(start, start + anchors)
            shape = s.inverse[at].shape[:2]
            cos_s, cos_t, slope, work = buffers[:, : shape.numel()].view(4, *shape, size, size)
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
        inverse: one over them, 0 where they are.
        dtype: of the cosines.
        exact: whether squares are added in float64, since they cancel where rows are close.
    """

    def __init__(self, distances: Tensor, inverse: Tensor, dtype: torch.dtype, exact: bool) -> None:
        self.distances = distances
        self.exact_inverse = inverse
        self.inverse = inverse.to(dtype)
        self.half = distances.square().mul_(0.5).to(torch.float64 if exact else dtype)
        # With w = slope / (d_ji d_jl): sums of w over j, of w over l, and of slope * cos over l.
        self.pairs = torch.zeros_like(distances)
        self.weights = torch.empty_like(self.inverse)
        self.radial = torch.empty_like(self.inverse)

    def cosines(self, at: tuple[slice, slice], out: Tensor, work: Tensor) -> None:
        """Write the cosines at members and anchors to ``out``."""
        half, across = self.half[at], self.half[at[0], None]
        # A sum in float64 has a tensor of its own, which the product rounds.
        sums = torch.sub(half[..., None], across, out=out if half.dtype == out.dtype else None)
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
        along = (2.0 * self.weights - self.pairs).mul_(self.distances)
        return along.sub_(self.exact_inverse * self.radial, alpha=2.0)

    def _inverse_products(self, at: tuple[slice, slice], out: Tensor) -> Tensor:
        inverse = self.inverse[at]
        return torch.mul(inverse[..., None], inverse[:, :, None], out=out)
