"""OFA: exits of the student that learn the teacher's classes, whatever the two networks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Size, Tensor, nn

from ntdh_bench.distillers.base import Distiller, with_numbers
from ntdh_bench.distillers.functional import ofa
from ntdh_bench.errors import UserError
from ntdh_bench.layers import LOGITS
from ntdh_bench.ranges import check_above
from ntdh_bench.seeding import seeded
from ntdh_bench.stacks.layers import StackedLinear, beside


class OFA(Distiller):
    """One-for-all distillation between heterogeneous networks (Hao et al., NeurIPS 2023).

    The sum of :func:`functional.ofa` over the logits and the exits. An exit is a trained two-layer
    perceptron, twice as wide as there are classes, on features averaged over positions: the form
    that Li et al., ACM MM 2025, give it for vectors, where the authors have convolutions and
    transformer blocks. Features of dense tasks are averaged over a sample, which has no one class:
    there the logits are the only exit.

    Args:
        exits: layers of the student beside its logits; ``None``: none. All stages in the paper.
        eps: exponent > 0 of the enhanced target; 1 and more in the paper, by pair.
        temperature: T > 0; 1 in the paper.
        weight: factor of the term; 1 in the paper.

    Raises:
        UserError: an exponent or temperature that is not above 0, a weight below 0, or the logits
            among the exits.
    """

    by_row = True

    def __init__(
        self,
        exits: list[str] | None = None,
        eps: float = 1.0,
        temperature: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight, LOGITS)
        check_above("distiller.eps", eps, 0)
        check_above("distiller.temperature", temperature, 0)
        self.exits = list(dict.fromkeys(exits or []))
        if LOGITS in self.exits:
            raise UserError("distiller.exits names the logits, which are an exit anyway: drop them")
        self.eps: float | Tensor = eps
        self.temperature: float | Tensor = temperature
        self.projectors = nn.ModuleList()

    @property
    def student_layers(self) -> list[str]:
        """The logits and the exits."""
        return [LOGITS, *self.exits]

    def check(
        self, student: Mapping[str, Size], teacher: Mapping[str, Size], aligned: bool
    ) -> None:
        """Refuse exits in dense tasks."""
        if self.exits and len(student[LOGITS]) > 1:
            raise UserError(
                f"distiller.exits is {self.exits}, but OFA has no exits in dense tasks, where "
                "features are averaged over a sample that has no one class: leave exits out"
            )

    def build(
        self, student: Mapping[str, int], teacher: Mapping[str, int], n_data: int, seed: int
    ) -> None:
        """Create the perceptrons of the exits, with weights derived from ``seed``, if not there."""
        if self.projectors:
            return
        classes = teacher[LOGITS]
        with seeded(seed, "ofa"):
            for name in self.exits:
                layers = (
                    nn.Linear(student[name], 2 * classes),
                    nn.ReLU(),
                    nn.Linear(2 * classes, classes),
                )
                self.projectors.append(nn.Sequential(*layers))

    @classmethod
    def batched(cls, members: Sequence[OFA]) -> OFA:
        """Return members as one, with layers of :class:`StackedLinear`."""
        one = with_numbers(members, "eps", "temperature")
        exits = zip(*(member.projectors for member in members), strict=True)
        one.projectors = nn.ModuleList([_stacked(projectors) for projectors in exits])
        return one

    def distill(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the weighted loss of a batch: see :meth:`Distiller.distill`."""
        features = [student[name] for name in self.exits]
        loss = self.forward(student[LOGITS], teacher[LOGITS], target, features)
        return beside(self.weight, loss) * loss

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor,
        features: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return the unweighted loss in nats.

        Args:
            student_logits: ``(N, C)``; of a stack with K before, as all that follow.
            teacher_logits: the same shape.
            target: int64 ``(N,)``.
            features: of each exit, ``(N, D, *spatial)``.
        """
        loss = ofa(student_logits, teacher_logits, target, self.eps, self.temperature)
        for projector, x in zip(self.projectors, features, strict=True):
            dimensions = 2 + self.stacked
            pooled = x.flatten(dimensions).mean(dim=-1) if x.dim() > dimensions else x
            logits = projector(pooled.to(next(projector.parameters()).dtype))
            loss = loss + ofa(logits, teacher_logits, target, self.eps, self.temperature)
        return loss


def _stacked(projectors: Sequence[nn.Module]) -> nn.Sequential:
    """Return perceptrons of members as one."""
    layers = zip(*(list(projector.children()) for projector in projectors), strict=True)
    return nn.Sequential(
        *(
            StackedLinear.of([x for x in of_members if isinstance(x, nn.Linear)])
            if isinstance(of_members[0], nn.Linear)
            else of_members[0]
            for of_members in layers
        )
    )
