"""Mean intersection over union of pixels, points and voxels alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ntdh_bench.divergence import TargetError
from ntdh_bench.errors import UserError


class MeanIoU(Metric):
    """Mean intersection over union of the evaluated classes, from one confusion matrix.

    The definition of SemanticKITTI (Behley et al., ICCV 2019) and of SSCNet (Song et al., CVPR
    2017). An excluded class is left out of the mean and of nothing else: where it is the target,
    other predictions are false positives, and where it is predicted, the true class is missed. So
    unlabelled elements need the ignored target, empty voxels do not. A class that is neither there
    nor predicted has the IoU 0. Counts are summed over batches and processes, so the result does
    not depend on how the data were split.

    Args:
        num_classes: C, excluded classes included.
        ignore_index: target value of elements that are not counted.
        excluded: classes that the mean leaves out.
        kwargs: options of ``torchmetrics.Metric``.

    Raises:
        UserError: ``excluded`` leaves no class.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    confusion: Tensor
    evaluated: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        excluded: Sequence[int] = (0,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        evaluated = torch.tensor([label not in excluded for label in range(num_classes)])
        if not evaluated.any():
            raise UserError(f"excluded leaves none of {num_classes} classes: name fewer")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.register_buffer("evaluated", evaluated, persistent=False)
        empty = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", empty, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            prediction: logits ``(N, C, *spatial)``, or labels in [0, C) shaped like the target.
            target: int64 ``(N, *spatial)``.

        Raises:
            ValueError: shapes do not fit.
            TargetError: a target or a predicted label outside ``[0, C)``.
        """
        if prediction.is_floating_point() and prediction.shape[1:2] != (self.num_classes,):
            raise ValueError(
                f"logits {tuple(prediction.shape)}: expected {self.num_classes} classes in "
                "dimension 1"
            )
        labels = labels_of(prediction, target)
        counted = target != self.ignore_index
        truth, predicted = target[counted].long(), labels[counted].long()
        check_labels(truth, self.num_classes)
        check_labels(predicted, self.num_classes)
        cells = truth * self.num_classes + predicted
        counts = torch.bincount(cells, minlength=self.num_classes**2)
        self.confusion += counts.view_as(self.confusion)

    def compute(self) -> Tensor:
        """Return the mean IoU in [0, 1], float64; NaN where no class is left to average."""
        return self._class_iou().nanmean()

    def per_class(self) -> Tensor:
        """Return the IoU of each class, float64 ``(C,)``; NaN where a class is left out.

        Summed over processes like :meth:`compute`, so every process has to call it.
        """
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, distributed_available=self.distributed_available_fn
        ):
            return self._class_iou()

    def _class_iou(self) -> Tensor:
        hits = self.confusion.diagonal().double()
        union = (self.confusion.sum(dim=0) + self.confusion.sum(dim=1)).double() - hits
        return (hits / union.clamp(min=1)).masked_fill(~self.evaluated, math.nan)


def labels_of(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the labels of a prediction, which may be logits, shaped like the target."""
    labels = prediction
    if prediction.is_floating_point() and prediction.dim() > 1:
        labels = prediction.argmax(dim=1)
    if labels.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} do not fit"
        )
    return labels


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise a TargetError if a label lies outside ``[0, classes)``."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise TargetError(
            f"labels from {int(labels.min())} to {int(labels.max())}: expected 0 to {classes - 1}, "
            "or the ignored target"
        )
