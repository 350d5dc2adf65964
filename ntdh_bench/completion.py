"""Scene completion: how well occupied voxels are told from empty ones."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from ntdh_bench.batch import ScoringProtocol
from ntdh_bench.ranges import check_choice
from ntdh_bench.segmentation import labels_of

CompletionScore: TypeAlias = Literal["precision", "recall", "iou"]


class Completion(Metric):
    """Precision, recall or IoU of occupied (any class but 0) against empty voxels.

    Scene completion (Song et al., CVPR 2017, Sec. 5), over the voxels of a mask, the occluded ones:

    - ``pooled``: ignored voxels are not counted, and counts are summed over batches and processes,
      as for :class:`~ntdh_bench.segmentation.MeanIoU`.
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
        check_choice("score", score, get_args(CompletionScore))
        check_choice("protocol", protocol, get_args(ScoringProtocol))
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
        labels = labels_of(prediction, target)
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
    check_choice("protocol", protocol, get_args(ScoringProtocol))
    if protocol == "sscnet":
        target = target.masked_fill(target == ignore_index, 0)
    return target.masked_fill(~evaluated, ignore_index)
