"""What a distillation objective is to the training module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ntdh_bench.errors import UserError
from ntdh_bench.layers import AVERAGED_LOGITS, LOGITS
from ntdh_bench.notices import notice
from ntdh_bench.ranges import check_at_least


class Distiller(nn.Module, ABC):
    """One distillation term: a loss, its published weight, and the layers it compares.

    ``forward`` is the loss of the paper with its natural arguments; ``distill`` picks the layers
    out of the tapped ones and applies the weight. Trainable parts are parameters of the module and
    are optimised with the student.

    Args:
        weight: factor of the term, >= 0.
        layer: layer compared in both networks.
        student_layer: the student's layer where it differs from ``layer``.
        teacher_layer: the teacher's layer where it differs from ``layer``.

    Raises:
        UserError: a negative or infinite weight.
    """

    #: Whether rows are compared one by one, so that in dense tasks each pixel may be a row. Others
    #: get features averaged to one row a sample.
    by_row = False
    #: Rows that a batch must have for the loss not to be 0 whatever they are.
    least_rows = 1

    def __init__(
        self,
        weight: float = 1.0,
        layer: str | None = None,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least("distiller.weight", weight, 0)
        self.weight = weight
        self._student_layer = student_layer or layer
        self._teacher_layer = teacher_layer or layer
        self._said = False

    @property
    def student_layers(self) -> list[str]:
        """Layers of the student that are compared: names, or ``"logits"``."""
        return [self._named(self._student_layer, "student_layer")]

    @property
    def teacher_layers(self) -> list[str]:
        """Layers of the teacher that are compared."""
        return [self._named(self._teacher_layer, "teacher_layer")]

    def build(
        self, student: Mapping[str, int], teacher: Mapping[str, int], n_data: int, seed: int
    ) -> None:
        """Create the trainable parts that the constructor was not given the sizes of.

        Args:
            student: size of dimension 1 (features or channels) by layer name.
            teacher: the same of the teacher.
            n_data: number of training samples.
            seed: seed of the run.
        """

    def distill(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the weighted loss of a batch.

        Args:
            student: outputs by layer name, each ``(N, ...)``, with ``"logits"`` ``(N, C)``. In
                dense tasks ``(B, D)``, averaged over positions, the logits both so (under
                ``AVERAGED_LOGITS``) and ``(M, C)``, a row for each position.
            teacher: the same of the teacher.
            target: int64 ``(N,)``; dense: ``(M,)``.
            index: int64 ``(N,)``, positions in the training split; dense: ``(B,)``.

        Returns:
            Scalar; 0 for an empty batch.
        """
        features = (
            self._features(student, *self.student_layers),
            self._features(teacher, *self.teacher_layers),
        )
        if 0 < len(features[0]) < self.least_rows and not self._said:
            self._said = True
            notice(
                f"{type(self).__name__} compares the samples of a batch: its loss is 0 in one of "
                f"{len(features[0])}; choose data.batch_size so that every batch, the last one "
                f"too, has {self.least_rows} or more"
            )
        loss: Tensor = self(*features, *self.extra_arguments(target, index))
        return self.weight * loss

    def extra_arguments(self, target: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """Return what ``forward`` takes after the features of student and teacher."""
        return ()

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the unweighted loss, a scalar."""

    def _features(self, outputs: Mapping[str, Tensor], layer: str) -> Tensor:
        if layer == LOGITS and not self.by_row:
            return outputs.get(AVERAGED_LOGITS, outputs[LOGITS])
        return outputs[layer]

    def _named(self, layer: str | None, argument: str) -> str:
        if layer is None:
            raise UserError(
                f"{type(self).__name__} compares features: name their layer, for example "
                f"distiller.layer: hidden2 (or {argument}, or logits)"
            )
        return layer


class LogitDistiller(Distiller):
    """A distiller that compares the logits, row by row."""

    by_row = True

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight, LOGITS)
