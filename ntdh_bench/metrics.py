"""What validation and test measure: accuracy or mean IoU, and the divergences of a pair."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ntdh_bench.batch import PairedBatch, PairedData
from ntdh_bench.completion import Completion, CompletionScore
from ntdh_bench.dependence import LinearCKA, MutualInformation
from ntdh_bench.divergence import Comparison, flatten_dense
from ntdh_bench.segmentation import MeanIoU

#: what is measured between teacher and student, from row to row
DIVERGENCES: dict[str, Callable[[Comparison], Tensor]] = {
    "tcjsd": Comparison.tcjsd,
    "tcjsd_binary": partial(Comparison.tcjsd, binary=True),
    "ncjsd": Comparison.ncjsd,
    "kl": Comparison.kl,
    "tckl": Comparison.tckl,
    "tckl_size": lambda pair: pair.tckl().abs(),
    "tckl_binary": partial(Comparison.tckl, binary=True),
    "nckl": Comparison.nckl,
}

#: From logits of teacher and student ``(N, C)`` and targets ``(N,)`` to some of the rows, int64.
RowChoice: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]

MI_PAIR, MI_STUDENT, MI_TEACHER = "mi_teacher_student", "mi_student_label", "mi_teacher_label"
CKA, CKA_LOGITS = "cka", "cka_logits"
#: what is measured of networks that are trained, and not after every epoch of their training
DEPENDENCE = (MI_PAIR, MI_STUDENT, MI_TEACHER, CKA_LOGITS, CKA)

POINTS = "point_miou"
_SCORES = get_args(CompletionScore)
COMPLETION = tuple(f"completion_{score}" for score in _SCORES)


class Accuracy(Metric):
    """Share of samples (pixels, voxels) whose true class has the largest logit.

    What ``torchmetrics.classification.MulticlassAccuracy`` gives as ``micro``, to the last bit;
    importing that takes longer than importing torch.

    Args:
        ignore_index: target value that is left out.
        kwargs: options of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    correct: Tensor
    count: Tensor

    def __init__(self, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index
        for name in ("correct", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            logits: ``(N, C, *spatial)``.
            target: int64 ``(N, *spatial)``.
        """
        counted = target != self.ignore_index
        self.correct += ((logits.argmax(dim=1) == target) & counted).sum()
        self.count += counted.sum()

    def compute(self) -> Tensor:
        """Return the share, float32; 0 if nothing was added."""
        return self.correct.float() / self.count.clamp(min=1).float()


class _Mean(Metric):
    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Return the mean, float64; NaN if nothing was added."""
        return self.total / self.count

    def _add(self, values: Tensor) -> None:
        self.total += values.sum(dtype=torch.float64)
        self.count += len(values)


class RowMean(_Mean):
    """Mean of values of rows, summed in float64 over batches and processes."""

    def update(self, values: Tensor) -> None:
        """Add a batch, ``(N,)``."""
        self._add(values)


class _MeanDivergence(_Mean):
    """Mean of a per-sample divergence over the samples (pixels, voxels) that are not ignored."""

    def __init__(self, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index

    def update(self, logits_teacher: Tensor, logits_student: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            logits_teacher: ``(N, C, *spatial)``.
            logits_student: the same shape.
            target: int64 ``(N, *spatial)``.

        Raises:
            ValueError: shapes do not fit, or a target is neither in ``[0, C)`` nor ignored.
        """
        with torch.no_grad():
            teacher, labels = flatten_dense(logits_teacher, target, self.ignore_index)
            student, _ = flatten_dense(logits_student, target, self.ignore_index)
            self._add(self._divergence(Comparison(teacher, student, labels)))

    @abstractmethod
    def _divergence(self, pair: Comparison) -> Tensor:
        """Return the divergence of each sample in nats, ``(N,)``."""


class TargetJSD(_MeanDivergence):
    """Mean TCJSD between teacher and student (NTDH paper, Eq. 5).

    Args:
        ignore_index: target value that is left out.
        binary: whether to add the term of "any other class" (see ``divergence.tcjsd``).
        kwargs: options of ``torchmetrics.Metric``.
    """

    def __init__(self, ignore_index: int = 255, binary: bool = False, **kwargs: Any) -> None:
        super().__init__(ignore_index, **kwargs)
        self.binary = binary

    def _divergence(self, pair: Comparison) -> Tensor:
        return pair.tcjsd(self.binary)


class NonTargetJSD(_MeanDivergence):
    """Mean NCJSD between teacher and student (NTDH paper, Eq. 6).

    Args:
        ignore_index: target value that is left out.
        kwargs: options of ``torchmetrics.Metric``.
    """

    def _divergence(self, pair: Comparison) -> Tensor:
        return pair.ncjsd()


def single_metric(data: PairedData) -> Metric:
    """Return an empty metric of one network: the measure that the data are judged by.

    Args:
        data: names the measure (``metric``) and the classes that are not evaluated.
    """
    if data.metric == "miou":
        return MeanIoU(data.num_classes, data.ignore_index, excluded=data.excluded_classes)
    return Accuracy(data.ignore_index)


def pair_metrics(
    data: PairedData,
    points: bool = False,
    completion: bool = False,
    widths: Sequence[int] = (),
) -> nn.ModuleDict:
    """Return empty metrics of a teacher and a student, by name.

    ``accuracy`` or ``miou`` of the student, the same of the teacher (``teacher_...``), the
    divergences from teacher to student, and how much one tells of the other: the mutual information
    of the classes that teacher and student choose (``mi_teacher_student``) and of each one's and
    the label (``mi_student_label``, ``mi_teacher_label``), and the linear CKA of their logits
    (``cka_logits``) and of the features before their last layers (``cka``). Rows are samples,
    pixels or voxels. To be made in a LightningModule's ``setup``, one set for validation and one
    for test, and updated by :func:`update_pair`.

    Args:
        data: names the measure (``metric``), the classes that are not evaluated, and how completion
            is scored (``protocol``).
        points: whether batches have ``points``. Each in view, also those behind others, then counts
            with the class of its pixel (``point_miou``).
        completion: whether batches have ``occluded``. Of these voxels it is then measured whether
            the student finds something there, or leaves them empty (``completion_...``).
        widths: of the teacher's features and of the student's; empty: there is no ``cka``.
    """
    metrics = {data.metric: single_metric(data), f"teacher_{data.metric}": single_metric(data)}
    if points:
        metrics[POINTS] = MeanIoU(
            data.num_classes, data.ignore_index, excluded=data.excluded_classes
        )
    if completion:
        scores = [Completion(score, data.ignore_index, data.protocol) for score in _SCORES]
        metrics |= dict(zip(COMPLETION, scores, strict=True))
    metrics |= {name: RowMean() for name in DIVERGENCES}
    metrics |= {
        name: MutualInformation(data.num_classes) for name in (MI_PAIR, MI_STUDENT, MI_TEACHER)
    }
    metrics[CKA_LOGITS] = LinearCKA((data.num_classes, data.num_classes))
    if widths:
        metrics[CKA] = LinearCKA(widths)
    return nn.ModuleDict(metrics)


@torch.no_grad()
def update_pair(
    metrics: Mapping[str, nn.Module],
    teacher: Tensor,
    student: Tensor,
    target: Tensor,
    batch: PairedBatch,
    ignore_index: int = 255,
    features: Sequence[Tensor] = (),
    keep: RowChoice | None = None,
) -> None:
    """Add a batch to what :func:`pair_metrics` returned.

    Args:
        metrics: of :func:`pair_metrics`, all or some.
        teacher: logits ``(N, C, *spatial)``; ``(N, C)`` for labels per sample or point.
        student: logits of the same shape.
        target: int64 ``(N, *spatial)``.
        batch: whose points, or occluded voxels, are measured where :func:`pair_metrics` says so.
        ignore_index: target value that is left out.
        features: of the teacher, ``(N, D)``, and of the student, ``(N, E)``, where there is a
            ``cka``.
        keep: chooses the rows whose divergences are measured, all if not given.
    """
    teacher_rows, labels = flatten_dense(teacher, target, ignore_index)
    student_rows, _ = flatten_dense(student, target, ignore_index)
    rows = teacher_rows, student_rows, labels
    if keep is None:
        pair = Comparison(*rows)
    else:
        kept = keep(*rows)
        pair = Comparison(*(values[kept] for values in rows))
    classes = student.argmax(dim=1)
    for name, metric in metrics.items():
        update = cast(Metric, metric).update
        if name in DIVERGENCES:
            update(DIVERGENCES[name](pair))
        elif name == CKA:
            update(*(values[target != ignore_index] for values in features))
        elif name in DEPENDENCE:
            update(*_compared(name, *rows))
        elif name == POINTS:
            update(classes.flatten()[batch["points"]["pixel"]], batch["points"]["target"])
        elif name in COMPLETION:
            update(classes, target, batch["occluded"])
        else:
            update(teacher if name.startswith("teacher_") else student, target)


def _compared(name: str, teacher: Tensor, student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return what one of :data:`DEPENDENCE` compares of rows: logits ``(N, C)``, or labels."""
    if name == CKA_LOGITS:
        return teacher, student
    first, second = teacher.argmax(dim=1), student.argmax(dim=1)
    pairs = {MI_PAIR: (first, second), MI_STUDENT: (second, labels), MI_TEACHER: (first, labels)}
    return pairs[name]
