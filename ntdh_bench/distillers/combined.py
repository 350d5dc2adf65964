"""A sum of several distillation terms."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ntdh_bench.distillers.base import Distiller
from ntdh_bench.errors import UserError
from ntdh_bench.layers import LOGITS
from ntdh_bench.ranges import check_at_least


class Combined(Distiller):
    """Weighted sum of distillers.

    A training step taps the logits and one more layer of each network, so the terms may name one
    layer other than the logits.

    Args:
        distillers: the terms; their own ``weight`` counts too.
        weights: one factor a term; ``None``: all 1.

    Raises:
        UserError: no term, another number of weights, or terms on different hidden layers.
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
        super().__init__(
            student_layer=_common_layer([d.student_layer for d in distillers], "student_layer"),
            teacher_layer=_common_layer([d.teacher_layer for d in distillers], "teacher_layer"),
        )
        self.distillers = nn.ModuleList(distillers)
        self.weights = [float(weight) for weight in weights]

    def build(self, student_dim: int, teacher_dim: int, n_data: int, seed: int) -> None:
        """Build every term."""
        for term in self._terms():
            term.build(student_dim, teacher_dim, n_data, seed)

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


def _common_layer(layers: list[str], argument: str) -> str:
    hidden = sorted(set(layers) - {LOGITS})
    if len(hidden) > 1:
        raise UserError(f"Combined: terms with {argument} {', '.join(hidden)}: expected one layer")
    return hidden[0] if hidden else LOGITS
