"""What compares several layers of each network, position by position."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping

from torch import Size, Tensor

from ntdh_bench.distillers.base import Distiller
from ntdh_bench.errors import UserError
from ntdh_bench.layers import map_of, share_of
from ntdh_bench.stacks.layers import beside


class TapDistiller(Distiller):
    """Sum of a loss over pairs of layers, each compared position by position.

    In dense tasks positions weigh as much as the share of the targets under them that counts.

    Args:
        weight: factor of the term, >= 0.
        layer: layer compared in both networks, or several.
        student_layer: the student's where they differ from ``layer``.
        teacher_layer: the teacher's where they differ from ``layer``, as many.

    Raises:
        UserError: a negative or infinite weight, or other numbers of layers.
    """

    by_position = True
    #: Whether vectors ``(N, D)``, which have one position, are compared too.
    takes_vectors = True

    def __init__(
        self,
        weight: float = 1.0,
        layer: str | list[str] | None = None,
        student_layer: str | list[str] | None = None,
        teacher_layer: str | list[str] | None = None,
    ) -> None:
        super().__init__(weight)
        self._student_taps = _names(student_layer or layer)
        self._teacher_taps = _names(teacher_layer or layer)
        counts = len(self._student_taps), len(self._teacher_taps)
        if 0 not in counts and counts[0] != counts[1]:
            raise UserError(
                f"{type(self).__name__} compares layers in pairs, but there are {counts[0]} of the "
                f"student and {counts[1]} of the teacher: name as many of both"
            )

    @property
    def student_layers(self) -> list[str]:
        """Layers of the student that are compared, each once."""
        self._named(next(iter(self._student_taps), None), "student_layer")
        return list(dict.fromkeys(self._student_taps))

    @property
    def teacher_layers(self) -> list[str]:
        """Layers of the teacher that are compared, each once."""
        self._named(next(iter(self._teacher_taps), None), "teacher_layer")
        return list(dict.fromkeys(self._teacher_taps))

    @property
    def taps(self) -> list[tuple[str, str]]:
        """The pairs of layers, the student's first."""
        return list(zip(self._student_taps, self._teacher_taps, strict=True))

    @property
    def stack_key(self) -> Hashable:
        """With the pairs: see :attr:`Distiller.stack_key`."""
        return super().stack_key, tuple(self.taps)

    def check(
        self, student: Mapping[str, Size], teacher: Mapping[str, Size], aligned: bool
    ) -> None:
        """Refuse features that have no positions to compare, or not the same ones."""
        name = type(self).__name__
        for ours, theirs in self.taps:
            sizes = student[ours], teacher[theirs]
            axes = len(sizes[0]) - 1
            if len(sizes[1]) - 1 != axes:
                raise UserError(
                    f"{name} compares positions, but the student's layer {ours!r} gives features "
                    f"of {tuple(sizes[0])} and the teacher's {theirs!r} of {tuple(sizes[1])}: name "
                    "layers with as many axes"
                )
            if not axes and not self.takes_vectors:
                raise UserError(
                    f"{name} compares maps, but layer {ours!r} gives vectors, which have no "
                    "positions: name a layer before they are flattened, or choose a method that "
                    "compares vectors, such as VID or FitNet"
                )
            if axes and not aligned:
                raise UserError(
                    f"{name} compares position by position, and those of these two modalities are "
                    f"not the same places: name a layer of vectors instead of {ours!r}, or choose "
                    "a method of vectors or logits (data that are aligned say so: `aligned`)"
                )

    def distill(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the weighted sum over the pairs of layers."""
        losses: list[Tensor] = [
            self(
                student.get(map_of(ours), student[ours]),
                teacher.get(map_of(theirs), teacher[theirs]),
                student.get(share_of(ours)),
                tap,
            )
            for tap, (ours, theirs) in enumerate(self.taps)
        ]
        loss = sum(losses[1:], start=losses[0])
        return beside(self.weight, loss) * loss

    @abstractmethod
    def forward(
        self, student: Tensor, teacher: Tensor, share: Tensor | None = None, tap: int = 0
    ) -> Tensor:
        """Return the unweighted loss of a pair of layers.

        Args:
            student: ``(N, D, *spatial)``; of a stack with K before.
            teacher: likewise.
            share: ``(N, *spatial)`` in [0, 1], how much of each of the student's positions counts;
                ``None``: all of it.
            tap: which pair.
        """


def _names(layers: str | list[str] | None) -> list[str]:
    return [layers] if isinstance(layers, str) else list(layers or [])
