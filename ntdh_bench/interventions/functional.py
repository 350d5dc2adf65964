"""Changes of a teacher's logits: what each leaves exactly as it was, and what it moves.

All take logits ``(N, C)``, C > 2, and targets int64 ``(N,)`` in ``[0, C)``, and return float32 (or
float64) logits of the same shape. None of them changes the log-sum-exp of the non-target logits, or
none the non-target logits: so p_target, or the non-target distribution, stays. At temperatures
other than 1 that holds of what permutes and shifts, but not of :func:`mix_nontarget`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ntdh_bench.divergence import nontarget_columns, promote


def nontarget_log_probs(logits: Tensor, target: Tensor) -> Tensor:
    """Return log p of the non-target classes, renormalised without the target: ``(N, C - 1)``."""
    (logits,) = promote(logits)
    rest = logits.gather(1, nontarget_columns(target, logits.shape[1]))
    return rest.log_softmax(dim=1)


def permute_nontarget(logits: Tensor, target: Tensor, keys: Tensor) -> Tensor:
    """Permute the non-target logits of each row in the order of ``keys`` ``(N, C - 1)``.

    Leaves p_target as it is, at any temperature.
    """
    (logits,) = promote(logits)
    others = nontarget_columns(target, logits.shape[1])
    return logits.scatter(1, others, logits.gather(1, others.gather(1, keys.argsort(dim=1))))


def mix_nontarget(logits: Tensor, target: Tensor, other: Tensor, weight: float) -> Tensor:
    """Mix the non-target distribution with another: (1 - weight) p + weight q.

    Leaves p_target as it is at temperature 1. At a higher one, p_target falls as the non-target
    distribution gets flatter.

    Args:
        logits: ``(N, C)``.
        target: ``(N,)``.
        other: log q, ``(N, C - 1)``, of the non-target classes in order.
        weight: in [0, 1].
    """
    (logits,) = promote(logits)
    others = nontarget_columns(target, logits.shape[1])
    rest = logits.gather(1, others)
    total = rest.logsumexp(dim=1, keepdim=True)
    parts = torch.stack([rest - total, other.to(rest)])
    weights = torch.tensor([1 - weight, weight], dtype=rest.dtype, device=rest.device).log()
    mixed = (parts + weights[:, None, None]).logsumexp(dim=0)
    return logits.scatter(1, others, mixed + total)


def target_lead(logits: Tensor, target: Tensor) -> Tensor:
    """Return by how much the target's logit exceeds the largest other one, ``(N,)``.

    It is above 0 where the teacher is right.
    """
    (logits,) = promote(logits)
    others = nontarget_columns(target, logits.shape[1])
    return logits.gather(1, target[:, None])[:, 0] - logits.gather(1, others).amax(dim=1)


def shift_target(logits: Tensor, target: Tensor, shift: Tensor) -> Tensor:
    """Add ``shift`` ``(N,)`` to the target's log-odds.

    Leaves the non-target distribution as it is, at any temperature.
    """
    (logits,) = promote(logits)
    return logits.scatter_add(1, target[:, None], shift[:, None].to(logits))
