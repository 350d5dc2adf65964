"""SKD: rows, and the directions of the logits relative to one another."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ntdh_bench.distillers.base import LevelledDistiller, with_numbers
from ntdh_bench.distillers.functional import kd
from ntdh_bench.distillers.predictions import direction_level
from ntdh_bench.ranges import check_above


class SKD(LevelledDistiller):
    """Streamlined distillation of the logits (Jeong et al., CVPR 2026).

    The loss of :func:`functional.skd`. Its authors' code multiplies both parts, averaged already,
    by masks of half the rows and classes: a factor of about a half, which is left out here.

    Args:
        temperature: T > 0 of the rows' KL; 4 in the paper.
        ridge: what is added to the variances, > 0; 0.1 in the paper.
        weight: factor of the term; 1 in the paper, which weighs it as the cross entropy.
        gather: whether the samples of all processes are related, not only each process's own.

    Raises:
        UserError: a temperature or ridge that is not above 0, or a weight below 0.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        ridge: float = 0.1,
        weight: float = 1.0,
        gather: bool = False,
    ) -> None:
        super().__init__(weight, gather)
        check_above("distiller.temperature", temperature, 0)
        check_above("distiller.ridge", ridge, 0)
        self.temperature: float | Tensor = temperature
        self.ridge: float | Tensor = ridge

    @classmethod
    def batched(cls, members: Sequence[SKD]) -> SKD:
        """Return members as one."""
        return with_numbers(members, "temperature", "ridge")

    def of_rows(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return KD of the rows, in nats."""
        return kd(student_logits, teacher_logits, self.temperature)

    def of_relations(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the term of directions."""
        return direction_level(student_logits, teacher_logits, self.ridge)
