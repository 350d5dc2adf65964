"""KD: soft labels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from ntdh_bench.distillers.base import LogitDistiller, with_numbers
from ntdh_bench.distillers.functional import kd
from ntdh_bench.ranges import check_above


class KD(LogitDistiller):
    """Soft-label distillation of the logits (Hinton, Vinyals and Dean, 2015).

    Args:
        temperature: T > 0; 4 in most benchmarks, 1 in the NTDH paper.
        weight: factor of the term; 1 with a task weight of 1.
        standardize: whether to compare Z-scores of the logits (Sun et al., CVPR 2024; there at T 2
            and weight 9 with a task weight of 0.1).

    Raises:
        UserError: a temperature that is not above 0, or a weight below 0.
    """

    def __init__(
        self, temperature: float = 4.0, weight: float = 1.0, standardize: bool = False
    ) -> None:
        super().__init__(weight)
        check_above("distiller.temperature", temperature, 0)
        self.temperature: float | Tensor = temperature
        self.standardize = standardize

    @property
    def stack_key(self) -> Hashable:
        """As of every distiller, and whether logits are standardised."""
        return super().stack_key, self.standardize

    @classmethod
    def batched(cls, members: Sequence[KD]) -> KD:
        """Return members as one."""
        return with_numbers(members, "temperature")

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the unweighted loss of logits ``(..., N, C)`` in nats: see ``functional.kd``."""
        return kd(student_logits, teacher_logits, self.temperature, self.standardize)
