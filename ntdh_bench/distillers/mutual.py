"""Losses of networks that learn from each other."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ntdh_bench.distillers.logits import kd, mean_of
from ntdh_bench.distillers.precision import full_precision
from ntdh_bench.divergence import ncjsd, nckl
from ntdh_bench.rank_correlation import kendall_tau

Distance: TypeAlias = Literal["kl", "ncjsd"]


def joint_distance(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, kind: Distance = "kl"
) -> Tensor:
    """How far two networks that train together are apart: Dist of Eq. 26, differentiable in both.

    The paper names the KL divergence as an example. The code of its authors takes the non-target
    Jensen-Shannon divergence on MNIST, though with both KL terms the wrong way round, KL(m || p),
    which has no bound; here it is that of Eq. 6.

    Args:
        student_logits: f_b, ``(N, C)`` or ``(K, N, C)``.
        teacher_logits: f_a, the same shape.
        target: int64 ``(N,)`` or ``(K, N)`` in ``[0, C)``.
        kind: ``kl`` is KL(f_a || f_b) at T = 1, ``ncjsd`` is Eq. 6.

    Returns:
        Scalar or ``(K,)`` in nats, mean over rows; 0 for none.

    Raises:
        ValueError: shapes do not fit, or, of ``ncjsd``, a target lies outside ``[0, C)``.
    """
    if kind == "ncjsd":
        return mean_of(ncjsd(teacher_logits, student_logits, target))
    return kd(student_logits, teacher_logits, temperature=1.0)


def mutual_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergences both ways, ``T^2 (KL(teacher || student) + KL(student || teacher))``.

    Zhang et al., "Deep Mutual Learning", CVPR 2018, Eq. 5 and 8 (there T = 1). The distribution
    that a network is compared with is detached: each learns from its own term alone.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: the same shape.
        temperature: T > 0.

    Returns:
        Scalar in nats, mean over rows; 0 for none.

    Raises:
        ValueError: shapes do not fit, or T is not positive.
    """
    to_student = kd(student_logits, teacher_logits.detach(), temperature)
    return to_student + kd(teacher_logits, student_logits.detach(), temperature)


@full_precision
def selected_nckl(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, threshold: float = 0.0
) -> Tensor:
    """Non-target KL both ways of the rows on whose order of the classes both networks agree.

    The on-the-fly selection distillation of Huo et al., "C2KD: Bridging the Modality Gap for
    Cross-Modal Knowledge Distillation", CVPR 2024: rows whose Kendall tau-b exceeds the threshold
    (there 0) count, by the KL divergences between the classes that are not the target. Their code
    multiplies the target's logit by 0, which leaves it the odds exp(0) among the others, and
    divides by all rows, selected or not. Here the target is removed, and the mean is that of the
    rows selected. The distribution that a network is compared with is detached.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: the same shape.
        target: int64 ``(N,)`` in ``[0, C)``.
        threshold: tau-b that a row must exceed.

    Returns:
        Scalar in nats; 0 if no row is selected, or with two classes.

    Raises:
        ValueError: shapes do not fit, or a target lies outside ``[0, C)``.
    """
    selected = kendall_tau(student_logits, teacher_logits) > threshold
    rows = nckl(teacher_logits.detach(), student_logits, target)
    rows = rows + nckl(student_logits.detach(), teacher_logits, target)
    return torch.where(selected, rows, 0).sum() / selected.sum().clamp(min=1)
