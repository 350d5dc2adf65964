"""FitNet: regress the teacher's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ntdh_bench.distillers.base import Distiller, with_numbers
from ntdh_bench.distillers.functional import fitnet
from ntdh_bench.errors import UserError
from ntdh_bench.seeding import seeded
from ntdh_bench.stacks.layers import StackedLinear


class FitNet(Distiller):
    """Hint loss on features through a trained regressor (Romero et al., ICLR 2015).

    The regressor is linear in dimension 1: a linear layer for ``(N, D)`` features, a 1x1
    convolution for feature maps ``(N, D, *spatial)``.

    Args:
        student_dim: size of dimension 1 of the student's features; ``None``: set by ``build``.
        teacher_dim: the same of the teacher.
        weight: factor of the term; 100 in the comparison of Tian et al., ICLR 2020.
        layers: ``layer``, ``student_layer`` and ``teacher_layer`` of a :class:`Distiller`.
    """

    def __init__(
        self,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        weight: float = 100.0,
        **layers: str | None,
    ) -> None:
        super().__init__(weight, **layers)
        self.regressor: nn.Linear | StackedLinear | None = None
        if student_dim is not None and teacher_dim is not None:
            self.regressor = nn.Linear(student_dim, teacher_dim)

    def build(
        self, student: Mapping[str, int], teacher: Mapping[str, int], n_data: int, seed: int
    ) -> None:
        """Create the regressor, with weights derived from ``seed``, if there is none yet."""
        sizes = student[self.student_layers[0]], teacher[self.teacher_layers[0]]
        if self.regressor is None:
            with seeded(seed, "fitnet"):
                self.regressor = nn.Linear(*sizes)
        assert isinstance(self.regressor, nn.Linear)  # a stack is of built members
        given = self.regressor.in_features, self.regressor.out_features
        if given != sizes:
            raise UserError(
                f"FitNet(student_dim, teacher_dim) is {given}, but the layers have {sizes}: leave "
                "them out"
            )

    @classmethod
    def batched(cls, members: Sequence[FitNet]) -> FitNet:
        """Return members as one, with a :class:`StackedLinear` as regressor."""
        one = with_numbers(members)
        regressors = [member.regressor for member in members]
        one.regressor = StackedLinear.of([x for x in regressors if isinstance(x, nn.Linear)])
        return one

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared error between regressed student and teacher.

        Args:
            student: ``(N, student_dim, *spatial)``; of a stack with K before.
            teacher: ``(N, teacher_dim, *spatial)``, likewise.

        Raises:
            UserError: the regressor was never built.
            ValueError: the features have other sizes.
        """
        if self.regressor is None:
            raise UserError("FitNet has no regressor: give student_dim and teacher_dim, or build()")
        student = student.to(self.regressor.weight.dtype)
        features = 1 + self.stacked
        regressed = self.regressor(student.movedim(features, -1)).movedim(-1, features)
        return fitnet(regressed, teacher, stacked=self.stacked)
