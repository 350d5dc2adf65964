"""Losses of features position by position: attention transfer and variational information."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdh_bench.distillers.precision import full_precision, unit_rows

_POOLING: dict[int, Callable[[Tensor, Any], Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def pooled(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Average ``(..., C, *spatial)`` over the cells of a grid of ``size``, of 1 to 3 axes."""
    axes = len(size)
    if tuple(x.shape[-axes:]) == size:
        return x
    cells = _POOLING[axes](x.flatten(0, -axes - 2), size)
    return cells.view(*x.shape[: -axes - 1], *cells.shape[1:])


def on_one_grid(
    student: Tensor, teacher: Tensor, share: Tensor | None = None, *, stacked: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return maps, and the share of each position that counts, on the smaller grid of the two.

    Both are averaged over the cells of a grid that has the smaller size along each axis; vectors
    stay as they are.

    Args:
        student: ``(N, C, *spatial)``.
        teacher: ``(N, C', *spatial')``, of as many axes.
        share: ``(N, *spatial)`` in [0, 1]; ``None``: all count.
        stacked: whether both have members ``(K, ...)`` before.

    Raises:
        ValueError: another number of axes.
    """
    first = 2 + stacked
    if student.dim() != teacher.dim():
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} have different axes"
        )
    pairs = zip(student.shape[first:], teacher.shape[first:], strict=True)
    size = tuple(min(pair) for pair in pairs)
    if not size:
        return student, teacher, share
    if share is not None:
        share = pooled(share[:, None], size).squeeze(1)
    return pooled(student, size), pooled(teacher, size), share


@full_precision
def at(
    student: Tensor, teacher: Tensor, share: Tensor | None = None, *, stacked: bool = False
) -> Tensor:
    """Attention transfer: mean squared difference of the maps of activity, of length 1 each.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, Eq. 2; the mean over
    positions of squares, as in the code of its authors (the paper has the root of their sum). The
    activity of a position is the mean square over channels; maps of another grid are averaged first
    (:func:`on_one_grid`).

    Args:
        student: ``(N, C, *spatial)``.
        teacher: ``(N, C', *spatial')``.
        share: ``(N, *spatial)`` in [0, 1], how much of each position counts; ``None``: all of it. A
            position of share 0 is as if it were not there.
        stacked: whether both are ``(K, N, ...)``.

    Returns:
        Scalar or ``(K,)``. A map of zeros stays zero and gets no gradient.

    Raises:
        ValueError: vectors, which have no positions, or another number of axes.

    Example:
        >>> teacher = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
        >>> student = torch.tensor([[[1.0, 0.0], [2.0, 1.0]]])
        >>> round(at(student, teacher).item(), 4)
        0.6968
        >>> bool(at(3 * teacher, teacher) < 1e-6)
        True
    """
    if student.dim() < 3 + stacked:
        raise ValueError(f"features are {tuple(student.shape)}: expected maps (N, C, *spatial)")
    student, teacher, share = on_one_grid(student, teacher, share, stacked=stacked)
    ours, theirs = (_attention(x, share, 1 + stacked) for x in (student, teacher))
    total = (ours - theirs).square().sum(dim=(-2, -1))
    return total / (ours.shape[-2:].numel() if share is None else share.sum())


@full_precision
def vid(
    student: Tensor,
    teacher: Tensor,
    variance: Tensor,
    share: Tensor | None = None,
    *,
    stacked: bool = False,
) -> Tensor:
    """Variational information: negative log likelihood of the teacher's features, a constant aside.

    Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019, Eq. 5-6:
    the mean of ``((student - teacher)^2 / variance + log variance) / 2``, the student already
    regressed.

    Args:
        student: ``(N, C, *spatial)`` or ``(N, C)``.
        teacher: the same shape.
        variance: ``(C,)``, above 0; of a stack ``(K, C)``.
        share: ``(N, *spatial)`` in [0, 1], how much of each position counts; ``None``: all of it.
        stacked: whether both are ``(K, N, ...)``.

    Returns:
        Scalar or ``(K,)`` in nats; it can be negative.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> teacher = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
        >>> student = torch.tensor([[[1.0, 0.0], [2.0, 1.0]]])
        >>> variance = torch.tensor([0.5, 2.0])
        >>> round(vid(student, teacher, variance).item(), 4)
        2.5625
    """
    _check(student, teacher)
    spread = variance.to(student).unsqueeze(-2)
    spread = spread[(..., *[None] * (student.dim() - spread.dim()))]
    return mean_of(((student - teacher).square() / spread + spread.log()) / 2, share, stacked)


@full_precision
def simkd(
    student: Tensor, teacher: Tensor, share: Tensor | None = None, *, stacked: bool = False
) -> Tensor:
    """Mean squared error of features before the head, the student already projected.

    Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022, Eq. 2; maps
    of another grid are averaged first (:func:`on_one_grid`).

    Args:
        student: ``(N, C, *spatial)`` or ``(N, C)``.
        teacher: ``(N, C, *spatial')`` or ``(N, C)``.
        share: ``(N, *spatial)`` in [0, 1], how much of each of the student's positions counts;
            ``None``: all of it.
        stacked: whether both are ``(K, N, ...)``.

    Returns:
        Scalar or ``(K,)``.

    Raises:
        ValueError: another number of channels or axes.

    Example:
        >>> teacher = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
        >>> student = torch.tensor([[[1.0, 0.0], [2.0, 1.0]]])
        >>> round(simkd(student, teacher).item(), 4)
        3.5
    """
    student, teacher, share = on_one_grid(student, teacher, share, stacked=stacked)
    _check(student, teacher)
    return mean_of((student - teacher).square(), share, stacked)


@full_precision
def reviewkd(
    student: Tensor, teacher: Tensor, share: Tensor | None = None, *, stacked: bool = False
) -> Tensor:
    """Hierarchical context loss: squared error of maps and of their averages in 4, 2 and 1 cells.

    Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, Fig. 4: means weighted by
    1, 1/2, 1/4 and 1/8, as far as a map has more positions along each axis, divided by their sum.

    Args:
        student: ``(N, C, *spatial)``, fused.
        teacher: the same shape.
        share: ``(N, *spatial)`` in [0, 1], how much of each position counts; ``None``: all of it.
        stacked: whether both are ``(K, N, ...)``.

    Returns:
        Scalar or ``(K,)``.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> teacher = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
        >>> student = torch.tensor([[[1.0, 0.0], [2.0, 1.0]]])
        >>> round(reviewkd(student, teacher).item(), 4)
        3.0833
    """
    _check(student, teacher)
    grid = tuple(student.shape[2 + stacked :])
    cells = [side for side in (4, 2, 1) if side < min(grid)]
    total, weights = mean_of((student - teacher).square(), share, stacked), 1.0
    for level, side in enumerate(cells, start=1):
        size = (side,) * len(grid)
        gap = (pooled(student, size) - pooled(teacher, size)).square()
        of_cells = None if share is None else pooled(share[:, None], size).squeeze(1)
        total = total + mean_of(gap, of_cells, stacked) / 2**level
        weights += 1 / 2**level
    return total / weights


def mean_of(values: Tensor, share: Tensor | None, stacked: bool) -> Tensor:
    """Return the mean ``()`` or ``(K,)`` of ``(N, C, *spatial)``, positions weighted by ``share``.

    A share is not given of a stack.
    """
    if share is None:
        return values.flatten(int(stacked)).mean(dim=-1)
    return (values * share.unsqueeze(1)).sum() / (share.sum() * values.shape[1])


def _check(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ"
        )


def _attention(x: Tensor, share: Tensor | None, channels: int) -> Tensor:
    """Maps ``(..., N, P)`` of length 1, in which a position weighs as the root of its share."""
    activity = x.square().mean(dim=channels).flatten(channels)
    # Of any scale, so that neither the square of a large map nor that of a small one is lost.
    largest = activity.detach().amax(dim=-1, keepdim=True)
    activity = activity / torch.where(largest > 0, largest, 1.0)
    if share is not None:
        activity = activity * share.flatten(1).sqrt()
    return unit_rows(activity)
