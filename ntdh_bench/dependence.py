"""How much one network's outputs tell of another's: linear CKA and mutual information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

# Features whose variance is a smaller part of their mean square are constant: what is left is the
# rounding of sums in float64, and less than float32 resolves.
_CONSTANT = 1e-12
_VALUES = 1 << 22  # in float64 at once: they bound the memory in dense tasks and stacks
_FEWEST = 16  # rows


def joint_counts(
    first: Tensor, second: Tensor, classes: int, counted: Tensor | None = None
) -> Tensor:
    """Return how often two labels came together, int64 ``(C, C)``, or ``(K, C, C)`` of K members.

    Args:
        first: labels in [0, C), ``(N,)`` or ``(K, N)``.
        second: of the same samples.
        classes: C.
        counted: which samples count, bool, of the same shape; ``None``: all.
    """
    members = first.shape[:-1]
    starts = torch.arange(members.numel(), device=first.device).view(*members, 1) * classes**2
    cells = first * classes + second + starts
    kept = cells.flatten() if counted is None else cells[counted]
    counts = torch.bincount(kept, minlength=members.numel() * classes**2)
    return counts.view(*members, classes, classes)


def mutual_information(counts: Tensor) -> Tensor:
    """Return the mutual information of two labels in nats, the plug-in estimate; NaN of no samples.

    It is that of the shares in the sample, and too large by about (C - 1)^2 / 2N for N samples of
    labels that are independent (Miller, 1955): compare values of one data set and split.

    Args:
        counts: of :func:`joint_counts`, ``(..., C, C)``.

    Returns:
        float64 ``(...)``, in [0, ln C].
    """
    joint = counts.double()
    total = joint.sum((-2, -1), keepdim=True)
    alone = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    # As products of counts, labels that are independent give exactly 0.
    terms = torch.xlogy(joint, joint * total / alone.clamp(min=1))
    found: Tensor = (terms.sum((-2, -1)) / total.squeeze((-2, -1))).clamp(min=0)
    return found


def moments(first: Tensor, second: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return what :func:`linear_cka` needs of some samples; that of more samples is the sum.

    Args:
        first: features ``(N, D)`` or ``(K, N, D)``.
        second: of the same samples, ``(N, E)`` or ``(K, N, E)``.
        counted: which samples count, bool ``(N,)`` or ``(K, N)``; ``None``: all.

    Returns:
        Sums over samples of the products of [1, first, second] with themselves, float64
        ``(..., 1 + D + E, 1 + D + E)``.
    """
    width = 1 + first.shape[-1] + second.shape[-1]
    total = first.new_zeros(*first.shape[:-2], width, width, dtype=torch.float64)
    ones = first.new_ones(*first.shape[:-1], 1, dtype=torch.float64)
    ones = ones if counted is None else ones * counted.unsqueeze(-1)
    rows = max(_VALUES // (width * first.shape[:-2].numel()), _FEWEST)
    parts = (torch.split(values, rows, dim=-2) for values in (ones, first, second))
    for one, *features in zip(*parts, strict=True):
        joined = torch.cat([one, *(one * values for values in features)], dim=-1)
        total += joined.mT @ joined
    return total


def linear_cka(moments: Tensor, width: int) -> Tensor:
    """Return the linear CKA of two networks' features, centred, from what they have been summed to.

    ||X'Y||^2 / (||X'X|| ||Y'Y||) of centred features, one row a sample, by Frobenius norms
    (Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019). Of N
    samples and features that are independent it is above 0, the more so the fewer samples: compare
    values of one data set and split.

    Args:
        moments: of :func:`moments`, ``(..., 1 + D + E, 1 + D + E)``.
        width: D, features of the first network.

    Returns:
        float64 ``(...)``, in [0, 1]; 0 where a network's features are constant, and so say nothing
        of the other's; NaN of no samples.
    """
    count, sums, products = moments[..., :1, :1], moments[..., :1, 1:], moments[..., 1:, 1:]
    covariance = products - sums.mT * sums / count
    variance, square = (m.diagonal(dim1=-2, dim2=-1) for m in (covariance, products))
    varies = (variance > _CONSTANT * square).double().unsqueeze(-1)
    covariance = covariance * varies * varies.mT
    first, second = slice(width), slice(width, None)
    between, of_first, of_second = (
        torch.linalg.matrix_norm(covariance[..., rows, columns])
        for rows, columns in ((first, second), (first, first), (second, second))
    )
    norms = of_first * of_second
    found: Tensor = torch.where(norms == 0, 0.0, between**2 / norms)
    return found.clamp(0, 1)


class MutualInformation(Metric):
    """Mutual information of two labels, see :func:`mutual_information`; summed over processes.

    Args:
        classes: C.
        kwargs: options of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False

    counts: Tensor

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        empty = torch.zeros(classes, classes, dtype=torch.int64)
        self.add_state("counts", empty, dist_reduce_fx="sum")

    def update(self, first: Tensor, second: Tensor) -> None:
        """Add the labels of a batch, both int64 ``(N,)`` in [0, C)."""
        self.counts += joint_counts(first, second, len(self.counts))

    def compute(self) -> Tensor:
        """Return it in nats, float64; NaN if nothing was added."""
        return mutual_information(self.counts)


class LinearCKA(Metric):
    """Linear CKA of two networks' features, see :func:`linear_cka`; summed over processes.

    Args:
        widths: features of the first network, and of the second.
        kwargs: options of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False

    moments: Tensor

    def __init__(self, widths: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = widths[0]
        size = 1 + sum(widths)
        empty = torch.zeros(size, size, dtype=torch.float64)
        self.add_state("moments", empty, dist_reduce_fx="sum")

    def update(self, first: Tensor, second: Tensor) -> None:
        """Add a batch, ``(N, D)`` and ``(N, E)``."""
        self.moments += moments(first, second)

    def compute(self) -> Tensor:
        """Return it in [0, 1], float64; NaN if nothing was added."""
        return linear_cka(self.moments, self.width)
