"""The distillation losses as pure functions of student and teacher.

Each takes ``(student, teacher, ...)`` and returns a scalar in nats or squared feature units: the
mean over rows (over pairs or triplets of rows for relational losses). Half precision is promoted to
float32, float64 stays float64, autocast is switched off inside. None detaches the teacher.

Each takes K members of a stack at once too and returns ``(K,)``: logits may be ``(K, N, C)``;
features are ``(N, ...)`` of any rank, so that ``stacked=True`` says that they are ``(K, N, ...)``.
Numbers may then be ``(K,)`` tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntdh_bench.distillers.contrastive import crd
from ntdh_bench.distillers.logits import check_same_shape, dkd, kd, nkd, ofa, wttm
from ntdh_bench.distillers.maps import at, reviewkd, simkd, vid
from ntdh_bench.distillers.precision import full_precision, product, unit_rows
from ntdh_bench.distillers.predictions import dist, mlkd, skd
from ntdh_bench.distillers.relational import rkd
from ntdh_bench.stacks.layers import beside

__all__ = [
    "at",
    "cc",
    "crd",
    "dist",
    "dkd",
    "fitnet",
    "kd",
    "mlkd",
    "nkd",
    "ofa",
    "pkt",
    "reviewkd",
    "rkd",
    "simkd",
    "skd",
    "sp",
    "srd",
    "vid",
    "wttm",
]

PKT_EPSILON = 1e-7
SRD_EPSILON = 1e-4  # of the variance, as in the code of its authors


@full_precision
def fitnet(student: Tensor, teacher: Tensor, *, stacked: bool = False) -> Tensor:
    """Hint loss: mean squared error over all elements, the student already regressed.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, Eq. 3.

    Args:
        student: ``(N, ...)``.
        teacher: the same shape.
        stacked: whether both are ``(K, N, ...)``.

    Returns:
        Scalar or ``(K,)``.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> fitnet(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]]))
        tensor(4.5000)
    """
    check_same_shape(student, teacher)
    if not stacked:
        return F.mse_loss(student, teacher)
    means: Tensor = _MeanSquares.apply(student, teacher)
    return means


@full_precision
def pkt(student: Tensor, teacher: Tensor, *, stacked: bool = False) -> Tensor:
    """Probabilistic knowledge transfer: KL divergence of the rows' cosine affinities.

    Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer",
    ECCV 2018; the mean over the N^2 pairs, as in the code of its authors.

    Args:
        student: ``(N, ...)``, flattened per row.
        teacher: ``(N, ...)``; may be of another width.
        stacked: whether both are ``(K, N, ...)``.

    Returns:
        Scalar or ``(K,)`` in nats. A zero row has affinity 1/2 to all others and gets no gradient.

    Example:
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
        >>> student = torch.tensor([[1.0], [2.0], [4.0]])
        >>> round(pkt(student, teacher).item(), 4)
        0.0088
        >>> bool(pkt(3 * teacher, teacher) < 1e-6)
        True
    """
    p, q = (_affinities(x.flatten(1 + stacked)) for x in (teacher, student))
    return (p * ((p + PKT_EPSILON).log() - (q + PKT_EPSILON).log())).mean(dim=(-2, -1))


@full_precision
def sp(student: Tensor, teacher: Tensor, *, stacked: bool = False) -> Tensor:
    """Similarity-preserving loss: squared difference of the row-normalised Gram matrices / N^2.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, Eq. 1-4 (L2 rows).

    Args:
        student: ``(N, ...)``, flattened per row.
        teacher: ``(N, ...)``; may be of another width.
        stacked: whether both are ``(K, N, ...)``.

    Returns:
        Scalar or ``(K,)`` in [0, 4 / N]. A zero row stays zero and gets no gradient of its own
        similarities.

    Example:
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
        >>> student = torch.tensor([[1.0], [2.0], [4.0]])
        >>> round(sp(student, teacher).item(), 4)
        0.1116
        >>> bool(sp(3 * teacher, teacher) < 1e-6)
        True
    """
    ours, theirs = (_similarities(x.flatten(1 + stacked)) for x in (student, teacher))
    return (ours - theirs).square().mean(dim=(-2, -1))


@full_precision
def srd(
    student: Tensor, teacher: Tensor, exponent: float | Tensor = 4.0, *, stacked: bool = False
) -> Tensor:
    """Logarithm of the sum of powers of differences, of features standardised over the rows.

    Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI
    2024, Eq. 9, the student already projected.

    Args:
        student: ``(N, D)``.
        teacher: the same shape.
        exponent: of the absolute differences, >= 1.
        stacked: whether both are ``(K, N, D)``.

    Returns:
        Scalar or ``(K,)``, without unit; 0, and no gradient, where nothing differs, as in one row.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> teacher = torch.tensor([[0.0], [1.0], [5.0]])
        >>> srd(teacher, teacher)
        tensor(0.)
        >>> round(srd(teacher.flip(0), teacher).item(), 4)
        4.05
    """
    check_same_shape(student, teacher)
    ours, theirs = (_standardised(x) for x in (student, teacher))
    gap = (ours - theirs).abs()
    total = gap.pow(beside(exponent, gap)).sum(dim=(-2, -1))
    differs = total > 0
    return torch.where(differs, total.where(differs, 1.0).log(), 0.0)


class _MeanSquares(torch.autograd.Function):
    """Means ``(K,)`` of squared differences ``(K, ...)``, rounded as PyTorch rounds one mean."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        ctx.save_for_backward(student - teacher)
        return F.mse_loss(student, teacher, reduction="none").flatten(1).mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (gap,) = ctx.saved_tensors
        slope = (gap * (2.0 / gap[0].numel())).mul_(beside(grad, gap))
        return slope, -slope


@full_precision
def cc(
    student: Tensor,
    teacher: Tensor,
    gamma: float | Tensor = 0.4,
    order: int = 2,
    *,
    stacked: bool = False,
) -> Tensor:
    """Correlation congruence: mean squared difference of the rows' Gaussian kernels.

    Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, Eq. 6 and 13: the
    kernel ``exp(-gamma |x - y|^2)`` of unit rows by its Taylor series in their cosine.

    Args:
        student: ``(N, ...)``, flattened per row.
        teacher: ``(N, ...)``; may be of another width.
        gamma: of the kernel, > 0.
        order: the last power of the series.
        stacked: whether both are ``(K, N, ...)``.

    Returns:
        Scalar or ``(K,)``. A zero row is at a right angle to all others and gets no gradient.

    Example:
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
        >>> student = torch.tensor([[1.0], [2.0], [4.0]])
        >>> round(cc(student, teacher).item(), 4)
        0.0702
        >>> bool(cc(3 * teacher, teacher) < 1e-6)
        True
    """
    ours, theirs = (_kernel(x.flatten(1 + stacked), gamma, order) for x in (student, teacher))
    return (ours - theirs).square().mean(dim=(-2, -1))


def _kernel(x: Tensor, gamma: float | Tensor, order: int) -> Tensor:
    """Taylor series of ``exp(-2 gamma (1 - cos))`` between the rows of ``(..., N, D)``."""
    unit = unit_rows(x)
    cosines = product(unit, unit.mT)
    width = 2 * beside(gamma, cosines)
    series = term = torch.exp(-width * torch.ones_like(cosines))
    for power in range(1, order + 1):
        term = term * width * cosines / power
        series = series + term
    return series


def _standardised(x: Tensor) -> Tensor:
    """Columns of ``(..., N, D)`` with mean 0 and deviation 1, as batch normalisation gives them."""
    variance, mean = torch.var_mean(x, dim=-2, correction=0, keepdim=True)
    return (x - mean) / (variance + SRD_EPSILON).sqrt()


def _affinities(x: Tensor) -> Tensor:
    """Probability of row j given row i of ``(..., N, D)``: (1 + cos) / 2, normalised over j."""
    unit = unit_rows(x, PKT_EPSILON)
    affinity = (product(unit, unit.mT) + 1.0) / 2.0
    return affinity / affinity.sum(dim=-1, keepdim=True)


def _similarities(x: Tensor) -> Tensor:
    """Row-normalised Gram matrices of ``(..., N, D)``."""
    # The result does not depend on the scale of the batch: bring it to 1, so that large features
    # do not overflow when squared twice.
    scale = x.detach().abs().amax(dim=(-2, -1), keepdim=True)
    x = x / torch.where(scale > 0, scale, 1.0)
    return unit_rows(product(x, x.mT))
