"""The interface between data modules and LightningModules: the batch format and its provider."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, TypeAlias, TypedDict, TypeGuard

from torch import Tensor

Inputs: TypeAlias = Tensor | dict[str, Tensor]
Split: TypeAlias = Literal["train", "val", "test"]
Modality: TypeAlias = Literal["teacher", "student"]
Measure: TypeAlias = Literal["accuracy", "miou"]
ScoringProtocol: TypeAlias = Literal["pooled", "sscnet"]


class PairedBatch(TypedDict):
    """A batch of paired samples of the teacher's (a) and the student's (b) modality.

    ``teacher`` and ``student`` are a tensor ``(B, ...)`` or a dict of such tensors, ``target`` is
    int64 ``(B,)``, ``(B, H, W)`` or ``(B, D, H, W)``, and ``index`` (int64, ``(B,)``) is the
    position in the split.

    A student's dict with ``point_target``, int64 ``(P,)``, holds points in an image plane: networks
    that label pixels take its ``image``, ``(B, channels, H, W)``, and ``pixel``, int64 ``(P,)``, is
    where each point lies in the ``(B, H, W)`` grid.

    A student's dict with ``occluded``, bool ``(B, D, H, W)``, belongs to a scene that is to be
    completed: it says of which voxels.
    """

    teacher: Inputs
    student: Inputs
    target: Tensor
    index: Tensor


def in_plane(inputs: Inputs) -> Inputs:
    """Return what a network that labels pixels takes: of an image and its points the image."""
    return inputs["image"] if has_points(inputs) else inputs


def has_points(inputs: Inputs) -> TypeGuard[dict[str, Tensor]]:
    """Return whether inputs hold labelled points in an image plane."""
    return isinstance(inputs, dict) and "point_target" in inputs


def has_occlusion(inputs: Inputs) -> TypeGuard[dict[str, Tensor]]:
    """Return whether inputs say which voxels are hidden, so that completion can be measured."""
    return isinstance(inputs, dict) and "occluded" in inputs


class PairedData(Protocol):
    """What training, caching and Algorithm 1 need of a data module beside its loaders.

    What has a value here is optional for data modules that inherit from it.
    """

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
    #: how scene completion is scored, see :class:`ntdh_bench.completion.Completion`
    protocol: ScoringProtocol = "pooled"
    #: the only modality that a network sees, None for both: set before :meth:`setup`
    modality: Modality | None = None

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

    def setup(self, stage: str) -> None:
        """Load the splits."""

    def cacheable(self, split: Split) -> bool:
        """Whether a sample of ``split`` gives the teacher the same at every look."""

    def batches(
        self, split: Split, batch_size: int | None = None, epoch: int = 0
    ) -> Iterator[PairedBatch]:
        """Yield all samples of ``split`` in the order of their index."""
