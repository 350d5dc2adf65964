from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ntdh_bench.divergence import TargetError
from ntdh_bench.errors import UserError
from ntdh_bench.segmentation import MeanIoU
from tests.logits import CLASSES, IGNORED, draw


def scores(labels: Sequence[int], truth: Sequence[int], **options: Any) -> MeanIoU:
    metric = MeanIoU(5, **options)
    metric.update(torch.tensor(labels), torch.tensor(truth))
    return metric


def test_iou_is_the_official_definition() -> None:
    #     1: 2 hits, 1 missed as "unlabelled"; 2: 1 hit, 1 taken for 1; ignored ones do not count
    truth = [1, 1, 1, 2, 2, 255, 255, 255]
    labels = [1, 1, 0, 2, 1, 2, 3, 4]
    metric = scores(labels, truth)
    expected = [math.nan, 2 / 4, 1 / 2, 0.0, 0.0]
    assert metric.per_class().tolist() == pytest.approx(expected, nan_ok=True)
    assert metric.compute().item() == pytest.approx((2 / 4 + 1 / 2) / 4)


def test_predictions_where_the_excluded_class_is_true_are_false_positives() -> None:
    metric = scores([1, 1, 2, 0], [1, 0, 0, 0])
    assert metric.per_class().tolist() == pytest.approx([math.nan, 1 / 2, 0, 0, 0], nan_ok=True)
    assert metric.compute().item() == pytest.approx(1 / 8)
    everything = scores([1, 1, 2, 0], [1, 0, 0, 0], excluded=())
    assert everything.per_class().tolist() == pytest.approx([1 / 3, 1 / 2, 0, 0, 0])


def test_iou_without_excluded_classes_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import jaccard_score

    logits, target = draw((2, CLASSES, 20, 30))
    metric = MeanIoU(CLASSES, excluded=())
    metric.update(logits, target)
    keep = target != IGNORED
    expected = jaccard_score(
        target[keep], logits.argmax(1)[keep], average=None, labels=range(CLASSES)
    )
    np.testing.assert_allclose(metric.per_class(), expected)
    assert metric.compute().item() == pytest.approx(expected.mean())


def test_iou_is_the_same_for_pixels_points_batches_and_processes() -> None:
    logits, target = draw((4, CLASSES, 5, 7))
    whole, points, parts = (MeanIoU(CLASSES) for _ in range(3))
    whole.update(logits, target)
    points.update(logits.movedim(1, -1).reshape(-1, CLASSES), target.flatten())
    for sample in range(4):
        parts.update(logits[sample : sample + 1], target[sample : sample + 1])
    assert whole.compute() == points.compute() == parts.compute()

    other = MeanIoU(CLASSES)
    other.update(logits[2:], target[2:])

    def gather(state: Tensor, group: Any = None) -> list[Tensor]:
        return [state, other.confusion]

    rank = MeanIoU(CLASSES, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    rank.update(logits[:2], target[:2])
    before = rank.confusion.clone()
    torch.testing.assert_close(rank.per_class(), whole.per_class(), equal_nan=True)
    assert rank.compute() == whole.compute()
    assert torch.equal(rank.confusion, before)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_iou_of_nothing() -> None:
    assert MeanIoU(5).compute() == 0
    assert scores([1, 2], [255, 0]).compute() == 0


def test_what_does_not_fit_is_refused() -> None:
    logits, target = draw()
    with pytest.raises(UserError, match="none of 1 classes"):
        MeanIoU(1)
    metric = MeanIoU(CLASSES)
    with pytest.raises(ValueError, match="expected 6 classes"):
        metric.update(logits[:, :5], target)
    with pytest.raises(ValueError, match="do not fit"):
        metric.update(logits, target[:1])
    for prediction, wrong in ((torch.tensor([6]), torch.tensor([1])), (torch.tensor([1]), [-1])):
        with pytest.raises(TargetError, match="expected 0 to 5"):
            metric.update(prediction, torch.as_tensor(wrong))
