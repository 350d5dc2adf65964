from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from ntdh_bench import records
from ntdh_bench.batch import Measure
from ntdh_bench.divergence import ncjsd
from ntdh_bench.models.metrics import (
    COMPLETION,
    pair_metrics,
    single_metric,
    update_completion,
    update_pair,
    update_points,
)
from ntdh_bench.segmentation import MeanIoU


def data(metric: Measure) -> Any:
    return SimpleNamespace(
        metric=metric, num_classes=4, ignore_index=255, excluded_classes=(0,), protocol="pooled"
    )


@pytest.mark.parametrize(("metric", "kind"), [("accuracy", MulticlassAccuracy), ("miou", MeanIoU)])
def test_the_data_choose_the_measure(metric: Measure, kind: type) -> None:
    assert type(single_metric(data(metric))) is kind
    names = list(pair_metrics(data(metric)))
    assert names[:2] == [metric, f"teacher_{metric}"]
    assert set(names) <= set(records.METRICS)
    assert len(names) == 8


@pytest.mark.parametrize("metric", ["accuracy", "miou"])
def test_pixels_and_their_rows_measure_alike(metric: Measure) -> None:
    torch.manual_seed(0)
    teacher, student = 2 * torch.randn(2, 3, 4, 5, 6)
    target = torch.randint(1, 4, (3, 5, 6)).masked_fill(torch.rand(3, 5, 6) < 0.5, 255)
    rows = [logits.movedim(1, -1).reshape(-1, 4) for logits in (teacher, student)]
    dense, flat = (pair_metrics(data(metric)) for _ in range(2))
    update_pair(dense, teacher, student, target)
    for part in range(0, 90, 30):
        chunk = slice(part, part + 30)
        update_pair(flat, rows[0][chunk], rows[1][chunk], target.flatten()[chunk])
    update_pair(flat, rows[0], rows[1], torch.full((90,), 255))  # adds nothing
    found = {name: float(cast(Any, value).compute()) for name, value in dense.items()}
    assert found == pytest.approx({n: float(cast(Any, v).compute()) for n, v in flat.items()})
    valid = target.flatten() != 255
    expected = ncjsd(rows[0][valid], rows[1][valid], target.flatten()[valid]).mean()
    assert found["ncjsd"] == pytest.approx(float(expected))
    alone = single_metric(data(metric))
    alone.update(student, target)
    assert float(alone.compute()) == pytest.approx(found[metric])


def test_points_take_the_class_of_their_pixel() -> None:
    metrics = pair_metrics(data("miou"), points=True)
    logits = torch.nn.functional.one_hot(torch.tensor([[[1, 2]], [[3, 1]]]), 4).movedim(-1, 1)
    inputs = {
        "pixel": torch.tensor([0, 1, 1, 2, 3, 3]),
        "point_target": torch.tensor([1, 2, 3, 3, 1, 255]),  # one point hidden, one not counted
    }
    update_pair(metrics, logits.float(), logits.float(), torch.full((2, 1, 2), 255))
    update_points(metrics, logits.float(), inputs)
    found = cast(Any, metrics["point_miou"])
    assert found.per_class()[1:].tolist() == [1.0, 0.5, 0.5]
    assert float(found.compute()) == pytest.approx(2 / 3)
    update_points(pair_metrics(data("miou")), logits.float(), inputs)  # nothing to measure with


def test_hidden_voxels_are_completed() -> None:
    metrics = pair_metrics(data("miou"), completion=True)
    predicted = torch.tensor([[[[0, 1, 2, 3, 1, 1]]]])
    logits = torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1).float()
    target = torch.tensor([[[[1, 3, 0, 2, 255, 1]]]])
    occluded = torch.tensor([[[[1, 1, 1, 1, 1, 0]]]]).bool()  # the last is seen
    update_pair(metrics, logits, logits, target)
    update_completion(metrics, logits, target, {"occluded": occluded})
    found = {name: float(cast(Any, metrics[name]).compute()) for name in COMPLETION}
    assert found == pytest.approx(
        {"completion_iou": 2 / 4, "completion_precision": 2 / 3, "completion_recall": 2 / 3}
    )
    update_completion(pair_metrics(data("miou")), logits, target, {"occluded": occluded})


def test_completion_is_scored_by_the_protocol_of_the_data() -> None:
    scenes = data("miou")
    scenes.protocol = "sscnet"
    metrics = pair_metrics(scenes, completion=True)
    assert {cast(Any, metrics[name]).protocol for name in COMPLETION} == {"sscnet"}
