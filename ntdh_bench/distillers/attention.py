"""AT: where the network looks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ntdh_bench.distillers.base import with_numbers
from ntdh_bench.distillers.functional import at
from ntdh_bench.distillers.taps import TapDistiller


class AT(TapDistiller):
    """Attention transfer of feature maps (Zagoruyko and Komodakis, ICLR 2017).

    Args:
        weight: factor of the term; 1,000 in the code of the paper and in the comparison of Tian et
            al., ICLR 2020.
        layers: ``layer``, ``student_layer`` and ``teacher_layer`` of a :class:`TapDistiller`; the
            paper takes the last map of each stage.
    """

    takes_vectors = False

    def __init__(self, weight: float = 1000.0, **layers: str | list[str] | None) -> None:
        super().__init__(weight, **layers)

    @classmethod
    def batched(cls, members: Sequence[AT]) -> AT:
        """Return members as one."""
        return with_numbers(members)

    def forward(
        self, student: Tensor, teacher: Tensor, share: Tensor | None = None, tap: int = 0
    ) -> Tensor:
        """Return the unweighted loss of maps: see ``functional.at``."""
        return at(student, teacher, share, stacked=self.stacked)
