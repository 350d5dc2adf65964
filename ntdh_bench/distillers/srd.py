"""SRD: features that are linearly projected and standardised over the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ntdh_bench.distillers.base import Distiller, with_numbers
from ntdh_bench.distillers.functional import kd, srd
from ntdh_bench.errors import UserError
from ntdh_bench.layers import LOGITS
from ntdh_bench.ranges import check_at_least
from ntdh_bench.seeding import seeded
from ntdh_bench.stacks.layers import StackedLinear, beside


class SRD(Distiller):
    """Simple recipe distillation (Miles and Mikolajczyk, AAAI 2024).

    A linear projector of the student's features and the logarithm of a sum of powers, both sides
    standardised over the batch, plus KL divergence of the logits at temperature 1. Maps are
    averaged over positions first, as in the code of its authors.

    Args:
        exponent: of the differences, >= 1; 4 in the paper.
        feature_weight: of the features' term; 2 in the code of the paper.
        logit_weight: of the KL divergence; 1 in the code of the paper.
        weight: factor of both.
        gather: whether the samples of all processes are related, not only each process's own.
        layers: ``layer``, ``student_layer`` and ``teacher_layer`` of a :class:`Distiller`; the
            paper takes the features before the head.

    Raises:
        UserError: a negative weight, or an exponent below 1.
    """

    def __init__(
        self,
        exponent: float = 4.0,
        feature_weight: float = 2.0,
        logit_weight: float = 1.0,
        weight: float = 1.0,
        gather: bool = False,
        **layers: str | None,
    ) -> None:
        super().__init__(weight, **layers)
        self.gather = gather
        check_at_least("distiller.exponent", exponent, 1)
        check_at_least("distiller.feature_weight", feature_weight, 0)
        check_at_least("distiller.logit_weight", logit_weight, 0)
        self.exponent: float | Tensor = exponent
        self.feature_weight: float | Tensor = feature_weight
        self.logit_weight: float | Tensor = logit_weight
        self.projector: nn.Linear | StackedLinear | None = None

    def build(
        self, student: Mapping[str, int], teacher: Mapping[str, int], n_data: int, seed: int
    ) -> None:
        """Create the projector, with weights derived from ``seed``, if there is none yet."""
        if self.projector is None:
            with seeded(seed, "srd"):
                sizes = student[self.student_layers[0]], teacher[self.teacher_layers[0]]
                self.projector = nn.Linear(*sizes, bias=False)  # a bias would be subtracted again

    @classmethod
    def batched(cls, members: Sequence[SRD]) -> SRD:
        """Return members as one, with a :class:`StackedLinear` as projector."""
        one = with_numbers(members, "exponent", "feature_weight", "logit_weight")
        projectors = [member.projector for member in members]
        one.projector = StackedLinear.of([x for x in projectors if isinstance(x, nn.Linear)])
        return one

    def distill(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the weighted sum of both terms; the logits are compared row by row."""
        features = (
            self._features(student, self.student_layers[0]),
            self._features(teacher, self.teacher_layers[0]),
        )
        loss = self.forward(*features, student[LOGITS], teacher[LOGITS])
        return beside(self.weight, loss) * loss

    def forward(
        self, student: Tensor, teacher: Tensor, student_logits: Tensor, teacher_logits: Tensor
    ) -> Tensor:
        """Return the unweighted loss: see ``functional.srd`` and ``functional.kd``.

        Raises:
            UserError: the projector was never built.
        """
        if self.projector is None:
            raise UserError("SRD has no projector: call build()")
        student, teacher = (_vectors(x, 2 + self.stacked) for x in (student, teacher))
        projected = self.projector(student.to(self.projector.weight.dtype))
        projected, teacher = self._of_all_ranks(projected, teacher)
        features = srd(projected, teacher, self.exponent, stacked=self.stacked)
        logits = kd(student_logits, teacher_logits, temperature=1.0)
        logits = self._weighed(logits, student_logits)
        of_features = beside(self.feature_weight, features) * features
        return of_features + beside(self.logit_weight, logits) * logits


def _vectors(x: Tensor, spatial: int) -> Tensor:
    """Average over the dimensions from ``spatial`` on, if there are any."""
    return x.flatten(spatial).mean(dim=-1) if x.dim() > spatial else x
