"""Losses of segmentation networks that fuse sensors.

Logits are rows ``(N, C)``, of points or of pixels that count (``divergence.flatten_dense``). Half
precision is promoted to float32, float64 stays float64. Without rows a loss is 0, and its gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ntdh_bench.divergence import promote
from ntdh_bench.segmentation import check_labels

PMF_FLOOR = 1e-8


def focal(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None = None,
    gamma: float = 2.0,
    floor: float = 1e-6,
) -> Tensor:
    """Focal loss: ``-w_k (1 - p_k)^gamma log max(p_k, floor)`` of the target class k.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 5, with the floor of PMF's
    code, below which a row hardly has a gradient. The mean is over rows and not over their weights,
    as there. ``gamma = 0, floor = 0`` is cross-entropy.

    Args:
        logits: ``(N, C)``.
        target: int64 ``(N,)``.
        class_weight: ``(C,)``, finite; None for 1.
        gamma: exponent, at least 0.
        floor: least probability the logarithm sees, in [0, 1).

    Returns:
        Scalar in nats, mean over rows.

    Raises:
        ValueError: shapes do not fit, gamma is negative, or floor outside [0, 1).
        TargetError: a target outside ``[0, C)``.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma is {gamma}: expected a number of at least 0")
    if not 0 <= floor < 1:
        raise ValueError(f"floor is {floor}: expected a probability below 1")
    rows = _checked(logits, target)
    log_p = rows.log_softmax(dim=1).gather(1, target[:, None]).squeeze(1)
    # Below this the power of an exponent under 1 has an infinite slope, and 0 * inf is NaN.
    miss = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    value = -miss.pow(gamma) * _floored(log_p, floor)
    if class_weight is not None:
        if class_weight.shape != rows.shape[1:]:
            raise ValueError(
                f"class_weight {tuple(class_weight.shape)}: expected one for each of the "
                f"{rows.shape[1]} classes"
            )
        value = value * class_weight.to(value)[target]
    return value.sum() / max(len(value), 1)


def lovasz_softmax(logits: Tensor, target: Tensor) -> Tensor:
    """Lovász-softmax: the convex extension of the Jaccard loss, mean over the classes present.

    Berman, Triki and Blaschko, "The Lovász-Softmax loss", CVPR 2018, Eq. 8-9 and Alg. 1. All
    rows form one set, and classes without a target in it do not count.

    Args:
        logits: ``(N, C)``.
        target: int64 ``(N,)``.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: shapes do not fit.
        TargetError: a target outside ``[0, C)``.
    """
    rows = _checked(logits, target)
    present = torch.unique(target)
    foreground = target == present[:, None]
    probability = rows.softmax(dim=1).T[present]
    errors = torch.where(foreground, 1 - probability, probability)
    value = (errors * _lovasz_weights(errors.detach(), foreground)).sum()
    return value / max(len(present), 1)


def perception_aware(first: Tensor, second: Tensor, threshold: float = 0.7) -> Tensor:
    """PMF's perception-aware loss: KL divergence from the more to the less confident branch.

    Zhuang et al., "Perception-Aware Multi-Sensor Fusion for 3D LiDAR Semantic Segmentation", ICCV
    2021, Sec. 3.3. Confidence is 1 minus the entropy over log C, and the weight is how much more
    confident the guide is. The guide and the weights are constants: otherwise the loss would fall
    by making the guide worse. As in the authors' code the divergence is divided by C, and
    logarithms see no probability below 1e-8.

    Args:
        first: logits ``(N, C)`` of one branch, C >= 2.
        second: logits of the other branch, the same shape.
        threshold: confidence in [0, 1] from which a branch may guide the other.

    Returns:
        Scalar in nats, mean over rows.

    Raises:
        ValueError: shapes do not fit.
    """
    if first.shape != second.shape or first.dim() != 2 or first.shape[1] < 2:
        raise ValueError(
            f"logits {tuple(first.shape)} and {tuple(second.shape)} do not fit: expected twice the "
            "same (N, C) with at least 2 classes"
        )
    log_p, log_q = (logits.log_softmax(dim=1) for logits in promote(first, second))
    with torch.no_grad():
        p, q = log_p.exp(), log_q.exp()
        confidence_p, confidence_q = _confidence(p, log_p), _confidence(q, log_q)
        lead = confidence_p - confidence_q
        weight_p = lead.clamp(min=0) * (confidence_p >= threshold)
        weight_q = (-lead).clamp(min=0) * (confidence_q >= threshold)
    value = weight_p * _kl(p, log_p, log_q) + weight_q * _kl(q, log_q, log_p)
    return (value / p.shape[1]).sum() / max(len(value), 1)


def _checked(logits: Tensor, target: Tensor) -> Tensor:
    """Return the logits, at least float32, if they and the targets fit."""
    if logits.dim() != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: expected "
            "(N, C) and (N,)"
        )
    check_labels(target, logits.shape[1])
    return promote(logits)[0]


@torch.no_grad()
def _lovasz_weights(errors: Tensor, foreground: Tensor) -> Tensor:
    """Return the gradient of the Lovász extension at ``errors`` ``(K, M)``, one class a row.

    In the order of falling errors the Jaccard loss grows by 1 / union at an element of the class,
    and by intersection / (union (union - 1)) at another one. Subtracting neighbouring values of
    the loss would leave few digits of it in float32.
    """
    order = errors.argsort(dim=1, descending=True, stable=True)
    hit = foreground.gather(1, order)
    found = hit.cumsum(dim=1)
    size = foreground.sum(dim=1, keepdim=True)
    rank = torch.arange(1, errors.shape[1] + 1, device=errors.device)
    union = (size + rank - found).to(errors)
    left = (size - found).to(errors)
    growth = torch.where(hit, 1 / union, left / (union * (union - 1).clamp(min=1)))
    return torch.empty_like(errors).scatter_(1, order, growth)


def _confidence(p: Tensor, log_p: Tensor) -> Tensor:
    """Return 1 - entropy / log C over dimension 1, in [0, 1]."""
    return 1 + (p * _floored(log_p, PMF_FLOOR)).sum(dim=1) / math.log(p.shape[1])


def _kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the KL divergence from a constant guide p to q over dimension 1."""
    return (p * (log_p.detach() - _floored(log_q, PMF_FLOOR))).sum(dim=1)


def _floored(log_p: Tensor, floor: float) -> Tensor:
    return log_p.clamp(min=math.log(floor)) if floor else log_p
