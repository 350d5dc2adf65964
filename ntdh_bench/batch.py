"""The interface between data modules and LightningModules: the batch format and its provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias, TypedDict

from torch import Tensor

from ntdh_bench.errors import UserError

Inputs: TypeAlias = Tensor | dict[str, Tensor]
Split: TypeAlias = Literal["train", "val", "test"]
Modality: TypeAlias = Literal["teacher", "student"]
#: What a batch holds for the teacher: inputs of its own modality, or of both modalities.
TeacherInputs: TypeAlias = Literal["own", "both"]
Measure: TypeAlias = Literal["accuracy", "miou"]
ScoringProtocol: TypeAlias = Literal["pooled", "sscnet"]


class BatchExtras(TypedDict, total=False):
    """What only some data have beside inputs and targets; networks of one modality take neither.

    ``points`` are all P points of the batch in its image plane: ``points``, float32 ``(P, 4)``, x,
    y, z and remission, and, int64 ``(P,)``, ``scan``, the sample of each, ``pixel``, its flat
    position in the ``(B, H, W)`` grid, and ``target``.

    ``occluded``, bool ``(B, D, H, W)``, says which voxels of a scene are to be completed.
    """

    points: dict[str, Tensor]
    occluded: Tensor


class PairedBatch(BatchExtras):
    """A batch of paired samples of the teacher's (a) and the student's (b) modality.

    ``teacher`` and ``student`` are what the networks take, a tensor ``(B, ...)`` or a dict of such
    tensors, ``target`` is int64 ``(B,)``, ``(B, H, W)`` or ``(B, D, H, W)``, and ``index`` (int64,
    ``(B,)``) is the position in the split. A teacher that sees both modalities is given what
    :func:`both_inputs` returns. Keys of :class:`BatchExtras` may be left out.
    """

    teacher: Inputs
    student: Inputs
    target: Tensor
    index: Tensor


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """Return the tensors that inputs are made of."""
    return list(inputs.values()) if isinstance(inputs, dict) else [inputs]


def both_inputs(teacher: Inputs, student: Inputs) -> dict[str, Tensor]:
    """Return the inputs of both modalities as those of one network: ``teacher`` and ``student``.

    Of a modality with several inputs each is one of its own, as ``teacher.image``.
    """
    return {
        f"{modality}.{name}" if name else modality: value
        for modality, inputs in (("teacher", teacher), ("student", student))
        for name, value in (inputs if isinstance(inputs, dict) else {"": inputs}).items()
    }


def inputs_of(modality: Modality, inputs: Inputs) -> Inputs:
    """Return what :func:`both_inputs` took of a modality.

    Raises:
        UserError: ``inputs`` are those of one modality alone.
    """
    if has_both(inputs):
        assert isinstance(inputs, dict)
        if modality in inputs:
            return inputs[modality]
        start = f"{modality}."
        return {n.removeprefix(start): v for n, v in inputs.items() if n.startswith(start)}
    found = "one tensor" if isinstance(inputs, Tensor) else ", ".join(map(repr, inputs)) or "none"
    raise UserError(
        f"a network of both modalities takes inputs of the teacher's and the student's, not {found}"
        ": set model.teacher_inputs to both (of a TeacherModule: model.modality)"
    )


def has_both(inputs: Inputs) -> bool:
    """Return whether inputs are those of both modalities."""
    of_one = isinstance(inputs, Tensor)
    return not of_one and {n.partition(".")[0] for n in inputs} == {"teacher", "student"}


class PairedData(Protocol):
    """What training, caching and Algorithm 1 need of a data module beside its loaders.

    What has a value here is optional for data modules that inherit from it.
    """

    #: of the data set, in records
    name: str
    num_classes: int
    #: names of the classes, in records; empty: their numbers
    class_names: Sequence[str] = ()
    ignore_index: int
    #: samples per step (and process), or None for the whole training split
    batch_size: int | None = None
    #: what networks are judged by: the share of right answers, or the mean IoU of the classes
    metric: Measure = "accuracy"
    #: classes that the mean IoU leaves out; predicting one is still a miss of the true class
    excluded_classes: tuple[int, ...] = ()
    #: whether a place in an input of one modality (or its time) is the same place in the other;
    #: where each position has a label of its own it is in any case
    aligned: bool = False
    #: how scene completion is scored, see :class:`ntdh_bench.completion.Completion`
    protocol: ScoringProtocol = "pooled"
    #: the only modality that a network sees, None for both: set before :meth:`setup`
    modality: Modality | None = None
    #: what batches hold for the teacher: set before :meth:`setup`
    teacher_inputs: TeacherInputs = "own"
    #: how inputs are scaled, for people who feed an exported network: one sentence a modality
    normalisation: str = ""
    #: published weights of the classes in a loss, float32 ``(C,)``, by the method's name
    class_weights: Mapping[str, Tensor] = MappingProxyType({})

    @property
    def source(self) -> str:
        """``"real"`` or ``"simulated"``."""

    @property
    def num_train(self) -> int:
        """Number of training samples."""

    def split_size(self, split: Split) -> int:
        """Return the number of samples of ``split``."""

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split."""

    @property
    def fingerprint(self) -> str:
        """Digest of the input files and of every parameter that changes the data."""

    def prepare_data(self) -> None:
        """Check the files, and build what is derived from them, once a machine."""

    def setup(self, stage: str) -> None:
        """Load the splits."""

    def cacheable(self, split: Split) -> bool:
        """Whether a sample of ``split`` gives the teacher the same at every look."""

    def both_cacheable(self, split: Split) -> bool:
        """Whether a sample of ``split`` gives both networks the same at every look."""
        return False

    def batches(
        self, split: Split, batch_size: int | None = None, epoch: int = 0
    ) -> Iterator[PairedBatch]:
        """Yield all samples of ``split`` in the order of their index."""
