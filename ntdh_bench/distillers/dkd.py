"""DKD and the weight-adjustment method: target and non-target classes weighted apart."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from ntdh_bench.distillers.base import LogitDistiller, with_numbers
from ntdh_bench.distillers.functional import dkd
from ntdh_bench.ranges import check_above, check_at_least


class DKD(LogitDistiller):
    """Decoupled distillation of the logits (Zhao et al., CVPR 2022).

    Args:
        alpha: weight of the target part; 1 in the paper.
        beta: weight of the non-target part; 8 in the paper for most pairs.
        temperature: T > 0; 4 in the paper.
        weight: factor of the term; 1 in the paper.
        standardize: whether to compare Z-scores of the logits (Sun et al., CVPR 2024; there at T 2
            and weight 9).

    Raises:
        UserError: a temperature that is not above 0, or a weight below 0.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(weight)
        check_at_least("distiller.alpha", alpha, 0)
        check_at_least("distiller.beta", beta, 0)
        check_above("distiller.temperature", temperature, 0)
        self.alpha: float | Tensor = alpha
        self.beta: float | Tensor = beta
        self.temperature: float | Tensor = temperature
        self.standardize = standardize

    @property
    def stack_key(self) -> Hashable:
        """As of every distiller, and whether logits are standardised."""
        return super().stack_key, self.standardize

    @classmethod
    def batched(cls, members: Sequence[DKD]) -> DKD:
        """Return members as one."""
        return with_numbers(members, "alpha", "beta", "temperature")

    def extra_arguments(self, target: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """Return the targets."""
        return (target,)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """Return the unweighted loss of logits ``(..., N, C)`` in nats: see ``functional.dkd``."""
        numbers = self.alpha, self.beta, self.temperature
        return dkd(student_logits, teacher_logits, target, *numbers, self.standardize)


class WeightedKL(DKD):
    """Weight adjustment (NTDH paper, Sec. IV-C-1): ``alpha TCKL + beta NCKL`` at T = 1.

    TCKL is the two-way form, target against rest, since its first term alone (Eq. 19) can be
    negative. alpha weighs the target class and beta the others, as in the caption of Fig. 6.

    Args:
        alpha: weight of the target class.
        beta: weight of the non-target classes.
        weight: factor of the term.
        standardize: whether to compare Z-scores of the logits (Sun et al., CVPR 2024).
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(alpha, beta, 1.0, weight, standardize)

    batched = DKD.batched
