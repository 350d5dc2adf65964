"""RKD, PKT, SP and CC: relations between the rows of a batch; the student alone is trained."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from ntdh_bench.distillers.base import Distiller, with_numbers
from ntdh_bench.distillers.functional import cc, pkt, rkd, sp
from ntdh_bench.ranges import check_above, check_at_least


class RKD(Distiller):
    """Pairwise distances and triplet angles of features (Park et al., CVPR 2019).

    Args:
        distance_weight: weight of the distances; 25 in the paper.
        angle_weight: weight of the angles; 50 in the paper.
        weight: factor of the term; 1 in the paper.
        gather: whether the samples of all processes are related, not only each process's own.
        layers: ``layer``, ``student_layer`` and ``teacher_layer`` of a :class:`Distiller`; the
            paper takes the embedding before the head.
    """

    least_rows = 3

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        weight: float = 1.0,
        gather: bool = False,
        **layers: str | None,
    ) -> None:
        super().__init__(weight, **layers)
        self.gather = gather
        check_at_least("distiller.distance_weight", distance_weight, 0)
        check_at_least("distiller.angle_weight", angle_weight, 0)
        self.distance_weight: float | Tensor = distance_weight
        self.angle_weight: float | Tensor = angle_weight

    @classmethod
    def batched(cls, members: Sequence[RKD]) -> RKD:
        """Return members as one."""
        return with_numbers(members, "distance_weight", "angle_weight")

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the unweighted loss of features: see ``functional.rkd``."""
        weights = self.distance_weight, self.angle_weight
        return rkd(student, teacher, *weights, stacked=self.stacked)


class PKT(Distiller):
    """Cosine affinities as probabilities (Passalis and Tefas, ECCV 2018).

    Args:
        weight: factor of the term; 30,000 in the comparison of Tian et al., ICLR 2020.
        gather: whether the samples of all processes are related, not only each process's own.
        layers: ``layer``, ``student_layer`` and ``teacher_layer`` of a :class:`Distiller`; the
            paper takes the features before the head.
    """

    least_rows = 2

    def __init__(self, weight: float = 30000.0, gather: bool = False, **layers: str | None) -> None:
        super().__init__(weight, **layers)
        self.gather = gather

    @classmethod
    def batched(cls, members: Sequence[PKT]) -> PKT:
        """Return members as one."""
        return with_numbers(members)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the unweighted loss of features: see ``functional.pkt``."""
        return pkt(student, teacher, stacked=self.stacked)


class SP(Distiller):
    """Similarity-preserving distillation of features (Tung and Mori, ICCV 2019).

    Args:
        weight: factor of the term; 3,000 in the paper.
        gather: whether the samples of all processes are related, not only each process's own.
        layers: ``layer``, ``student_layer`` and ``teacher_layer`` of a :class:`Distiller`; the
            paper takes the last convolutional block.
    """

    least_rows = 2

    def __init__(self, weight: float = 3000.0, gather: bool = False, **layers: str | None) -> None:
        super().__init__(weight, **layers)
        self.gather = gather

    @classmethod
    def batched(cls, members: Sequence[SP]) -> SP:
        """Return members as one."""
        return with_numbers(members)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the unweighted loss of features: see ``functional.sp``."""
        return sp(student, teacher, stacked=self.stacked)


class CC(Distiller):
    """Correlation congruence: Gaussian kernels of features (Peng et al., ICCV 2019).

    Kernels of features of different widths are of one size, so that there are no embeddings: two
    that are trained agree best where each maps all rows to one direction.

    Args:
        gamma: of the kernel, > 0; 0.4 in the paper.
        order: the last power of its series, >= 1; 2 in the paper.
        weight: factor of the term; 100 in Knowledge-Distillation-Zoo, which has this formula.
        gather: whether the samples of all processes are related, not only each process's own.
        layers: ``layer``, ``student_layer`` and ``teacher_layer`` of a :class:`Distiller`; the
            paper takes the features before the head.
    """

    least_rows = 2

    def __init__(
        self,
        gamma: float = 0.4,
        order: int = 2,
        weight: float = 100.0,
        gather: bool = False,
        **layers: str | None,
    ) -> None:
        super().__init__(weight, **layers)
        self.gather = gather
        check_above("distiller.gamma", gamma, 0)
        check_at_least("distiller.order", order, 1)
        self.gamma: float | Tensor = gamma
        self.order = order

    @property
    def stack_key(self) -> Hashable:
        """As of every distiller, and the last power."""
        return super().stack_key, self.order

    @classmethod
    def batched(cls, members: Sequence[CC]) -> CC:
        """Return members as one."""
        return with_numbers(members, "gamma")

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the unweighted loss of features: see ``functional.cc``."""
        return cc(student, teacher, self.gamma, self.order, stacked=self.stacked)
