"""NKD: the target's cross entropy weighted by the teacher, and the non-target classes apart."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ntdh_bench.distillers.base import LogitDistiller, with_numbers
from ntdh_bench.distillers.functional import nkd
from ntdh_bench.ranges import check_above, check_at_least


class NKD(LogitDistiller):
    """Normalised distillation of the logits (Yang et al., ICCV 2023).

    Args:
        gamma: weight of the non-target part; 1.5 on ImageNet, 3.5 on CIFAR-100.
        temperature: T > 0 of the non-target part; 1 on ImageNet, 3 on CIFAR-100.
        weight: factor of the term; 1 in the paper.

    Raises:
        UserError: a temperature that is not above 0, or a weight below 0.
    """

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_at_least("distiller.gamma", gamma, 0)
        check_above("distiller.temperature", temperature, 0)
        self.gamma: float | Tensor = gamma
        self.temperature: float | Tensor = temperature

    @classmethod
    def batched(cls, members: Sequence[NKD]) -> NKD:
        """Return members as one."""
        return with_numbers(members, "gamma", "temperature")

    def extra_arguments(self, target: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """Return the targets."""
        return (target,)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """Return the unweighted loss of logits ``(..., N, C)`` in nats: see ``functional.nkd``."""
        return nkd(student_logits, teacher_logits, target, self.gamma, self.temperature)
