"""A sum of several distillation terms."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ntdh_bench.distillers.base import Distiller
from ntdh_bench.errors import UserError
from ntdh_bench.ranges import check_at_least


class Combined(Distiller):
    """Weighted sum of distillers, each on layers of its own.

    Args:
        distillers: the terms; their own ``weight`` counts too.
        weights: one factor a term; ``None``: all 1.

    Raises:
        UserError: no term, or another number of weights.
    """

    def __init__(self, distillers: list[Distiller], weights: list[float] | None = None) -> None:
        weights = [1.0] * len(distillers) if weights is None else weights
        if not distillers or len(weights) != len(distillers):
            raise UserError(
                f"Combined has {len(distillers)} distillers and {len(weights)} weights: expected "
                "one weight each, and at least one distiller"
            )
        for weight in weights:
            check_at_least("distiller.weights", weight, 0)
        super().__init__()
        self.distillers = nn.ModuleList(distillers)
        self.weights = [float(weight) for weight in weights]

    @property
    def student_layers(self) -> list[str]:
        """Layers of the student that some term compares, each once."""
        return list(dict.fromkeys(name for term in self._terms() for name in term.student_layers))

    @property
    def teacher_layers(self) -> list[str]:
        """Layers of the teacher that some term compares, each once."""
        return list(dict.fromkeys(name for term in self._terms() for name in term.teacher_layers))

    def build(
        self, student: Mapping[str, int], teacher: Mapping[str, int], n_data: int, seed: int
    ) -> None:
        """Build every term."""
        for term in self._terms():
            term.build(student, teacher, n_data, seed)

    def distill(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the weighted sum of the terms, each with its own layers."""
        return self.weight * self.forward(student, teacher, target, index)

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the sum of the terms; arguments as in ``distill``."""
        losses = [
            weight * term.distill(student, teacher, target, index)
            for weight, term in zip(self.weights, self._terms(), strict=True)
        ]
        return sum(losses[1:], start=losses[0])

    def _terms(self) -> list[Distiller]:
        return [term for term in self.distillers if isinstance(term, Distiller)]
