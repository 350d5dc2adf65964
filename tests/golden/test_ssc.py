"""Scene completion's metrics against reference values of other implementations (NTDH_GOLDEN).

The reference averages over scenes: its scores are rebuilt from those of single scenes. Its first
variant is not compared, since there the completion score writes into the target of the other one.
SSCNet's own script is transcribed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntdh_bench.completion import Completion, CompletionScore, scored_target
from ntdh_bench.segmentation import MeanIoU

CLASSES, IGNORED = 12, 255
AS_RUN, UNMUTATED = "batch0.waterljwant_as_run", "batch0.waterljwant_unmutated_target"
Scene: TypeAlias = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def data(golden: Path) -> dict[str, Tensor]:
    with np.load(golden / "ssc_metrics.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays if key != "_src"}


@pytest.fixture(scope="module")
def scenes(data: dict[str, Tensor]) -> list[Scene]:
    """Logits, target and scored voxels of every scene, as batches of one."""
    logits, target = data["batch0.in_logits"], data["batch0.in_target"].long()
    scored = data["batch0.nonempty2"] == 1
    return [(logits[[i]], target[[i]], scored[[i]]) for i in range(len(target))]


def completion(scenes: Iterable[Scene]) -> list[float]:
    """Precision, recall and IoU."""
    metrics = [Completion(score) for score in get_args(CompletionScore)]
    for scene in scenes:
        for metric in metrics:
            metric.update(*scene)
    return [metric.compute().item() for metric in metrics]


def class_iou(scenes: Iterable[Scene]) -> Tensor:
    """With empty voxels as a class, as in the reference."""
    metric = MeanIoU(CLASSES, excluded=())
    for logits, target, scored in scenes:
        metric.update(logits, target.masked_fill(~scored, IGNORED))
    return metric.per_class()


def test_completion_of_scenes(data: dict[str, Tensor], scenes: list[Scene]) -> None:
    mean = np.mean([completion([scene]) for scene in scenes], axis=0)
    expected = [data[f"{AS_RUN}.completion_{key}"].item() for key in ("p", "r", "iou")]
    assert mean.tolist() == pytest.approx(expected, rel=1e-12)


def test_class_iou_of_scenes(data: dict[str, Tensor], scenes: list[Scene]) -> None:
    present = torch.stack(
        [torch.bincount(y[m & (y != IGNORED)], minlength=CLASSES) > 0 for _, y, m in scenes]
    )
    assert torch.equal(present.sum(dim=0), data[f"{UNMUTATED}.cnt_class"].long())
    summed = torch.stack([class_iou([scene]) for scene in scenes]).mul(present).sum(dim=0)
    # The reference adds them up in float32.
    np.testing.assert_allclose(summed, data[f"{UNMUTATED}.iou_sum"].double(), rtol=1e-6)


def test_accuracy_of_scenes(data: dict[str, Tensor], scenes: list[Scene]) -> None:
    accuracy = 0.0
    for logits, target, scored in scenes:
        metric = MeanIoU(CLASSES, excluded=())
        metric.update(logits, target.masked_fill(~scored, IGNORED))
        accuracy += metric.confusion.trace().item() / metric.confusion.sum().item()
    assert accuracy / len(scenes) == pytest.approx(data[f"{UNMUTATED}.acc"].item(), rel=1e-12)


def script(
    labels: NDArray[np.int64], target: NDArray[np.uint8], tsdf: NDArray[np.float32]
) -> tuple[NDArray[np.float64], list[float]]:
    """IoU of the classes 1..11, and precision, recall and IoU of completion, by SSCNet's script.

    A transcription of its ``evaluation_script.m``, ``evaluate_prediction.m`` and
    ``evaluate_completion.m``, which shares no code with the package; DDRNet's TSDF, without air.
    """
    counts, scores = np.zeros((3, CLASSES - 1)), []
    for scene in range(len(target)):
        truth = np.where(target[scene] == 255, 0, target[scene])
        where = (tsdf[scene] <= 0) | (tsdf[scene] == 1)
        for label in range(1, CLASSES):
            said, true = labels[scene][where] == label, truth[where] == label
            counts[:, label - 1] += (said & true).sum(), (said & ~true).sum(), (~said & true).sum()
        hidden = tsdf[scene] <= 0
        said, true = labels[scene][hidden] > 0, truth[hidden] > 0
        hits = (said & true).sum()
        scores.append([hits / said.sum(), hits / true.sum(), hits / (said | true).sum()])
    return counts[0] / counts.sum(axis=0), np.mean(scores, axis=0).tolist()


def test_sscnet_s_script(data: dict[str, Tensor]) -> None:
    logits, target = data["batch0.in_logits"], data["batch0.in_target"]
    tsdf = data["batch0.in_tsdf_lr"]
    iou, completed = script(logits.argmax(1).numpy(), target.numpy(), tsdf.numpy())
    occluded = tsdf <= 0
    truth = scored_target(target.long(), occluded | (tsdf == 1), "sscnet")
    classes = MeanIoU(CLASSES)
    metrics = [Completion(score, protocol="sscnet") for score in get_args(CompletionScore)]
    for scene in range(len(logits)):
        rows = slice(scene, scene + 1)
        classes.update(logits[rows], truth[rows])
        for metric in metrics:
            metric.update(logits[rows], truth[rows], occluded[rows])
    assert classes.per_class()[1:].tolist() == pytest.approx(iou.tolist(), rel=1e-12)
    assert classes.compute().item() == pytest.approx(iou.mean(), rel=1e-12)
    assert [m.compute().item() for m in metrics] == pytest.approx(completed, rel=1e-12)
    # It is another measure than the pooled one.
    pooled = MeanIoU(CLASSES)
    pooled.update(logits, scored_target(target.long(), occluded | (tsdf == 1), "pooled"))
    assert pooled.compute() > classes.compute() + 0.001


def test_pooled_over_scenes(data: dict[str, Tensor], scenes: list[Scene]) -> None:
    """What we report: counts of all scenes, empty voxels left out of the mean."""
    target = data["batch0.in_target"].numpy()
    scored = (data["batch0.nonempty2"].numpy() == 1) & (target != IGNORED)
    truth, labels = target[scored], data["batch0.in_logits"].numpy().argmax(1)[scored]
    found, occupied = labels > 0, truth > 0
    hits = (found & occupied).sum()
    expected = [hits / group.sum() for group in (found, occupied, found | occupied)]
    assert completion(scenes) == pytest.approx(expected, rel=1e-12)
    pairs = [(truth == k, labels == k) for k in range(1, CLASSES)]
    iou = [(true & said).sum() / max((true | said).sum(), 1) for true, said in pairs]
    metric = MeanIoU(CLASSES)
    for logits, truth_of_scene, mask in scenes:
        metric.update(logits, truth_of_scene.masked_fill(~mask, IGNORED))
    assert metric.compute().item() == pytest.approx(np.mean(iou), rel=1e-12)
