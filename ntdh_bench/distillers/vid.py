"""VID: which of the teacher's features can be predicted from the student's."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntdh_bench.distillers.base import with_numbers
from ntdh_bench.distillers.functional import vid
from ntdh_bench.distillers.maps import on_one_grid
from ntdh_bench.distillers.taps import TapDistiller
from ntdh_bench.errors import UserError
from ntdh_bench.ranges import check_above, check_at_least
from ntdh_bench.seeding import seeded
from ntdh_bench.stacks.layers import StackedLinear

SMALLEST_VARIANCE = 1e-5


class VID(TapDistiller):
    """Variational information distillation (Ahn et al., CVPR 2019).

    The student's features predict the teacher's, position by position, as the means of normal
    distributions, each feature with a variance of its own, which is learned as well. What the
    student cannot tell of the teacher's features stays in :attr:`variances`.

    Args:
        weight: factor of the term; 1 in the comparison of Tian et al., ICLR 2020.
        depth: layers of the regressor, linear in dimension 1 (1x1 convolutions of maps), with ReLU
            between and no biases; 3 for maps in that comparison, 1 in the paper for vectors.
        initial_variance: of every feature; 5 in that comparison.
        layers: ``layer``, ``student_layer`` and ``teacher_layer`` of a :class:`TapDistiller`.

    Raises:
        UserError: a weight below 0, no regressor, or a variance that is not above 0.00001.
    """

    def __init__(
        self,
        weight: float = 1.0,
        depth: int = 3,
        initial_variance: float = 5.0,
        **layers: str | list[str] | None,
    ) -> None:
        super().__init__(weight, **layers)
        check_at_least("distiller.depth", depth, 1)
        check_above("distiller.initial_variance", initial_variance, SMALLEST_VARIANCE)
        self.depth = depth
        self.initial_variance = initial_variance
        self.regressors = nn.ModuleList()
        self.raw_variances = nn.ParameterList()

    def build(
        self, student: Mapping[str, int], teacher: Mapping[str, int], n_data: int, seed: int
    ) -> None:
        """Create a regressor and the variances for each pair of layers, if there are none yet."""
        if len(self.regressors):
            return
        excess = self.initial_variance - SMALLEST_VARIANCE
        raw = excess + math.log(-math.expm1(-excess))  # the inverse of softplus
        with seeded(seed, "vid"):
            for ours, theirs in self.taps:
                self.regressors.append(_regressor(student[ours], teacher[theirs], self.depth))
                self.raw_variances.append(nn.Parameter(torch.full((teacher[theirs],), raw)))

    @property
    def variances(self) -> dict[str, Tensor]:
        """The variance of each feature that the student cannot tell, by the teacher's layer.

        ``(D,)``, above 0, in the squared unit of the feature; of a stack ``(K, D)``. Of a layer
        that is compared twice it is the last one.
        """
        return {theirs: self._variance(tap) for tap, (_, theirs) in enumerate(self.taps)}

    def estimates(self) -> dict[str, Tensor]:
        """Return the variances."""
        return {f"variance of {n}": value.detach() for n, value in self.variances.items()}

    @classmethod
    def batched(cls, members: Sequence[VID]) -> VID:
        """Return members as one, with :class:`StackedLinear` layers in the regressors."""
        one = with_numbers(members)
        taps = range(len(members[0].regressors))
        one.regressors = nn.ModuleList(
            [_stacked([member.regressors[tap] for member in members]) for tap in taps]
        )
        one.raw_variances = nn.ParameterList(
            [torch.stack([member.raw_variances[tap] for member in members]) for tap in taps]
        )
        return one

    def forward(
        self, student: Tensor, teacher: Tensor, share: Tensor | None = None, tap: int = 0
    ) -> Tensor:
        """Return the unweighted loss of a pair of layers in nats: see ``functional.vid``.

        Raises:
            UserError: the regressors were never built.
        """
        if not len(self.regressors):
            raise UserError("VID has no regressor: call build()")
        student, teacher, share = on_one_grid(student, teacher, share, stacked=self.stacked)
        features = 1 + self.stacked
        variance = self._variance(tap)
        rows = student.to(variance.dtype).movedim(features, -1)
        means = self.regressors[tap](rows).movedim(-1, features)
        loss = vid(means, teacher, variance, share, stacked=self.stacked)
        # Other processes may have rows: all parts need a gradient in each, if it is zero.
        return loss if means.numel() else loss + 0 * variance.sum(dim=-1)

    def _variance(self, tap: int) -> Tensor:
        return F.softplus(self.raw_variances[tap]) + SMALLEST_VARIANCE


def _regressor(student: int, teacher: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(student, teacher, bias=False)]
    for _ in range(depth - 1):
        layers += [nn.ReLU(), nn.Linear(teacher, teacher, bias=False)]
    return nn.Sequential(*layers)


def _stacked(members: Sequence[nn.Module]) -> nn.Sequential:
    """Return regressors as one; what has no parameters is the first one's."""
    of_layers = zip(*(member.children() for member in members), strict=True)
    return nn.Sequential(
        *(
            StackedLinear.of(layers) if isinstance(layers[0], nn.Linear) else copy.copy(layers[0])
            for layers in of_layers
        )
    )
