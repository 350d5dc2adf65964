"""SimKD: the student predicts by the teacher's head."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ntdh_bench.distillers.base import with_numbers
from ntdh_bench.distillers.functional import simkd
from ntdh_bench.distillers.taps import TapDistiller
from ntdh_bench.errors import UserError
from ntdh_bench.layers import find_layer, input_of
from ntdh_bench.seeding import seeded

_LAYERS: dict[int, tuple[Any, Any]] = {
    1: (nn.Conv1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.BatchNorm3d),
}
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class SimKD(TapDistiller):
    """Distillation with the reused teacher classifier (Chen et al., CVPR 2022).

    The student's head is replaced by a projector to what the teacher's head takes, and by that
    head, frozen: so it is trained, measured and used. The loss is the mean squared error of the
    projected features; published with no cross entropy (``model.task_weight: 0``).

    The projector has three layers with ReLU after each, half as wide as the teacher's features in
    between: of maps a 1x1, a 3x3 and a 1x1 convolution with batch normalisation, as published, of
    vectors linear ones, normalised likewise. (Without that, students of vectors learn far less.)
    Since they keep statistics of batches, such runs are trained alone, not in a stack.

    Args:
        weight: factor of the term; 1 in the paper.
        signed: whether the teacher's features may be below 0: no ReLU ends the projector.
        head: last layer with weights, in both networks; what it takes is compared.
        student_head: the student's where it differs from ``head``.
        teacher_head: the teacher's where it differs from ``head``.
    """

    def __init__(
        self,
        weight: float = 1.0,
        signed: bool = False,
        head: str = "head",
        student_head: str | None = None,
        teacher_head: str | None = None,
    ) -> None:
        self.signed = signed
        self.student_head, self.teacher_head = student_head or head, teacher_head or head
        super().__init__(
            weight,
            student_layer=f"{self.student_head}.projector",
            teacher_layer=input_of(self.teacher_head),
        )

    def adapt(self, student: nn.Module, teacher: nn.Module, seed: int) -> None:
        """Give the student the teacher's head, behind a projector with weights from ``seed``.

        Raises:
            UserError: a network has no such layer, or the two heads take features of other kinds.
        """
        theirs = find_layer(teacher, self.teacher_head)
        ours = find_layer(student, self.student_head)
        if isinstance(ours, ReusedHead):
            ours.take(theirs)
            return
        with seeded(seed, "simkd"):
            reused = ReusedHead(_projector(ours, theirs, self.signed), theirs)
        parent, _, name = self.student_head.rpartition(".")
        setattr(student.get_submodule(parent), name, reused)

    @classmethod
    def batched(cls, members: Sequence[SimKD]) -> SimKD:
        """Return members as one."""
        return with_numbers(members)

    def forward(
        self, student: Tensor, teacher: Tensor, share: Tensor | None = None, tap: int = 0
    ) -> Tensor:
        """Return the unweighted loss of projected features: see ``functional.simkd``."""
        return simkd(student, teacher, share, stacked=self.stacked)


class ReusedHead(nn.Sequential):
    """A trained projector and a copy of a teacher's head, which stays as it is.

    Args:
        projector: from the student's features to those that the head takes.
        head: of the teacher; copied.
    """

    def __init__(self, projector: nn.Module, head: nn.Module) -> None:
        # In eval mode from the start: a Trainer leaves the modes of modules as they are.
        frozen = copy.deepcopy(head).requires_grad_(False).eval()
        super().__init__(OrderedDict(projector=projector, head=frozen))

    def take(self, head: nn.Module) -> None:
        """Take over the weights of a teacher's head."""
        self.get_submodule("head").load_state_dict(head.state_dict())

    def train(self, mode: bool = True) -> ReusedHead:
        """Train the projector; what the head keeps of batches stays."""
        super().train(mode)
        self.get_submodule("head").eval()
        return self


class _BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of vectors; a batch of one is normalised as in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        if len(input) > 1 or not self.training:
            return super().forward(input)
        scale = self.weight, self.bias
        return F.batch_norm(input, self.running_mean, self.running_var, *scale, eps=self.eps)


def _projector(student: nn.Module, teacher: nn.Module, signed: bool) -> nn.Sequential:
    """Return the projector between what two heads take."""
    (width, axes), (wanted, others) = _features(student), _features(teacher)
    if axes != others:
        raise UserError(
            f"SimKD: the student's head takes features of {axes} axes and the teacher's of "
            f"{others}: name other layers by distiller.student_head and distiller.teacher_head"
        )
    narrow = max(wanted // 2, 1)
    layers: list[nn.Module] = []
    for before, after, kernel in ((width, narrow, 1), (narrow, narrow, 3), (narrow, wanted, 1)):
        if axes:
            convolution, norm = _LAYERS[axes]
            padded = convolution(before, after, kernel, padding=kernel // 2, bias=False)
            layers += [padded, norm(after), nn.ReLU()]
        else:
            layers += [nn.Linear(before, after, bias=False), _BatchNorm(after), nn.ReLU()]
    return nn.Sequential(*layers[: -1 if signed else None])


def _features(head: nn.Module) -> tuple[int, int]:
    """Return the width of what a head takes, and its number of axes.

    A head that is no chain, where the first layer takes all, says it by ``in_features``.
    """
    first = next((part for part in head.modules() if isinstance(part, _WEIGHTED)), None)
    if first is None:
        raise UserError(
            f"SimKD: {type(head).__name__} has no linear layer and no convolution: name the last "
            "layer with weights by distiller.student_head and distiller.teacher_head"
        )
    if isinstance(first, nn.Linear):
        return getattr(head, "in_features", first.in_features), 0
    return getattr(head, "in_features", first.in_channels), len(first.kernel_size)
