"""Distances of many versions of a batch from one: the inner loop of Algorithm 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

FeatureScore: TypeAlias = Literal["ncjsd", "mse"]

_TINY = 1e-300  # keeps 0 * log(0) at 0


def class_rows(logits: Tensor, copies: int) -> Tensor:
    """View logits ``(copies * B, C, *spatial)`` as ``(C, copies, B * S)``, S positions a sample."""
    rows = logits.contiguous().flatten(2) if logits.dim() > 2 else logits.unsqueeze(2)
    rows = rows.view(copies, len(rows) // copies, *rows.shape[1:])
    return rows.permute(2, 0, 1, 3).flatten(2)


class Reference(ABC):
    """The student over the R rows of a batch that count: what a teacher is compared with."""

    @staticmethod
    def of(score: FeatureScore, logits: Tensor, target: Tensor) -> Reference:
        """Build it from the student's class-major logits ``(C, R)`` and targets ``(R,)``."""
        if score == "mse":
            return SquaredReference(_double(logits))
        return NonTargetReference.of_rows(logits, target)

    @abstractmethod
    def distances(self, logits: Tensor) -> Tensor:
        """Return the distances of class-major logits ``(C, K, R)``: float64 ``(K, R)``."""

    @abstractmethod
    def distances_of_rows(self, logits: Tensor, row: Tensor) -> Tensor:
        """Return the distances of logits ``(C, P)`` from rows ``row`` (P,): float64 ``(P,)``."""


@dataclass(frozen=True)
class SquaredReference(Reference):
    """The mean squared difference of logits, target and all, by which MFH ranks features.

    Attributes:
        logits: the student's, float64 ``(C, R)``.
    """

    logits: Tensor

    def distances(self, logits: Tensor) -> Tensor:
        """Return the mean squares of logits ``(C, K, R)``: float64 ``(K, R)``."""
        return (_double(logits) - self.logits.unsqueeze(1)).square_().mean(0)

    def distances_of_rows(self, logits: Tensor, row: Tensor) -> Tensor:
        """Return the mean squares of logits ``(C, P)`` against rows ``row`` (P,): ``(P,)``."""
        return (_double(logits) - self.logits[:, row]).square_().mean(0)


@dataclass(frozen=True)
class NonTargetReference(Reference):
    """The student's non-target distribution over the R rows of a batch that count.

    Everything is float64 and class-major: sums over classes then run over contiguous rows, which
    is several times as fast as over the last dimension of 9 or 10 entries.

    Attributes:
        others: ``(C - 1, R)``, the classes that are not the target.
        p_hat: ``(C - 1, R)``, their probabilities renormalised without the target.
        negentropy: ``(R,)``, sum of p̂ log p̂.
    """

    others: Tensor
    p_hat: Tensor
    negentropy: Tensor

    @staticmethod
    def of_rows(logits: Tensor, target: Tensor) -> NonTargetReference:
        """Build it from class-major logits ``(C, R)`` and targets ``(R,)``."""
        classes = torch.arange(len(logits) - 1, device=target.device).unsqueeze(1)
        others = classes + (classes >= target)
        p_hat, negentropy = _softmax(_double(logits.gather(0, others)))
        return NonTargetReference(others, p_hat, negentropy)

    def distances(self, logits: Tensor) -> Tensor:
        """Return the NCJSD (Eq. 6) of class-major logits ``(C, K, R)``: float64 ``(K, R)``.

        The same quantity as :func:`ntdh_bench.divergence.ncjsd`, as a difference of entropies:
        H(m) - (H(p̂) + H(q̂)) / 2, of which the student's part is computed once a batch.
        """
        others = self.others.unsqueeze(1).expand(-1, logits.shape[1], -1)
        return _jsd(logits.gather(0, others), self.p_hat.unsqueeze(1), self.negentropy)

    def distances_of_rows(self, logits: Tensor, row: Tensor) -> Tensor:
        """Return the NCJSD of logits ``(C, P)`` against rows ``row`` (P,): float64 ``(P,)``."""
        p_hat, negentropy = self.p_hat[:, row], self.negentropy[row]
        return _jsd(logits.gather(0, self.others[:, row]), p_hat, negentropy)


def _jsd(logits: Tensor, q_hat: Tensor, q_negentropy: Tensor) -> Tensor:
    p_hat, p_negentropy = _softmax(_double(logits))
    mixture = p_hat.add_(q_hat).mul_(0.5)
    mixture_negentropy = mixture.clamp_min(_TINY).log_().mul_(mixture).sum(0)
    return (p_negentropy + q_negentropy).mul_(0.5).sub_(mixture_negentropy)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax over dim 0 and its sum of p log p; ``logits`` is overwritten."""
    logits -= logits.amax(0)
    p = logits.exp()
    total = p.sum(0)
    negentropy = logits.mul_(p).sum(0).div_(total).sub_(total.log())
    return p.div_(total), negentropy


def _double(values: Tensor) -> Tensor:
    """Return float64; differences between features may be near float32 rounding.

    On the CPU where the device (Apple's MPS) has no float64.
    """
    return (values.cpu() if values.device.type == "mps" else values).double()
