"""Relational knowledge distillation in O(B^2) memory, with a hand-written backward.

The angle at row j between rows i and k follows from the Gram matrix G of the centred rows:
``<x_i - x_j, x_k - x_j> = G_ik - G_ij - G_kj + G_jj``, so no B x B x D differences are needed. The
B^3 cosines of each member are visited in chunks, and the gradient is accumulated on the way. On a
CPU members of a stack, and runs of earlier versions, have the same bits.
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

# Elements of a chunk's (members, anchors, B, B) buffers: in the CPU's cache, enough for a GPU.
CPU_CHUNK = 2**19
GPU_CHUNK = 2**23
# Below this ratio of a distance to the mean distance, differences of Gram entries lose too many
# digits in float32.
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

    Example:
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
        >>> student = torch.tensor([[1.0], [2.0], [4.0]])
        >>> round(rkd(student, teacher).item(), 4)
        14.376
        >>> bool(rkd(3 * teacher, teacher) < 1e-6)
        True
    """
    if not stacked:
        student, teacher = student[None], teacher[None]
    student, teacher = student.flatten(2), teacher.flatten(2)
    between_s, between_t = _distances(student), _distances(teacher)
    distance: Tensor = _MeanSmoothL1.apply(_relative(between_s), _relative(between_t))
    loss = beside(distance_weight, distance) * distance
    if isinstance(angle_weight, Tensor) or angle_weight:
        angle: Tensor = _AngleLoss.apply(student, teacher, between_s.detach(), between_t.detach())
        loss = loss + beside(angle_weight, angle) * angle
    return loss if stacked else loss.squeeze(0)


def _distances(x: Tensor) -> Tensor:
    """Distances (K, B, B) from differences: exact for near-duplicates, with gradient 0 at 0."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_positive(distances: Tensor) -> Tensor:
    """Means (K, 1, 1) of the positive distances; 1 where there is none."""
    count = (distances > 0).sum(dim=(1, 2), keepdim=True)
    total = distances.sum(dim=(1, 2), keepdim=True)
    return torch.where(count > 0, total / count.clamp(min=1), 1.0)


def _relative(distances: Tensor) -> Tensor:
    return distances / _mean_positive(distances)


class _MeanSmoothL1(torch.autograd.Function):
    """Means ``(K,)`` of smooth L1 differences ``(K, B, B)``, rounded as PyTorch rounds one mean."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        ctx.save_for_backward(student - teacher)
        return F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (gap,) = ctx.saved_tensors
        slope = gap.clamp(-1.0, 1.0).mul_(1.0 / gap[0].numel()).mul_(grad[:, None, None])
        return slope, -slope


class _AngleLoss(torch.autograd.Function):
    """Means ``(K,)`` over (j, i, k) of the smooth L1 difference of the angles' cosines."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, between_s: Tensor, between_t: Tensor
    ) -> Tensor:
        needs = ctx.needs_input_grad[:2]
        sides = zip((student, teacher), needs, strict=True)
        slopes = [torch.empty_like(x) if needed else None for x, needed in sides]
        loss = torch.empty_like(student[:, 0, 0])
        size = student.shape[1] ** 3
        for members, dtype in _by_precision(student.dtype, between_s, between_t):
            s = _Angles(student[members], between_s[members], dtype)
            t = _Angles(teacher[members], between_t[members], dtype)
            loss[members] = (_visit(s, t, needs) / size).to(loss.dtype)
            for slope, side, sign in zip(slopes, (s, t), (1, -1), strict=True):
                if slope is not None:
                    slope[members] = side.gradient().div(sign * size).to(slope.dtype)
        ctx.save_for_backward(*slopes)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad[:, None, None]
        return *(None if g is None else grad * g for g in ctx.saved_tensors), None, None


def _by_precision(
    dtype: torch.dtype, between_s: Tensor, between_t: Tensor
) -> Iterator[tuple[Tensor | slice, torch.dtype]]:
    """Yield members and the precision that their cosines need.

    Close rows need float64. On a GPU all get it, since asking which have some would wait for it.
    """
    if dtype == torch.float64 or between_s.device.type != "cpu":
        yield slice(None), torch.float64
        return
    close = _has_close_pair(between_s) | _has_close_pair(between_t)
    if close.any():
        yield close.nonzero().squeeze(1), torch.float64
    if not close.all():
        yield (~close).nonzero().squeeze(1) if close.any() else slice(None), dtype


def _has_close_pair(distances: Tensor) -> Tensor:
    smallest = torch.where(distances > 0, distances, torch.inf).amin(dim=(1, 2), keepdim=True)
    return (smallest < CLOSE * _mean_positive(distances)).flatten()


def _visit(s: _Angles, t: _Angles, needs: tuple[bool, bool]) -> Tensor:
    """Return the sums ``(K,)`` of the losses; gather the slopes of the sides that need them."""
    count, size = s.gram.shape[:2]
    chunk = CPU_CHUNK if s.gram.device.type == "cpu" else GPU_CHUNK
    anchors = min(size, max(1, chunk // size**2))
    members = min(count, max(1, chunk // size**3))
    buffers = s.gram.new_empty(4, members * anchors, size, size)
    total = s.gram.new_zeros(count, dtype=torch.float64)
    for first in range(0, count, members):
        for start in range(0, size, anchors):
            at = slice(first, first + members), slice(start, start + anchors)
            shape = *s.gram[at].shape, size
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
    """Cosines ``(m, j, i, k)`` of the angle at row j between rows i and k, and their gradient."""

    def __init__(self, x: Tensor, distances: Tensor, dtype: torch.dtype) -> None:
        # Angles do not depend on the scale: with distances about 1, products stay in range.
        self.scale = _mean_positive(distances).double()
        rows = x.double() / self.scale
        self.rows = rows - rows.mean(dim=1, keepdim=True)
        gram = self.rows @ self.rows.mT
        self.gram = gram.to(dtype)
        self.offset = (gram.diagonal(dim1=1, dim2=2)[:, :, None] / 2 - gram).to(dtype)
        if distances.dtype != dtype:
            distances = _distances(x.to(dtype))
        inverse = torch.where(distances > 0, self.scale / distances.double(), 0.0)
        self.inverse = inverse.to(dtype)
        # With w = slope / (d_ji d_jk): sums of w over j, of w over k, and of slope * cos over k.
        self.pairs = torch.zeros_like(gram)
        self.weights = torch.zeros_like(self.gram)
        self.radial = torch.zeros_like(self.gram)

    def cosines(self, at: tuple[slice, slice], out: Tensor, work: Tensor) -> None:
        """Write the cosines at members and anchors to ``out``."""
        offset = self.offset[at]
        torch.add(self.gram[at[0], None], offset[..., None], out=out)
        out += offset[:, :, None]
        out *= self._inverse_products(at, work)

    def add_slope(self, at: tuple[slice, slice], slope: Tensor, cos: Tensor, work: Tensor) -> None:
        """Add d loss / d cos at members and anchors to the sums; overwrites ``cos``."""
        self.radial[at] = cos.mul_(slope).sum(dim=3)
        w = self._inverse_products(at, work).mul_(slope)
        self.weights[at] = w.sum(dim=3)
        self.pairs[at[0]] += w.sum(dim=1)

    def gradient(self) -> Tensor:
        """Return d loss / d rows, float64 ``(K, B, D)``."""
        weights = self.weights.double()
        radial = -2.0 * self.radial * self.inverse.double().square()
        mixed = 2.0 * (self.pairs - weights - weights.mT) - radial - radial.mT
        own = 2.0 * weights.sum(dim=2) + radial.sum(dim=1) + radial.sum(dim=2)
        return (mixed @ self.rows + own[..., None] * self.rows) / self.scale

    def _inverse_products(self, at: tuple[slice, slice], out: Tensor) -> Tensor:
        inverse = self.inverse[at]
        return torch.mul(inverse[..., None], inverse[:, :, None], out=out)
