"""Losses of logits, row by row, as pure functions.

``functional`` exports them and says what they share.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdh_bench.distillers.precision import full_precision
from ntdh_bench.divergence import Comparison, check_targets, target_nontarget
from ntdh_bench.stacks.layers import beside

STANDARD_EPSILON = 1e-7
#: What varies by fewer roundings of its own size is taken for constant.
ROUNDINGS = 8.0


@full_precision
def kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor = 4.0,
    standardize: bool = False,
) -> Tensor:
    """Soft-label distillation: ``T^2 KL(teacher || student)`` of the softened distributions.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Args:
        student_logits: ``(N, C)`` or ``(K, N, C)``.
        teacher_logits: the same shape.
        temperature: T > 0.
        standardize: whether to compare :func:`standardized` logits.

    Returns:
        Scalar or ``(K,)`` in nats, mean over rows.

    Raises:
        ValueError: shapes do not fit, or T is not positive.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> round(kd(student, teacher, temperature=2.0).item(), 4)
        1.2792
        >>> bool(kd(student + 1, student) < 1e-6)
        True
    """
    check_logits(student_logits, teacher_logits, temperature)
    if standardize:
        student_logits, teacher_logits = standardized(student_logits), standardized(teacher_logits)
    divisor = beside(temperature, student_logits)
    student = torch.log_softmax(student_logits / divisor, dim=-1)
    teacher = torch.log_softmax(teacher_logits / divisor, dim=-1)
    terms = F.kl_div(student, teacher, reduction="none", log_target=True)
    divergence = terms.sum(dim=(-2, -1)) / max(student.shape[-2], 1)
    return divergence * beside(temperature**2, divergence)


@full_precision
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    alpha: float | Tensor = 1.0,
    beta: float | Tensor = 8.0,
    temperature: float | Tensor = 4.0,
    standardize: bool = False,
) -> Tensor:
    """Decoupled distillation: ``T^2 (alpha TCKD + beta NCKD)`` at temperature T.

    Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, Eq. 7; TCKD is the KL divergence of
    target against rest (two terms), NCKD that of the renormalised non-target classes.

    Args:
        student_logits: ``(N, C)`` or ``(K, N, C)``.
        teacher_logits: the same shape.
        target: int64 ``(N,)`` or ``(K, N)`` in ``[0, C)``.
        alpha: weight of the target part.
        beta: weight of the non-target part.
        temperature: T > 0.
        standardize: whether to compare :func:`standardized` logits.

    Returns:
        Scalar or ``(K,)`` in nats, mean over rows.

    Raises:
        ValueError: shapes do not fit, T is not positive, or a target lies outside ``[0, C)``.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> target = torch.tensor([0])
        >>> round(dkd(student, teacher, target).item(), 4)
        9.7487
        >>> beta = 1 - teacher.softmax(dim=1)[0, 0].item()  # with which it is KD
        >>> round(dkd(student, teacher, target, beta=beta, temperature=1.0).item(), 4)
        0.9555
        >>> round(kd(student, teacher, temperature=1.0).item(), 4)
        0.9555
    """
    check_logits(student_logits, teacher_logits, temperature)
    if standardize:
        student_logits, teacher_logits = standardized(student_logits), standardized(teacher_logits)
    divisor = beside(temperature, student_logits)
    divergence = Comparison(teacher_logits / divisor, student_logits / divisor, target)
    target_part, other_part = divergence.tckl(binary=True), divergence.nckl()
    rows = beside(alpha, target_part) * target_part + beside(beta, other_part) * other_part
    mean = mean_of(rows)
    return mean * beside(temperature**2, mean)


@full_precision
def nkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    gamma: float | Tensor = 1.5,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Normalised distillation: ``-p_y log q_y - gamma T^2 sum_{c != y} p_hat_c log q_hat_c``.

    Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
    with Normalized Loss and Customized Soft Labels", ICCV 2023. The target part is at T = 1; p_hat
    and q_hat are softmax at T over the C - 1 non-target classes alone. A cross entropy: it does not
    vanish where both agree.

    Args:
        student_logits: ``(N, C)`` or ``(K, N, C)``.
        teacher_logits: the same shape.
        target: int64 ``(N,)`` or ``(K, N)`` in ``[0, C)``.
        gamma: weight of the non-target part.
        temperature: T > 0, of the non-target part.

    Returns:
        Scalar or ``(K,)`` in nats, mean over rows.

    Raises:
        ValueError: shapes do not fit, T is not positive, or a target lies outside ``[0, C)``.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> target = torch.tensor([0])
        >>> round(nkd(student, teacher, target).item(), 4)
        3.5713
    """
    check_logits(student_logits, teacher_logits, temperature)
    sides = student_logits, teacher_logits
    (log_q, _, others_q), (log_p, _, others_p) = (target_nontarget(x, target) for x in sides)
    if isinstance(temperature, Tensor) or temperature != 1:
        divisor = beside(temperature, student_logits)
        others_q, others_p = (target_nontarget(x / divisor, target)[2] for x in sides)
    target_part = -mean_of(log_p.exp() * log_q)
    other_part = -mean_of((others_p.exp() * others_q).sum(dim=-1))
    return target_part + beside(gamma, other_part) * beside(temperature**2, other_part) * other_part


@full_precision
def wttm(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 5.0
) -> Tensor:
    """Weighted transformed teacher matching: mean of ``U KL(p_T || q)``, T on the teacher alone.

    Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024,
    Eq. 22: ``p_T`` is the teacher at temperature T, q the student at 1, and the power sum
    ``U = sum_c p_c^(1/T)`` of the teacher at 1 weighs rows by how smooth they are. No ``T^2``.

    Args:
        student_logits: ``(N, C)`` or ``(K, N, C)``.
        teacher_logits: the same shape.
        temperature: T > 0, the paper's ``1 / gamma``.

    Returns:
        Scalar or ``(K,)`` in nats, mean over rows.

    Raises:
        ValueError: shapes do not fit, or T is not positive.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> round(wttm(student, teacher).item(), 4)
        0.8495
    """
    check_logits(student_logits, teacher_logits, temperature)
    powers = torch.log_softmax(teacher_logits, dim=-1) / beside(temperature, teacher_logits)
    log_sum = torch.logsumexp(powers, dim=-1, keepdim=True)
    student = torch.log_softmax(student_logits, dim=-1)
    terms = F.kl_div(student, powers - log_sum, reduction="none", log_target=True)
    return mean_of(log_sum.squeeze(-1).exp() * terms.sum(dim=-1))


@full_precision
def ofa(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    eps: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Target-enhanced cross entropy of an exit: ``-sum_c ((p_c + [c = y])^eps - [c = y]) log q_c``.

    Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
    Distillation", NeurIPS 2023. With ``eps`` 1 plain cross entropy with the teacher; above 1 a
    confident teacher's target weighs more. It does not vanish where both agree.

    Args:
        student_logits: of an exit of the student, ``(N, C)`` or ``(K, N, C)``.
        teacher_logits: the same shape.
        target: int64 ``(N,)`` or ``(K, N)`` in ``[0, C)``.
        eps: the exponent, > 0.
        temperature: T > 0, of both sides.

    Returns:
        Scalar or ``(K,)`` in nats, mean over rows.

    Raises:
        ValueError: shapes do not fit, T is not positive, or a target lies outside ``[0, C)``.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> target = torch.tensor([0])
        >>> round(ofa(student, teacher, target).item(), 4)
        1.4798
    """
    check_logits(student_logits, teacher_logits, temperature)
    check_targets(student_logits, target)
    divisor = beside(temperature, student_logits)
    student = torch.log_softmax(student_logits / divisor, dim=-1)
    teacher = torch.log_softmax(teacher_logits / divisor, dim=-1)
    exponent, own = beside(eps, teacher), target.long()[..., None]
    enhanced = torch.expm1(exponent * teacher.gather(-1, own).exp().log1p())
    weights = (exponent * teacher).exp().scatter(-1, own, enhanced)
    return -mean_of((weights * student).sum(dim=-1))


def standardized(logits: Tensor) -> Tensor:
    """Z-scores of each row: ``(z - mean) / (sd + 1e-7)``, the deviation over C - 1.

    Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024. Equal logits become 0
    and get no gradient; two classes leave the sign alone, without a gradient either.

    Args:
        logits: ``(..., C)``.
    """
    centred = centre(logits)
    deviation = norm_of(centred) / math.sqrt(max(logits.shape[-1] - 1, 1))
    return centred / (deviation + STANDARD_EPSILON)


def centre(x: Tensor) -> Tensor:
    """Rows ``(..., D)`` minus their mean; constant rows are 0 and get no gradient."""
    centred = x - x.mean(dim=-1, keepdim=True)
    size, rest = norm_of(x.detach()), norm_of(centred.detach())
    return centred.masked_fill(rest <= ROUNDINGS * torch.finfo(x.dtype).eps * size, 0.0)


def norm_of(x: Tensor) -> Tensor:
    """Return the L2 norms ``(..., 1)`` of rows; a zero row's gradient is zero."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm


def mean_of(rows: Tensor) -> Tensor:
    """Return the means ``(...)`` of ``(..., N)``; 0 of none."""
    return rows.sum(dim=-1) / max(rows.shape[-1], 1)


def check_logits(
    student: Tensor, teacher: Tensor, number: float | Tensor, name: str = "temperature"
) -> None:
    """Raise a ValueError unless both are of one shape, of a call or of a stack, and T > 0."""
    check_same_shape(student, teacher)
    if student.dim() not in (2, 3):
        raise ValueError(f"logits are {tuple(student.shape)}: expected (N, C) or (K, N, C)")
    positive = torch.as_tensor(number) > 0
    if positive.device.type != "cpu":  # no waiting for the device
        torch._assert_async(positive.all())
    elif not positive.all():
        raise ValueError(f"{name} is {number}: expected a number above 0")


def check_same_shape(student: Tensor, teacher: Tensor) -> None:
    """Raise a ValueError if the shapes differ."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ"
        )
