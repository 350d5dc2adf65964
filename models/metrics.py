"""What validation and test measure: accuracy or mean IoU, and the divergences of a pair."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast, get_args

from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from ntdh_bench.batch import Inputs, PairedData, has_occlusion, has_points
from ntdh_bench.completion import Completion, CompletionScore
from ntdh_bench.divergence import flatten_dense
from ntdh_bench.metrics import (
    NonTargetJSD,
    NonTargetKL,
    TargetJSD,
    TargetKL,
    TeacherStudentKL,
)
from ntdh_bench.segmentation import MeanIoU

_DIVERGENCES: dict[str, Callable[..., Metric]] = {
    "tcjsd": TargetJSD,
    "ncjsd": NonTargetJSD,
    "kl": TeacherStudentKL,
    "tckl": TargetKL,
    "tckl_binary": partial(TargetKL, binary=True),
    "nckl": NonTargetKL,
}

POINTS = "point_miou"
_SCORES = get_args(CompletionScore)
COMPLETION = tuple(f"completion_{score}" for score in _SCORES)


def single_metric(data: PairedData) -> Metric:
    """Return an empty metric of one network: the measure that the data are judged by.

    Args:
        data: names the measure (``metric``) and the classes that are not evaluated.
    """
    if data.metric == "miou":
        return MeanIoU(data.num_classes, data.ignore_index, excluded=data.excluded_classes)
    return MulticlassAccuracy(
        data.num_classes, average="micro", ignore_index=data.ignore_index, validate_args=False
    )


def pair_metrics(data: PairedData, points: bool = False, completion: bool = False) -> nn.ModuleDict:
    """Return empty metrics of a teacher and a student, by name.

    ``accuracy`` or ``miou`` of the student, the same of the teacher (``teacher_...``), and the six
    divergences from teacher to student. To be made in a LightningModule's ``setup``, one set for
    validation and one for test, and updated by :func:`update_pair`.

    Args:
        data: names the measure (``metric``), the classes that are not evaluated, and how completion
            is scored (``protocol``).
        points: whether there is a ``point_miou`` of the student as well, see
            :func:`update_points`.
        completion: whether it is measured how the student completes hidden voxels, see
            :func:`update_completion`.
    """
    metrics = {data.metric: single_metric(data), f"teacher_{data.metric}": single_metric(data)}
    divergences = {
        name: make(ignore_index=data.ignore_index) for name, make in _DIVERGENCES.items()
    }
    if points:
        metrics[POINTS] = MeanIoU(
            data.num_classes, data.ignore_index, excluded=data.excluded_classes
        )
    if completion:
        scores = [Completion(score, data.ignore_index, data.protocol) for score in _SCORES]
        metrics |= dict(zip(COMPLETION, scores, strict=True))
    return nn.ModuleDict({**metrics, **divergences})


def update_pair(
    metrics: nn.ModuleDict,
    teacher: Tensor,
    student: Tensor,
    target: Tensor,
    ignore_index: int = 255,
) -> None:
    """Add a batch to what :func:`pair_metrics` returned.

    Args:
        metrics: of :func:`pair_metrics`.
        teacher: logits ``(N, C, *spatial)``; ``(N, C)`` for labels per sample or point.
        student: logits of the same shape.
        target: int64 ``(N, *spatial)``.
        ignore_index: target value that is left out.
    """
    teacher_rows, labels = flatten_dense(teacher, target, ignore_index)
    student_rows, _ = flatten_dense(student, target, ignore_index)
    for name, metric in metrics.items():
        update = cast(Metric, metric).update
        if name in _DIVERGENCES:
            update(teacher_rows, student_rows, labels)
        elif name not in (POINTS, *COMPLETION):
            update(teacher if name.startswith("teacher_") else student, target)


def update_points(metrics: nn.ModuleDict, student: Tensor, inputs: Inputs) -> None:
    """Add every point in view, also those behind others, with the class of its pixel.

    Args:
        metrics: of :func:`pair_metrics`; without ``point_miou`` nothing is added.
        student: logits ``(B, C, H, W)``.
        inputs: the student's, with ``pixel`` and ``point_target`` int64 ``(P,)``.
    """
    if POINTS in metrics and has_points(inputs):
        classes = student.argmax(dim=1).flatten()[inputs["pixel"]]
        cast(Metric, metrics[POINTS]).update(classes, inputs["point_target"])


def update_completion(
    metrics: nn.ModuleDict, student: Tensor, target: Tensor, inputs: Inputs
) -> None:
    """Add the hidden voxels of scenes: is something there, or are they empty?

    Args:
        metrics: of :func:`pair_metrics`; without ``completion_iou`` nothing is added.
        student: logits ``(B, C, D, H, W)``, class 0 is empty.
        target: int64 ``(B, D, H, W)``.
        inputs: the student's, with ``occluded`` bool ``(B, D, H, W)``.
    """
    if COMPLETION[0] in metrics and has_occlusion(inputs):
        classes = student.argmax(dim=1)
        for name in COMPLETION:
            cast(Metric, metrics[name]).update(classes, target, inputs["occluded"])
