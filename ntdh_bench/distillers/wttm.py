"""WTTM: match the teacher's softened probabilities, the more the smoother they are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ntdh_bench.distillers.base import LogitDistiller, with_numbers
from ntdh_bench.distillers.functional import wttm
from ntdh_bench.ranges import check_above


class WTTM(LogitDistiller):
    """Weighted transformed teacher matching of the logits (Zheng and Yang, ICLR 2024).

    The paper tunes both numbers for each pair: exponents 1 / T of 0.1 to 0.4 and weights of 1.4 to
    16 on CIFAR-100. The defaults are those of VGG13 to MobileNetV2.

    Args:
        temperature: T > 0 of the teacher; the paper's 1 / gamma.
        weight: factor of the term; the paper's beta.

    Raises:
        UserError: a temperature that is not above 0, or a weight below 0.
    """

    def __init__(self, temperature: float = 5.0, weight: float = 3.0) -> None:
        super().__init__(weight)
        check_above("distiller.temperature", temperature, 0)
        self.temperature: float | Tensor = temperature

    @classmethod
    def batched(cls, members: Sequence[WTTM]) -> WTTM:
        """Return members as one."""
        return with_numbers(members, "temperature")

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the unweighted loss of logits ``(..., N, C)`` in nats: see ``functional.wttm``."""
        return wttm(student_logits, teacher_logits, self.temperature)
