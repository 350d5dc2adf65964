"""Losses of networks that learn from each other, each taking the other's output as given."""

from __future__ import annotations

from torch import Tensor

from ntdh_bench.distillers.logits import kd


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
