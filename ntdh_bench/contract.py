"""The interface between the suite and its LightningModules; that of data is in ``batch``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict, cast, runtime_checkable

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ntdh_bench.batch import Inputs, Modality, PairedBatch, Split, TeacherInputs
from ntdh_bench.errors import NotStackable
from ntdh_bench.frozen_teacher import FrozenTeacher, TeacherKind
from ntdh_bench.layers import LayerMask


class Evaluated(TypedDict, total=False):
    """What a test step measured, which callbacks see as its outputs.

    Logits ``(N, C, *spatial)`` of the ``student``, or of the only network, and of its ``teacher``,
    and their ``target``, int64 ``(N, *spatial)``.
    """

    teacher: Tensor
    student: Tensor
    target: Tensor


class StackMember(NamedTuple):
    """A run's module as a member of a stack.

    Attributes:
        module: of the run, untrained; its frozen teacher and its sample mask are in place.
        stream: which of the stack's data modules gives its batches.
        layer: of the frozen teacher, where a feature mask is; ``None``: it has none.
        mask: what that makes of the layer's features.
    """

    module: Any
    stream: int
    layer: str | None = None
    mask: LayerMask | None = None


class Trained(NamedTuple):
    """A network that training gives, to be kept without its module.

    Attributes:
        network: as it is trained so far.
        build: gives an untrained one.
        inputs: what it takes of a batch.
    """

    network: nn.Module
    build: Callable[[], nn.Module]
    inputs: Callable[[PairedBatch], Inputs]


class BenchModule(LightningModule):
    """What runs, masks and records ask of a LightningModule, with the answers of a plain one.

    A module that is no BenchModule may define any of it: see :func:`described`.
    """

    #: arm in the record; ``None``: what the settings say
    arm: str | None = None
    #: name of the method in records; ``None``: its distiller's
    method: str | None = None
    #: the only modality that the network sees; ``None``: both
    modality: Modality | None = None
    #: what batches hold for the teacher
    teacher_inputs: TeacherInputs = "own"
    #: IoU of each class in the last test, NaN for those not evaluated; empty if not measured
    test_per_class: Sequence[float] = ()
    #: what the student is taught by; ``None``: the module has no frozen teacher
    frozen_teacher: FrozenTeacher | None = None
    #: whether the frozen teacher is but where one starts that trains beside the student
    trains_teacher: bool = False
    #: a checkpoint of the frozen teacher to use instead of training it
    teacher_checkpoint: str | None = None
    #: epochs of the frozen teacher's training; ``None``: as many as the student's
    teacher_epochs: int | None = None

    def parameter_counts(self) -> dict[str, int]:
        """Return how many parameters each network has (the capacity of Table I), by its part."""
        return {}

    def trained(self) -> Mapping[Modality, Trained]:
        """Return the networks that training gives, the student's last, for `ntdh-bench export`."""
        return {}

    def estimates(self) -> dict[str, list[float]]:
        """Return what the method learned of the teacher's features, by name: kept in records."""
        return {}

    def teacher_module(self, kind: TeacherKind) -> LightningModule:
        """Return the untrained module whose training gives a frozen teacher of this kind."""
        raise NotImplementedError(f"{type(self).__name__} has no frozen teacher to train")

    def stack(self, members: Sequence[StackMember], streams: Sequence[Any]) -> LightningModule:
        """Return members of this class as one module, see :mod:`ntdh_bench.stacks`.

        Args:
            members: runs of one network pair; their modules are used up.
            streams: the data modules that give their batches, set up.

        Raises:
            NotStackable: they cannot be trained as one.
        """
        raise NotStackable(f"{type(self).__name__} has no stacked form")


class RowMask(Protocol):
    """What chooses the rows of a batch that are distilled, see :class:`masks.SampleMask`."""

    def keep_rows(
        self,
        logits_teacher: Tensor,
        logits_student: Tensor,
        target: Tensor,
        epoch: int,
        batch_idx: int,
    ) -> Tensor:
        """Return the positions of the rows that stay."""

    def keep_measured(
        self,
        logits_teacher: Tensor,
        logits_student: Tensor,
        target: Tensor,
        split: Split,
        first: int,
    ) -> Tensor:
        """Return the positions of the rows that would stay of a batch that is measured."""


@runtime_checkable
class Distilling(Protocol):
    """A module with a distillation term, from which it drops what the mask does not keep."""

    sample_mask: RowMask | None


def described(module: LightningModule) -> BenchModule:
    """Return ``module``, with a plain BenchModule's answers to what it does not define."""
    return module if isinstance(module, BenchModule) else cast(BenchModule, _Described(module))


class _Described:
    def __init__(self, module: LightningModule) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module if hasattr(self._module, name) else BenchModule(), name)
