"""What a distillation objective is to the training module."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Size, Tensor, nn

from ntdh_bench.distillers.ranks import gather_sides, share_of
from ntdh_bench.errors import UserError
from ntdh_bench.layers import AVERAGED_LOGITS, LOGITS
from ntdh_bench.notices import notice
from ntdh_bench.ranges import check_at_least
from ntdh_bench.stacks.layers import beside, per_member

D = TypeVar("D", bound="Distiller")


class Distiller(nn.Module, ABC):
    """One distillation term: a loss, its published weight, and the layers it compares.

    ``forward`` is the loss of the paper with its natural arguments; ``distill`` picks the layers
    out of the tapped ones and applies the weight. Trainable parts are parameters of the module and
    are optimised with the student.

    A stack of K members is one distiller whose ``distill`` takes ``(K, N, ...)`` and returns
    ``(K,)``: see ``stack``.

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
    #: Whether features are compared position by position, so that in dense tasks it gets the maps.
    by_position = False
    #: Rows that a batch must have for the loss not to be 0 whatever they are.
    least_rows = 1
    #: Whether this is a stack of members.
    stacked = False
    #: Whether it relates the rows of all processes to one another, as one with all of them would.
    gather = False

    def __init__(
        self,
        weight: float = 1.0,
        layer: str | None = None,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least("distiller.weight", weight, 0)
        self.weight: float | Tensor = weight
        self._student_layer = student_layer or layer
        self._teacher_layer = teacher_layer or layer
        self._said = False
        self._numbers: set[str] = set()

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

    def adapt(self, student: nn.Module, teacher: nn.Module, seed: int) -> None:
        """Change the student's network, where the method trains and uses another one.

        Called when the networks are made, and again when the teacher is trained.

        Args:
            student: with its initial weights, changed in place.
            teacher: left as it is.
            seed: seed of the run.
        """

    def check(
        self, student: Mapping[str, Size], teacher: Mapping[str, Size], aligned: bool
    ) -> None:
        """Refuse layers that cannot be compared, before anything is trained on them.

        Args:
            student: ``(D, *spatial)``, size of a sample's features, by layer name.
            teacher: the same of the teacher.
            aligned: whether positions of the one modality are those of the other.

        Raises:
            UserError: the method is not defined on such features.
        """

    def estimates(self) -> dict[str, Tensor]:
        """Return what was learned of the teacher's features, by name: kept in records.

        Vectors; of a stack with K before.
        """
        return {}

    @property
    def stack_key(self) -> Hashable:
        """What members of a stack have in common: class, layers, and sizes of what is trained.

        Numbers such as the weight are not part of it. A class whose stack needs more to be equal
        adds it.
        """
        sizes = tuple((name, tuple(value.shape)) for name, value in self.state_dict().items())
        return type(self), tuple(self.student_layers), tuple(self.teacher_layers), sizes

    @classmethod
    def stack(cls, members: Sequence[Distiller]) -> Distiller:
        """Return one distiller of built members of this class, which it may take in.

        Its ``distill`` takes ``(K, N, ...)``, of targets and positions ``(K, N)``, and returns the
        weighted losses ``(K,)``. Dense tasks are not stacked.

        Raises:
            ValueError: the ``stack_key`` of members differs, or they are of another class.
        """
        if len({member.stack_key for member in members}) != 1 or type(members[0]) is not cls:
            raise ValueError(f"{cls.__name__}.stack: expected members of one stack_key and class")
        form = cls if "batched" in vars(cls) else Distiller
        return form.batched(members)

    @classmethod
    def batched(cls, members: Sequence[Any]) -> Distiller:
        """Return members, whose ``stack_key`` is one, as one: here run one after the other.

        A class that overrides this has a batched form, which is not inherited: what is derived from
        it may compute something else. One that only sets numbers says so: ``batched = KD.batched``.
        """
        return OneByOne(members)

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
                ``AVERAGED_LOGITS``) and ``(M, C)``, a row for each position; ``by_position`` also
                the maps ``(B, D, *spatial)`` (under ``map_of(layer)``) and, ``(B, *spatial)``, how
                much of each position counts (under ``share_of(layer)``).
            teacher: the same of the teacher.
            target: int64 ``(N,)``; dense: ``(M,)``.
            index: int64 ``(N,)``, positions in the training split; dense: ``(B,)``.

        Returns:
            Scalar; 0 for an empty batch. Of a stack: ``(K,)``.
        """
        features = self._of_all_ranks(
            self._features(student, *self.student_layers),
            self._features(teacher, *self.teacher_layers),
        )
        rows = features[0].shape[int(self.stacked)]
        if 0 < rows < self.least_rows and not self._said:
            self._said = True
            notice(
                f"{type(self).__name__} compares the samples of a batch: its loss is 0 in one of "
                f"{rows}; choose data.batch_size so that every batch, the last one "
                f"too, has {self.least_rows} or more"
            )
        loss: Tensor = self(*features, *self.extra_arguments(target, index))
        return beside(self.weight, loss) * loss

    def extra_arguments(self, target: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """Return what ``forward`` takes after the features of student and teacher."""
        return ()

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the unweighted loss, a scalar; of a stack ``(K,)``."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the numbers of members too, but do not round them: a float is not rounded either."""
        exact = {name: self.get_buffer(name) for name in self._numbers}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in exact.items():
            self._buffers[name] = value.to(self.get_buffer(name).device)
        return self

    def _features(self, outputs: Mapping[str, Tensor], layer: str) -> Tensor:
        if layer == LOGITS and not self.by_row:
            return outputs.get(AVERAGED_LOGITS, outputs[LOGITS])
        return outputs[layer]

    def _of_all_ranks(self, *sides: Tensor) -> tuple[Tensor, ...]:
        """Return tensors ``(N, ...)`` with the rows of all processes, if it relates these."""
        return gather_sides(*sides) if self.gather and not self.stacked else sides

    def _weighed(self, mean: Tensor, rows: Tensor) -> Tensor:
        """Return a mean over ``rows`` ``(N, ...)``, whose mean over processes is that over all."""
        if not self.gather or self.stacked:
            return mean
        return mean * share_of(len(rows), rows.device).weight

    def _named(self, layer: str | None, argument: str) -> str:
        if layer is None:
            raise UserError(
                f"{type(self).__name__} compares features: name their layer, for example "
                f"distiller.layer: hidden2 (or {argument}, or logits)"
            )
        return layer


class OneByOne(Distiller):
    """A stack of any distillers: the members run one after the other.

    Args:
        members: built distillers with the same layers.
    """

    stacked = True

    def __init__(self, members: Sequence[Distiller]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def student_layers(self) -> list[str]:
        """Layers of the student that each member compares."""
        return self._members()[0].student_layers

    @property
    def teacher_layers(self) -> list[str]:
        """Layers of the teacher that each member compares."""
        return self._members()[0].teacher_layers

    def distill(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the weighted losses ``(K,)``, each member's of its own slices."""
        return self.forward(student, teacher, target, index)

    def estimates(self) -> dict[str, Tensor]:
        """Return those of the members."""
        return _joined([member.estimates() for member in self._members()])

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the losses; arguments as in ``distill``."""
        batches = zip(self._members(), _split(student), _split(teacher), target, index, strict=True)
        return torch.stack([member.distill(*batch) for member, *batch in batches])

    def _members(self) -> list[Distiller]:
        return [member for member in self.members if isinstance(member, Distiller)]


def _split(outputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Take ``(K, N, ...)`` by layer apart into a mapping for each member."""
    members = zip(*(value.unbind() for value in outputs.values()), strict=True)
    return [dict(zip(outputs, values, strict=True)) for values in members]


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def with_numbers(members: Sequence[D], *numbers: str) -> D:
    """Return a copy of the first member as their stack, with its weight and ``numbers`` of all.

    A number in which they differ becomes a buffer ``(K,)`` that no checkpoint holds, a list of
    numbers one of ``(K, ...)``.
    """
    one = copy.deepcopy(members[0])
    one.stacked = True
    for name in ("weight", *numbers):
        value = per_member([getattr(member, name) for member in members])
        if isinstance(value, Tensor):
            delattr(one, name)
            one.register_buffer(name, value, persistent=False)
            one._numbers.add(name)
    return one


class LogitDistiller(Distiller):
    """A distiller that compares the logits, row by row."""

    by_row = True

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight, LOGITS)


class LevelledDistiller(LogitDistiller):
    """A distiller of logits row by row that also relates the rows of a batch to one another.

    In dense tasks the rows are positions, and what is related are the samples, whose logits are
    averaged over positions.

    Args:
        weight: factor of the term, >= 0.
        gather: see :attr:`Distiller.gather`.
    """

    def __init__(self, weight: float = 1.0, gather: bool = False) -> None:
        super().__init__(weight)
        self.gather = gather

    def distill(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the weighted loss of a batch: see :meth:`Distiller.distill`."""
        rows = student[LOGITS], teacher[LOGITS]
        samples = (outputs.get(AVERAGED_LOGITS, outputs[LOGITS]) for outputs in (student, teacher))
        loss = self._weighed(self.of_rows(*rows), rows[0])
        loss = loss + self.of_relations(*self._of_all_ranks(*samples))
        return beside(self.weight, loss) * loss

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the unweighted loss of logits ``(..., N, C)``, which are rows and samples."""
        sides = student_logits, teacher_logits
        return self.of_rows(*sides) + self.of_relations(*sides)

    @abstractmethod
    def of_rows(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the part that compares rows one by one."""

    @abstractmethod
    def of_relations(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the part that compares how rows relate."""
