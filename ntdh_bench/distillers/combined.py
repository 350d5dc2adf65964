"""A sum of several distillation terms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from torch import Size, Tensor, nn

from ntdh_bench.distillers.base import Distiller, with_numbers
from ntdh_bench.errors import UserError
from ntdh_bench.ranges import check_at_least
from ntdh_bench.stacks.layers import beside


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
        self.by_position = any(term.by_position for term in distillers)
        self.weights: list[float] | Tensor = [float(weight) for weight in weights]

    @property
    def stack_key(self) -> Hashable:
        """Class and terms: see :attr:`Distiller.stack_key`."""
        return type(self), tuple(term.stack_key for term in self._terms())

    @classmethod
    def batched(cls, members: Sequence[Combined]) -> Combined:
        """Return members as one: a stack for each term, weights ``(K, terms)`` if they differ."""
        one = with_numbers(members, "weights")
        of_terms = zip(*(member._terms() for member in members), strict=True)
        one.distillers = nn.ModuleList([type(terms[0]).stack(terms) for terms in of_terms])
        return one

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

    def estimates(self) -> dict[str, Tensor]:
        """Return those of all terms."""
        return {name: v for term in self._terms() for name, v in term.estimates().items()}

    def adapt(self, student: nn.Module, teacher: nn.Module, seed: int) -> None:
        """Let every term change the student's network."""
        for term in self._terms():
            term.adapt(student, teacher, seed)

    def check(
        self, student: Mapping[str, Size], teacher: Mapping[str, Size], aligned: bool
    ) -> None:
        """Check every term."""
        for term in self._terms():
            term.check(student, teacher, aligned)

    def distill(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the weighted sum of the terms, each with its own layers."""
        loss = self.forward(student, teacher, target, index)
        return beside(self.weight, loss) * loss

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the sum of the terms; arguments as in ``distill``."""
        weights: Sequence[float | Tensor] = (
            self.weights.unbind(1) if isinstance(self.weights, Tensor) else self.weights
        )
        losses = [term.distill(student, teacher, target, index) for term in self._terms()]
        weighted = [beside(w, loss) * loss for w, loss in zip(weights, losses, strict=True)]
        return sum(weighted[1:], start=weighted[0])

    def _terms(self) -> list[Distiller]:
        return [term for term in self.distillers if isinstance(term, Distiller)]
