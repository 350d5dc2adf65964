"""Losses and metrics of semantic segmentation, for pixels, points and voxels alike.

Logits are ``(N, C, *spatial)`` (``(N, C)`` for points) and targets int64 ``(N, *spatial)``. Ignored
targets take no part. Half precision is promoted to float32, float64 stays float64. Every loss is 0,
with a zero gradient, where nothing is left to compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from ntdh_bench.batch import ScoringProtocol
from ntdh_bench.divergence import TargetError, flatten_dense, promote
from ntdh_bench.errors import UserError

Absent: TypeAlias = Literal["zero", "skip"]
CompletionScore: TypeAlias = Literal["precision", "recall", "iou"]

PMF_FLOOR = 1e-8


def focal(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None = None,
    gamma: float = 2.0,
    ignore_index: int = 255,
    floor: float = 1e-6,
) -> Tensor:
    """Focal loss: ``-w_k (1 - p_k)^gamma log max(p_k, floor)`` of the target class k.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 5, with the floor of PMF's
    code, below which an element hardly has a gradient. The mean is over valid elements and not over
    their weights, as there. ``gamma = 0, floor = 0`` is cross-entropy.

    Args:
        logits: ``(N, C, *spatial)``.
        target: int64 ``(N, *spatial)``.
        class_weight: ``(C,)``, finite; None for 1.
        gamma: exponent, at least 0.
        ignore_index: target value to leave out.
        floor: least probability the logarithm sees, in [0, 1).

    Returns:
        Scalar in nats, mean over the elements that are not ignored.

    Raises:
        ValueError: shapes do not fit, gamma is negative, or floor outside [0, 1).
        TargetError: a target neither in ``[0, C)`` nor ignored.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma is {gamma}: expected a number of at least 0")
    if not 0 <= floor < 1:
        raise ValueError(f"floor is {floor}: expected a probability below 1")
    rows, labels = _valid_rows(logits, target, ignore_index)
    log_p = rows.log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    # Below this the power of an exponent under 1 has an infinite slope, and 0 * inf is NaN.
    miss = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    value = -miss.pow(gamma) * _floored(log_p, floor)
    if class_weight is not None:
        if class_weight.shape != rows.shape[1:]:
            raise ValueError(
                f"class_weight {tuple(class_weight.shape)}: expected one for each of the "
                f"{rows.shape[1]} classes"
            )
        value = value * class_weight.to(value)[labels]
    return value.sum() / max(len(value), 1)


def lovasz_softmax(logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
    """Lovász-softmax: the convex extension of the Jaccard loss, mean over the classes present.

    Berman, Triki and Blaschko, "The Lovász-Softmax loss", CVPR 2018, Eq. 8-9 and Alg. 1. All
    elements of the batch form one set, and classes without a target in it do not count.

    Args:
        logits: ``(N, C, *spatial)``.
        target: int64 ``(N, *spatial)``.
        ignore_index: target value to leave out.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: shapes do not fit.
        TargetError: a target neither in ``[0, C)`` nor ignored.
    """
    rows, labels = _valid_rows(logits, target, ignore_index)
    present = torch.unique(labels)
    foreground = labels == present[:, None]
    probability = rows.softmax(dim=1).T[present]
    errors = torch.where(foreground, 1 - probability, probability)
    value = (errors * _lovasz_weights(errors.detach(), foreground)).sum()
    return value / max(len(present), 1)


def perception_aware(first: Tensor, second: Tensor, threshold: float = 0.7) -> Tensor:
    """PMF's perception-aware loss: the mean of :func:`perception_aware_values`.

    Args:
        first: logits ``(N, C, *spatial)`` of one branch.
        second: logits of the other branch, the same shape.
        threshold: confidence in [0, 1] from which a branch may guide the other.

    Returns:
        Scalar in nats, mean over all elements; 0 where there are none.

    Raises:
        ValueError: shapes do not fit.
    """
    values = perception_aware_values(first, second, threshold)
    return values.sum() / max(values.numel(), 1)


def perception_aware_values(first: Tensor, second: Tensor, threshold: float = 0.7) -> Tensor:
    """Weighted KL divergence from the more confident to the less confident branch, per element.

    Zhuang et al., "Perception-Aware Multi-Sensor Fusion for 3D LiDAR Semantic Segmentation", ICCV
    2021, Sec. 3.3. Confidence is 1 minus the entropy over log C, and the weight is how much more
    confident the guide is. The guide and the weights are constants: otherwise the loss would fall
    by making the guide worse. As in the authors' code the divergence is divided by C, and
    logarithms see no probability below 1e-8.

    Args:
        first: logits ``(N, C, *spatial)`` of one branch, C >= 2.
        second: logits of the other branch, the same shape.
        threshold: confidence in [0, 1] from which a branch may guide the other.

    Returns:
        ``(N, *spatial)`` in nats, >= 0.

    Raises:
        ValueError: shapes do not fit.
    """
    if first.shape != second.shape or first.dim() < 2 or first.shape[1] < 2:
        raise ValueError(
            f"logits {tuple(first.shape)} and {tuple(second.shape)} do not fit: expected twice the "
            "same (N, C, *spatial) with at least 2 classes"
        )
    log_p, log_q = (logits.log_softmax(dim=1) for logits in promote(first, second))
    with torch.no_grad():
        p, q = log_p.exp(), log_q.exp()
        confidence_p, confidence_q = _confidence(p, log_p), _confidence(q, log_q)
        lead = confidence_p - confidence_q
        weight_p = lead.clamp(min=0) * (confidence_p >= threshold)
        weight_q = (-lead).clamp(min=0) * (confidence_q >= threshold)
    value = weight_p * _kl(p, log_p, log_q) + weight_q * _kl(q, log_q, log_p)
    return value / p.shape[1]


class MeanIoU(Metric):
    """Mean intersection over union of the evaluated classes, from one confusion matrix.

    The definition of SemanticKITTI (Behley et al., ICCV 2019) and of SSCNet (Song et al., CVPR
    2017). An excluded class is left out of the mean and of nothing else: where it is the target,
    other predictions are false positives, and where it is predicted, the true class is missed. So
    unlabelled elements need the ignored target, empty voxels do not. Counts are summed over batches
    and processes, so the result does not depend on how the data were split.

    Args:
        num_classes: C, excluded classes included.
        ignore_index: target value of elements that are not counted.
        excluded: classes that the mean leaves out.
        absent: IoU of a class that is neither in the targets nor predicted: ``zero`` is the
            official one, ``skip`` leaves the class out of the mean.
        kwargs: options of ``torchmetrics.Metric``.

    Raises:
        UserError: an unknown ``absent``, or ``excluded`` leaves no class.
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
        absent: Absent = "zero",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if absent not in get_args(Absent):
            raise UserError(f"absent is {absent!r}: choose {' or '.join(get_args(Absent))}")
        evaluated = torch.tensor([label not in excluded for label in range(num_classes)])
        if not evaluated.any():
            raise UserError(f"excluded leaves none of {num_classes} classes: name fewer")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.absent = absent
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
        labels = _labels(prediction, target)
        counted = target != self.ignore_index
        truth, predicted = target[counted].long(), labels[counted].long()
        _check_labels(truth, self.num_classes)
        _check_labels(predicted, self.num_classes)
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
        iou = hits / union if self.absent == "skip" else hits / union.clamp(min=1)
        return iou.masked_fill(~self.evaluated, math.nan)


class Completion(Metric):
    """Precision, recall or IoU of occupied (any class but 0) against empty voxels.

    Scene completion (Song et al., CVPR 2017, Sec. 5), over the voxels of a mask, the occluded ones:

    - ``pooled``: ignored voxels are not counted, and counts are summed over batches and processes,
      as for :class:`MeanIoU`.
    - ``sscnet``: what the published script does, where it differs from its paper: ignored voxels
      count as empty (see :func:`scored_target`), and the score is the mean over scenes. A scene
      with nothing to divide by scores 0; one without any target, which is padding, does not count.

    Args:
        score: which of the three.
        ignore_index: target value of voxels that are not known.
        protocol: which of the two.
        kwargs: options of ``torchmetrics.Metric``.

    Raises:
        UserError: an unknown ``score`` or ``protocol``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    hits: Tensor
    total: Tensor

    def __init__(
        self,
        score: CompletionScore = "iou",
        ignore_index: int = 255,
        protocol: ScoringProtocol = "pooled",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if score not in get_args(CompletionScore):
            raise UserError(f"score is {score!r}: choose {' or '.join(get_args(CompletionScore))}")
        _check_protocol(protocol)
        self.score = score
        self.ignore_index = ignore_index
        self.protocol = protocol
        # Voxels, or scores of scenes and the number of scenes.
        kind = torch.int64 if protocol == "pooled" else torch.float64
        for name in ("hits", "total"):
            self.add_state(name, torch.zeros((), dtype=kind), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add a batch.

        Args:
            prediction: logits ``(N, C, *spatial)``, or labels shaped like the target.
            target: int64 ``(N, *spatial)``.
            mask: bool, shaped like the target: the voxels to score.

        Raises:
            ValueError: shapes do not fit.
        """
        if mask.shape != target.shape:
            raise ValueError(
                f"mask {tuple(mask.shape)} and target {tuple(target.shape)} do not fit"
            )
        labels = _labels(prediction, target)
        known = target != self.ignore_index
        target = scored_target(target, mask.bool(), self.protocol, self.ignore_index)
        counted = target != self.ignore_index
        found, occupied = counted & (labels > 0), counted & (target > 0)
        total = {"precision": found, "recall": occupied, "iou": found | occupied}[self.score]
        by_scene = (found & occupied, total, known)
        hits, totals, targets = (voxels.reshape(len(target), -1).sum(dim=1) for voxels in by_scene)
        if self.protocol == "pooled":
            self.hits += hits.sum()
            self.total += totals.sum()
        else:
            scenes = targets > 0
            self.hits += (hits.double() / totals.clamp(min=1))[scenes].sum()
            self.total += scenes.sum()

    def compute(self) -> Tensor:
        """Return the score in [0, 1], float64; 0 where there is nothing to divide by."""
        return self.hits.double() / self.total.clamp(min=1)


def scored_target(
    target: Tensor, evaluated: Tensor, protocol: ScoringProtocol, ignore_index: int = 255
) -> Tensor:
    """Return the targets of scene completion that results are compared with.

    All that is not evaluated is ignored. Of the rest voxels whose class is not known stay ignored
    (``pooled``), or become empty, so that what is predicted there is a false positive (``sscnet``:
    the published script sets 255 to 0 before it scores).

    Args:
        target: int64 ``(N, *spatial)``, 0 is empty.
        evaluated: bool, of the same shape.
        protocol: see :class:`Completion`.
        ignore_index: target value of voxels that are not known.

    Raises:
        UserError: an unknown ``protocol``.
    """
    _check_protocol(protocol)
    if protocol == "sscnet":
        target = target.masked_fill(target == ignore_index, 0)
    return target.masked_fill(~evaluated, ignore_index)


def _check_protocol(protocol: str) -> None:
    if protocol not in get_args(ScoringProtocol):
        choices = " or ".join(get_args(ScoringProtocol))
        raise UserError(f"protocol is {protocol!r}: choose {choices}")


def _labels(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the labels of a prediction, which may be logits, shaped like the target."""
    labels = prediction
    if prediction.is_floating_point() and prediction.dim() > 1:
        labels = prediction.argmax(dim=1)
    if labels.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} do not fit"
        )
    return labels


def _valid_rows(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return logits ``(M, C)``, at least float32, and targets ``(M,)`` of what is not ignored."""
    rows, labels = flatten_dense(logits, target, ignore_index)
    _check_labels(labels, rows.shape[1])
    return promote(rows)[0], labels.long()


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise TargetError(
            f"labels from {int(labels.min())} to {int(labels.max())}: expected 0 to {classes - 1}, "
            "or the ignored target"
        )


@torch.no_grad()
def _lovasz_weights(errors: Tensor, foreground: Tensor) -> Tensor:
    """Return the gradient of the Lovász extension at ``errors`` ``(K, M)``, one class a row.

    In the order of falling errors the Jaccard loss grows by 1 / union at an element of the class,
    and by intersection / (union (union - 1)) at another one. Subtracting neighbouring values of
    the loss would leave few digits of it in float32.
    """
    order = errors.argsort(dim=1, descending=True, stable=True)
    hit = foreground.gather(1, order)
    found = hit.cumsum(dim=1)
    size = foreground.sum(dim=1, keepdim=True)
    rank = torch.arange(1, errors.shape[1] + 1, device=errors.device)
    union = (size + rank - found).to(errors)
    left = (size - found).to(errors)
    growth = torch.where(hit, 1 / union, left / (union * (union - 1).clamp(min=1)))
    return torch.empty_like(errors).scatter_(1, order, growth)


def _confidence(p: Tensor, log_p: Tensor) -> Tensor:
    """Return 1 - entropy / log C over dimension 1, in [0, 1]."""
    return 1 + (p * _floored(log_p, PMF_FLOOR)).sum(dim=1) / math.log(p.shape[1])


def _kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the KL divergence from a constant guide p to q over dimension 1."""
    return (p * (log_p.detach() - _floored(log_q, PMF_FLOOR))).sum(dim=1)


def _floored(log_p: Tensor, floor: float) -> Tensor:
    return log_p.clamp(min=math.log(floor)) if floor else log_p
