"""MLKD: rows, relations of rows and relations of classes, at several temperatures."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from ntdh_bench.distillers.base import LevelledDistiller, with_numbers
from ntdh_bench.distillers.predictions import instance_level, relation_levels
from ntdh_bench.errors import UserError
from ntdh_bench.ranges import check_above


class MLKD(LevelledDistiller):
    """Multi-level distillation of the logits (Jin, Wang and Lin, CVPR 2023), its terms alone.

    The sum of :func:`functional.mlkd`; the paper also compares two augmented views and masks
    confident samples and classes.

    Args:
        temperatures: each > 0; ``None``: 2, 3, 4, 5 and 6 as in the paper.
        weight: factor of the term, a mean over temperatures; 5 is the paper's sum over five.
        gather: whether the samples of all processes are related, not only each process's own.

    Raises:
        UserError: no temperature, one that is not above 0, or a weight below 0.
    """

    def __init__(
        self,
        temperatures: list[float] | None = None,
        weight: float = 5.0,
        gather: bool = False,
    ) -> None:
        super().__init__(weight, gather)
        self.temperatures: list[float] | Tensor = (
            [2.0, 3.0, 4.0, 5.0, 6.0] if temperatures is None else temperatures
        )
        if not self.temperatures:
            raise UserError("distiller.temperatures is empty: expected one or more, each above 0")
        for temperature in self.temperatures:
            check_above("distiller.temperatures", temperature, 0)

    @property
    def stack_key(self) -> Hashable:
        """As of every distiller, and how many temperatures there are."""
        return super().stack_key, len(self.temperatures)

    @classmethod
    def batched(cls, members: Sequence[MLKD]) -> MLKD:
        """Return members as one, temperatures ``(K, n)`` if they differ."""
        return with_numbers(members, "temperatures")

    def of_rows(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the mean of KD over temperatures, in nats."""
        return instance_level(student_logits, teacher_logits, self._temperatures())

    def of_relations(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the terms of the batch and of the classes."""
        return relation_levels(student_logits, teacher_logits, self._temperatures())

    def _temperatures(self) -> Sequence[float | Tensor]:
        numbers = self.temperatures
        return numbers.unbind(1) if isinstance(numbers, Tensor) else numbers
