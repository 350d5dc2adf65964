"""DIST: correlations of the probabilities, over classes and over the batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ntdh_bench.distillers.base import LogitDistiller, with_numbers
from ntdh_bench.distillers.functional import dist
from ntdh_bench.ranges import check_above, check_at_least


class DIST(LogitDistiller):
    """Distillation from a stronger teacher (Huang et al., NeurIPS 2022).

    In dense tasks all positions of the batch are rows, as in the segmentation code of its authors.

    Args:
        beta: weight of the correlations over the classes of a row.
        gamma: weight of the correlations over the rows of a class.
        temperature: T > 0; 1 on ImageNet, 4 on CIFAR-100.
        weight: factor of the term; 2, the paper's beta and gamma.
        gather: whether the samples of all processes are related, not only each process's own.

    Raises:
        UserError: a temperature that is not above 0, or a weight below 0.
    """

    def __init__(
        self,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        weight: float = 2.0,
        gather: bool = False,
    ) -> None:
        super().__init__(weight)
        self.gather = gather
        check_at_least("distiller.beta", beta, 0)
        check_at_least("distiller.gamma", gamma, 0)
        check_above("distiller.temperature", temperature, 0)
        self.beta: float | Tensor = beta
        self.gamma: float | Tensor = gamma
        self.temperature: float | Tensor = temperature

    @classmethod
    def batched(cls, members: Sequence[DIST]) -> DIST:
        """Return members as one."""
        return with_numbers(members, "beta", "gamma", "temperature")

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the unweighted loss of logits ``(..., N, C)``: see ``functional.dist``."""
        return dist(student_logits, teacher_logits, self.beta, self.gamma, self.temperature)
