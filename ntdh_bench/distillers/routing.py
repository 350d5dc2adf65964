"""Losses of a student that several teachers teach, by a gate that weighs them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ntdh_bench.divergence import promote


def routed_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    log_gate: Tensor,
    temperature: float = 4.0,
    top: int | None = None,
) -> Tensor:
    """KL divergences from W teachers, ``T^2 sum_w g_w KL(teacher w || student)``, g the gate.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(W, N, C)``, taken as given.
        log_gate: logarithms of the gate's probabilities, ``(N, W)``.
        temperature: T > 0.
        top: how many teachers of a row count, the likeliest, by their probabilities among these;
            ``None``: all. With one its weight is 1, and the gate gets no gradient.

    Returns:
        Scalar in nats, mean over rows; 0 for none.
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        student, teachers, log_gate = promote(student_logits, teacher_logits.detach(), log_gate)
        log_q = (student / temperature).log_softmax(-1)
        log_p = (teachers / temperature).log_softmax(-1)
        rows = (log_p.exp() * (log_p - log_q)).sum(-1).t()  # (N, W)
        if top is not None:
            log_gate, chosen = log_gate.topk(top, dim=1)
            rows = rows.gather(1, chosen)
        weighted = (log_gate.softmax(1) * rows).sum(1)
        return temperature**2 * weighted.sum() / max(len(weighted), 1)


def imbalance(log_gate: Tensor) -> Tensor:
    """KL divergence from the uniform distribution to the gate's mean over rows.

    Args:
        log_gate: logarithms of the gate's probabilities, ``(N, W)``, N >= 1.

    Returns:
        Scalar in nats, >= 0; 0 where the teachers are used alike.
    """
    rows, teachers = log_gate.shape
    with torch.autocast(log_gate.device.type, enabled=False):
        log_mean = torch.logsumexp(promote(log_gate)[0], 0) - math.log(rows)
        return -log_mean.mean() - math.log(teachers)
