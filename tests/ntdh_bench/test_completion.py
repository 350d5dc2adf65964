from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from ntdh_bench.completion import Completion, CompletionScore, scored_target
from ntdh_bench.errors import UserError
from ntdh_bench.segmentation import MeanIoU
from tests.helpers import run_two_processes
from tests.logits import CLASSES, IGNORED, draw


def completion(labels: Tensor, truth: Tensor, mask: Tensor) -> list[float]:
    """Precision, recall and IoU."""
    metrics = [Completion(score) for score in get_args(CompletionScore)]
    for metric in metrics:
        metric.update(labels, truth, mask)
    values = [metric.compute() for metric in metrics]
    assert {value.dtype for value in values} == {torch.float64}
    return [value.item() for value in values]


def test_completion_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import jaccard_score, precision_score, recall_score

    logits, target = draw((3, CLASSES, 5, 4, 6))
    logits.data[:, 0] += 3  # about as many empty voxels as others
    mask = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    keep = mask & (target != IGNORED)
    found, occupied = logits.argmax(1)[keep] > 0, target[keep] > 0
    expected = [score(occupied, found) for score in (precision_score, recall_score, jaccard_score)]
    before = [tensor.clone() for tensor in (logits, target, mask)]
    assert completion(logits, target, mask) == pytest.approx(expected)
    assert completion(logits.argmax(1), target, mask) == pytest.approx(expected)
    assert all(map(torch.equal, (logits, target, mask), before))


def test_completion_counts_neither_visible_nor_ignored_voxels() -> None:
    truth = torch.tensor([1, 2, 3, 0, 0, IGNORED, 4])
    labels = torch.tensor([5, 2, 0, 1, 0, 1, 0])
    occluded = torch.tensor([True] * 6 + [False])
    assert completion(labels, truth, occluded) == pytest.approx([2 / 3, 2 / 3, 2 / 4])


def test_unknown_voxels_are_empty_for_sscnet_and_scenes_are_averaged() -> None:
    truth = torch.tensor([[1, 2, IGNORED, 0], [3, 0, 0, IGNORED], [IGNORED] * 4])
    labels = torch.tensor([[1, 0, 1, 0], [3, 0, 0, 0], [1, 1, 1, 1]])
    mask = torch.ones_like(truth, dtype=torch.bool)
    found = {}
    for score in get_args(CompletionScore):
        metric = Completion(score, protocol="sscnet")
        metric.update(labels, truth, mask)
        found[score] = metric.compute().item()
    # The last scene has no target at all: it is padding.
    assert found == pytest.approx(
        {"precision": (1 / 2 + 1) / 2, "recall": (1 / 2 + 1) / 2, "iou": (1 / 3 + 1) / 2}
    )


def test_targets_by_protocol() -> None:
    truth = torch.tensor([0, 5, IGNORED, 3, IGNORED])
    evaluated = torch.tensor([True, True, True, False, False])
    pooled = scored_target(truth, evaluated, "pooled")
    assert pooled.tolist() == [0, 5, IGNORED, IGNORED, IGNORED]
    sscnet = scored_target(truth, evaluated, "sscnet")
    assert sscnet.tolist() == [0, 5, 0, IGNORED, IGNORED]
    assert truth.tolist() == [0, 5, IGNORED, 3, IGNORED]
    with pytest.raises(UserError, match="protocol is 'paper': choose one of pooled, sscnet"):
        scored_target(truth, evaluated, "paper")  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", ["pooled", "sscnet"])
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_completion_of_nothing(protocol: Any) -> None:
    empty = torch.zeros(4, dtype=torch.int64)
    assert Completion(protocol=protocol).compute() == 0
    assert completion(empty, empty, empty == 0) == [0, 0, 0]
    assert completion(empty + 1, empty + 1, empty != 0) == [0, 0, 0]


def test_completion_that_does_not_fit_is_refused() -> None:
    logits, target = draw()
    everywhere = torch.ones_like(target, dtype=torch.bool)
    with pytest.raises(UserError, match="'f1': choose one of precision, recall, iou"):
        Completion("f1")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="protocol is 'paper': choose one of pooled, sscnet"):
        Completion(protocol="paper")  # type: ignore[arg-type]
    metric = Completion()
    with pytest.raises(ValueError, match=r"mask .* do not fit"):
        metric.update(logits, target, everywhere[:1])
    with pytest.raises(ValueError, match=r"prediction .* do not fit"):
        metric.update(logits[:1], target, everywhere)


WORKER = """
from tests.ntdh_bench.test_completion import voxel_scores
result = voxel_scores(slice(1) if rank else slice(1, 4))
"""


def voxel_scores(scenes: slice) -> list[Tensor]:
    """What the metrics of voxels give after some of four scenes, one a batch."""
    logits, target = draw((4, CLASSES, 3, 4, 5))
    mask = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    classes, occupied = MeanIoU(CLASSES), [Completion(score) for score in get_args(CompletionScore)]
    occupied.append(Completion(protocol="sscnet"))
    for scene in torch.arange(4)[scenes, None]:
        classes.update(logits[scene], target[scene])
        for metric in occupied:
            metric.update(logits[scene], target[scene], mask[scene])
    return [classes.per_class(), *(metric.compute() for metric in (classes, *occupied))]


def test_two_processes_measure_like_one(tmp_path: Path) -> None:
    """Over gloo, with three scenes on one rank and one on the other."""
    alone = voxel_scores(slice(4))
    for shared in run_two_processes(WORKER, tmp_path):
        torch.testing.assert_close(shared, alone, rtol=0, atol=0, equal_nan=True)
