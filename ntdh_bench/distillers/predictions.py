"""Losses of how predictions relate, within rows and between them, as pure functions.

``functional`` exports them and says what they share.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ntdh_bench.distillers.logits import centre, check_logits, kd, mean_of, norm_of
from ntdh_bench.distillers.precision import full_precision, product, unit_rows
from ntdh_bench.stacks.layers import beside

CORRELATION_EPSILON = 1e-8


@full_precision
def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float | Tensor = 1.0,
    gamma: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """One minus Pearson correlation of the probabilities, of each row and of each class.

    ``T^2 (beta (1 - mean_rows corr) + gamma (1 - mean_classes corr))``: Huang et al., "Knowledge
    Distillation from A Stronger Teacher", NeurIPS 2022, Eq. 7-9. With the 1e-8 of its authors
    beside the product of norms. What is constant correlates with nothing and gets no gradient:
    every class in a batch of one, uniform rows.

    Args:
        student_logits: ``(N, C)`` or ``(K, N, C)``.
        teacher_logits: the same shape.
        beta: weight of the correlations over the classes of a row ("inter-class").
        gamma: weight of those over the rows of a class ("intra-class").
        temperature: T > 0.

    Returns:
        Scalar or ``(K,)`` in ``[0, 2 T^2 (beta + gamma)]``.

    Raises:
        ValueError: shapes do not fit, or T is not positive.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> round(dist(student, teacher, gamma=0.0).item(), 4)
        1.3356
    """
    check_logits(student_logits, teacher_logits, temperature)
    divisor = beside(temperature, student_logits)
    student, teacher = (
        torch.softmax(x / divisor, dim=-1) for x in (student_logits, teacher_logits)
    )
    inter = mean_of(1 - _correlations(student, teacher))
    intra = mean_of(1 - _correlations(student.mT, teacher.mT)) * min(student.shape[-2], 1)
    loss = beside(beta, inter) * inter + beside(gamma, intra) * intra
    return loss * beside(temperature**2, loss)


@full_precision
def mlkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperatures: Sequence[float | Tensor] = (2.0, 3.0, 4.0, 5.0, 6.0),
) -> Tensor:
    """Multi-level distillation: rows, relations of rows and relations of classes, mean over T.

    Jin, Wang and Lin, "Multi-Level Logit Distillation", CVPR 2023, without its views and masks:
    :func:`instance_level` plus :func:`relation_levels`. The paper sums over its five temperatures,
    and the factor ``T^2`` of the rows is its code's.

    Args:
        student_logits: ``(N, C)`` or ``(K, N, C)``.
        teacher_logits: the same shape.
        temperatures: each T > 0.

    Returns:
        Scalar or ``(K,)``.

    Raises:
        ValueError: shapes do not fit, there is no temperature, or one is not positive.

    Example:
        >>> stream = torch.Generator().manual_seed(0)
        >>> teacher, student = torch.randn(2, 8, 5, generator=stream)
        >>> bool(mlkd(student, teacher) > mlkd(teacher, teacher))
        True
        >>> bool(mlkd(teacher, teacher) < 1e-6)
        True
    """
    sides = student_logits, teacher_logits
    return instance_level(*sides, temperatures) + relation_levels(*sides, temperatures)


def instance_level(
    student_logits: Tensor, teacher_logits: Tensor, temperatures: Sequence[float | Tensor]
) -> Tensor:
    """Mean of :func:`kd` over temperatures; arguments and errors as of :func:`mlkd`."""
    if not temperatures:
        raise ValueError("there is no temperature: expected one or more")
    losses = [kd(student_logits, teacher_logits, t) for t in temperatures]
    return torch.stack(losses).mean(dim=0)


@full_precision
def relation_levels(
    student_logits: Tensor, teacher_logits: Tensor, temperatures: Sequence[float | Tensor]
) -> Tensor:
    """Mean over temperatures of ``|P'P - Q'Q|^2 / C + |PP' - QQ'|^2 / N`` (Frobenius).

    P and Q are the probabilities ``(N, C)`` of teacher and student. Arguments and errors as of
    :func:`mlkd`.
    """
    losses = []
    for temperature in temperatures:
        check_logits(student_logits, teacher_logits, temperature)
        divisor = beside(temperature, student_logits)
        losses.append(
            _relations(*(torch.softmax(x / divisor, -1) for x in (student_logits, teacher_logits)))
        )
    return torch.stack(losses).mean(dim=0)


@full_precision
def skd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor = 4.0,
    ridge: float | Tensor = 0.1,
) -> Tensor:
    """Streamlined distillation: :func:`kd` plus :func:`direction_level`.

    Jeong et al., "Streamlined Knowledge Distillation", CVPR 2026, without the masks of its code.

    Args:
        student_logits: ``(N, C)`` or ``(K, N, C)``.
        teacher_logits: the same shape.
        temperature: T > 0.
        ridge: what is added to the variances, > 0.

    Returns:
        Scalar or ``(K,)``.

    Raises:
        ValueError: shapes do not fit, or T or the ridge is not positive.

    Example:
        >>> stream = torch.Generator().manual_seed(0)
        >>> teacher, student = torch.randn(2, 8, 5, generator=stream)
        >>> bool(skd(student, teacher) > skd(teacher, teacher))
        True
        >>> bool(skd(teacher, teacher) < 1e-6)
        True
    """
    sides = student_logits, teacher_logits
    return kd(*sides, temperature) + direction_level(*sides, ridge)


@full_precision
def direction_level(
    student_logits: Tensor, teacher_logits: Tensor, ridge: float | Tensor
) -> Tensor:
    """Mean Mahalanobis length of the rows of ``(G - H) / C``, O(N^3).

    G and H are the Gram matrices of the normalised logits; the lengths are in the covariance of
    these rows, to which the ridge is added. Arguments and errors as of :func:`skd`.
    """
    check_logits(student_logits, teacher_logits, ridge, "ridge")
    ours, theirs = unit_rows(student_logits), unit_rows(teacher_logits)
    rows, classes = student_logits.shape[-2:]
    gap = (product(ours, ours.mT) - product(theirs, theirs.mT)) / classes
    spread = gap - gap.sum(dim=-2, keepdim=True) / max(rows, 1)
    covariance = product(spread.mT, spread) / max(rows - 1, 1)
    ridges = torch.eye(rows, dtype=gap.dtype, device=gap.device) * beside(ridge, gap)
    factor = torch.linalg.cholesky_ex(covariance + ridges).L  # never singular: nothing to wait for
    whitened = torch.linalg.solve_triangular(factor, gap.mT, upper=False)
    return mean_of(norm_of(whitened.mT).squeeze(-1))


def _correlations(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlations of the rows of ``(..., D)``."""
    x, y = centre(x), centre(y)
    norms = (norm_of(x) * norm_of(y)).squeeze(-1)
    return (x * y).sum(dim=-1) / (norms + CORRELATION_EPSILON)


def _relations(student: Tensor, teacher: Tensor) -> Tensor:
    """Terms of classes and rows of :func:`relation_levels`, of probabilities ``(..., N, C)``.

    With S and D the sum and difference of both, P'P - Q'Q is (S'D + D'S) / 2 up to its sign, and so
    is PP' - QQ' (SD' + DS') / 2: norms follow from C x C products, and nothing large cancels.
    """
    total, gap = student + teacher, student - teacher
    mixed = product(total.mT, gap)
    crossed = (mixed * mixed.mT).sum(dim=(-2, -1))
    of_classes = mixed.square().sum(dim=(-2, -1)) + crossed
    of_rows = (product(total.mT, total) * product(gap.mT, gap)).sum(dim=(-2, -1)) + crossed
    rows, classes = student.shape[-2:]
    return of_classes / (2 * classes) + of_rows / (2 * max(rows, 1))
