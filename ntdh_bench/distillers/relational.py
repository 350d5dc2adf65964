"""Relational knowledge distillation in O(B^2) memory, with a hand-written backward.

The angle at row j between rows i and k follows from the Gram matrix G of the centred rows:
``<x_i - x_j, x_k - x_j> = G_ik - G_ij - G_kj + G_jj``, so no B x B x D differences are needed. The
B^3 cosines are visited in chunks of anchors j, and the gradient is accumulated on the way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntdh_bench.distillers.precision import full_precision

# Elements of a chunk's (anchors, B, B) buffers: in the CPU's cache, large enough for a GPU.
CPU_CHUNK = 2**19
GPU_CHUNK = 2**23
# Below this ratio of a distance to the mean distance, differences of Gram entries lose too many
# digits in float32.
CLOSE = 0.05


@full_precision
def rkd(
    student: Tensor,
    teacher: Tensor,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
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

    Returns:
        Scalar.
    """
    student, teacher = student.flatten(1), teacher.flatten(1)
    between_s, between_t = _distances(student), _distances(teacher)
    loss = distance_weight * F.smooth_l1_loss(_relative(between_s), _relative(between_t))
    if angle_weight:
        angle: Tensor = _AngleLoss.apply(student, teacher, between_s.detach(), between_t.detach())
        loss = loss + angle_weight * angle
    return loss


def _distances(x: Tensor) -> Tensor:
    """Euclidean distances (B, B) from differences: exact for near-duplicates, gradient 0 at 0."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_positive(distances: Tensor) -> Tensor:
    """Mean of the positive distances; 1 where there is none."""
    count = (distances > 0).sum()
    return torch.where(count > 0, distances.sum() / count.clamp(min=1), 1.0)


def _relative(distances: Tensor) -> Tensor:
    return distances / _mean_positive(distances)


class _AngleLoss(torch.autograd.Function):
    """Mean over (j, i, k) of the smooth L1 difference of the angles' cosines."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, between_s: Tensor, between_t: Tensor
    ) -> Tensor:
        size = len(student)
        dtype = student.dtype
        if dtype == torch.float32 and (_has_close_pair(between_s) or _has_close_pair(between_t)):
            dtype = torch.float64
        s, t = _Angles(student, between_s, dtype), _Angles(teacher, between_t, dtype)
        step = max(1, (CPU_CHUNK if student.device.type == "cpu" else GPU_CHUNK) // size**2)
        buffers = student.new_empty(4, min(step, size), size, size, dtype=dtype)
        total = student.new_zeros((), dtype=torch.float64)
        needs_s, needs_t = ctx.needs_input_grad[:2]
        for start in range(0, size, step):
            anchors = slice(start, min(start + step, size))
            cos_s, cos_t, slope, work = buffers[:, : anchors.stop - start]
            s.cosines(anchors, cos_s, work)
            t.cosines(anchors, cos_t, work)
            gap = torch.sub(cos_s, cos_t, out=work)
            torch.clamp(gap, -1.0, 1.0, out=slope)  # the derivative of smooth L1
            total += gap.sub_(slope, alpha=0.5).mul_(slope).sum()  # and smooth L1 itself
            if needs_s:
                s.add_slope(anchors, slope, cos_s, work)
            if needs_t:
                t.add_slope(anchors, slope, cos_t, work)
        ctx.save_for_backward(
            s.gradient().div(size**3).to(student.dtype) if needs_s else None,
            t.gradient().div(-(size**3)).to(student.dtype) if needs_t else None,
        )
        return (total / size**3).to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if g is None else grad * g for g in ctx.saved_tensors), None, None


class _Angles:
    """Cosines ``(j, i, k)`` of the angle at row j between rows i and k, and their gradient."""

    def __init__(self, x: Tensor, distances: Tensor, dtype: torch.dtype) -> None:
        # Angles do not depend on the scale: with distances about 1, products stay in range.
        self.scale = _mean_positive(distances).double()
        rows = x.double() / self.scale
        self.rows = rows - rows.mean(dim=0)
        gram = self.rows @ self.rows.T
        self.gram = gram.to(dtype)
        self.offset = (gram.diagonal()[:, None] / 2 - gram).to(dtype)
        if distances.dtype != dtype:
            distances = _distances(x.to(dtype))
        inverse = torch.where(distances > 0, self.scale / distances.double(), 0.0)
        self.inverse = inverse.to(dtype)
        # With w = slope / (d_ji d_jk): sums of w over j, of w over k, and of slope * cos over k.
        self.pairs = torch.zeros_like(gram)
        self.weights = torch.zeros_like(self.gram)
        self.radial = torch.zeros_like(self.gram)

    def cosines(self, anchors: slice, out: Tensor, work: Tensor) -> None:
        """Write the cosines at ``anchors`` to ``out``."""
        offset = self.offset[anchors]
        torch.add(self.gram, offset[:, :, None], out=out)
        out += offset[:, None, :]
        out *= self._inverse_products(anchors, work)

    def add_slope(self, anchors: slice, slope: Tensor, cos: Tensor, work: Tensor) -> None:
        """Add d loss / d cos of ``anchors`` to the sums; overwrites ``cos``."""
        self.radial[anchors] = cos.mul_(slope).sum(dim=2)
        w = self._inverse_products(anchors, work).mul_(slope)
        self.weights[anchors] = w.sum(dim=2)
        self.pairs += w.sum(dim=0)

    def gradient(self) -> Tensor:
        """Return d loss / d rows, float64 ``(B, D)``."""
        weights = self.weights.double()
        radial = -2.0 * self.radial * self.inverse.double().square()
        mixed = 2.0 * (self.pairs - weights - weights.T) - radial - radial.T
        own = 2.0 * weights.sum(dim=1) + radial.sum(dim=0) + radial.sum(dim=1)
        return (mixed @ self.rows + own[:, None] * self.rows) / self.scale

    def _inverse_products(self, anchors: slice, out: Tensor) -> Tensor:
        inverse = self.inverse[anchors]
        return torch.mul(inverse[:, :, None], inverse[:, None, :], out=out)


def _has_close_pair(distances: Tensor) -> bool:
    smallest = torch.where(distances > 0, distances, torch.inf).amin()
    return bool(smallest < CLOSE * _mean_positive(distances))
