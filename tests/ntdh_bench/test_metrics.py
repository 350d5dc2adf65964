from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from ntdh_bench.batch import Measure, PairedBatch
from ntdh_bench.dependence import LinearCKA, MutualInformation
from ntdh_bench.divergence import kl, ncjsd, nckl, tcjsd, tckl
from ntdh_bench.metrics import (
    CKA,
    COMPLETION,
    DEPENDENCE,
    DIVERGENCES,
    Accuracy,
    NonTargetJSD,
    RowMean,
    TargetJSD,
    pair_metrics,
    single_metric,
    update_pair,
)
from ntdh_bench.records.columns import METRICS
from ntdh_bench.segmentation import MeanIoU

PLAIN = cast(PairedBatch, {})  # without points or occluded voxels


def draw(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(rows)
    teacher, student = torch.randn(2, rows, 6, generator=stream).unbind()
    return teacher, student, torch.randint(6, (rows,), generator=stream)


def test_mean_over_batches_of_any_size() -> None:
    teacher, student, target = draw(50)
    for metric, divergence in ((TargetJSD(), tcjsd), (NonTargetJSD(), ncjsd)):
        for rows in (slice(0, 1), slice(1, 33), slice(33, 50)):
            metric.update(teacher[rows], student[rows], target[rows])
        expected = divergence(teacher.double(), student.double(), target).mean()
        value = metric.compute()
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)
        metric.reset()
        metric.update(teacher[:1], student[:1], target[:1])
        assert metric.compute().item() == pytest.approx(
            divergence(teacher[:1], student[:1], target[:1]).item()
        )


def test_two_way_form() -> None:
    teacher, student, target = draw(9)
    metric = TargetJSD(binary=True)
    metric.update(teacher, student, target)
    expected = tcjsd(teacher, student, target, binary=True).mean()
    assert metric.compute().item() == pytest.approx(expected.item())


def test_ignored_samples_do_not_count() -> None:
    teacher, student, target = draw(10)
    metric = NonTargetJSD()
    padded = torch.cat([target, torch.tensor([255, 255])])
    metric.update(torch.cat([teacher, teacher[:2]]), torch.cat([student, student[:2]]), padded)
    assert metric.compute().item() == pytest.approx(ncjsd(teacher, student, target).mean().item())


def test_dense() -> None:
    teacher, student, target = draw(24)
    dense = [x.reshape(2, 3, 4, 6).movedim(-1, 1) for x in (teacher, student)]
    metric = NonTargetJSD()
    metric.update(*dense, target.reshape(2, 3, 4))
    assert metric.compute().item() == pytest.approx(ncjsd(teacher, student, target).mean().item())


def test_nothing_added_is_nan() -> None:
    metric = TargetJSD()
    metric.update(torch.zeros(2, 3), torch.zeros(2, 3), torch.full((2,), 255))
    assert metric.compute().isnan()


def test_bad_target() -> None:
    with pytest.raises(ValueError, match="classes"):
        NonTargetJSD().update(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 3]))


def test_sum_over_processes() -> None:
    """Two processes with 7 and 3 samples, the exchange replaced by handing over the states."""
    teacher, student, target = draw(10)
    other = NonTargetJSD()
    other.update(teacher[7:], student[7:], target[7:])
    states = {torch.float64: other.total, torch.int64: other.count}
    metric = NonTargetJSD(
        dist_sync_fn=lambda state, group: [state, states[state.dtype]],
        distributed_available_fn=lambda: True,
    )
    metric.update(teacher[:7], student[:7], target[:7])
    expected = ncjsd(teacher, student, target).mean().item()
    assert metric.compute().item() == pytest.approx(expected)


def data(metric: Measure) -> Any:
    return SimpleNamespace(
        metric=metric, num_classes=4, ignore_index=255, excluded_classes=(0,), protocol="pooled"
    )


@pytest.mark.parametrize(("metric", "kind"), [("accuracy", Accuracy), ("miou", MeanIoU)])
def test_the_data_choose_the_measure(metric: Measure, kind: type) -> None:
    assert type(single_metric(data(metric))) is kind
    names = list(pair_metrics(data(metric)))
    assert names[:2] == [metric, f"teacher_{metric}"]
    assert set(names) <= set(METRICS)
    assert len(names) == 2 + len(DIVERGENCES) + 4
    assert list(pair_metrics(data(metric), widths=(3, 5))) == [*names, CKA]


def test_accuracy_is_that_of_torchmetrics_to_the_last_bit() -> None:
    stream = torch.Generator().manual_seed(0)
    ours = Accuracy()
    theirs = MulticlassAccuracy(6, average="micro", ignore_index=255, validate_args=False)
    for rows in (7, 1, 128):
        for shape in ((), (3, 5)):
            logits = torch.randn(rows, 6, *shape, generator=stream)
            target = torch.randint(6, (rows, *shape), generator=stream)
            target[torch.rand(target.shape, generator=stream) < 0.3] = 255
            for metric in (ours, theirs):
                metric.update(logits, target)
            assert torch.equal(ours.compute(), theirs.compute())
            assert ours.compute().dtype == torch.float32
    for metric in (ours, theirs):
        metric.reset()
        metric.update(logits, torch.full_like(target, 255))
    assert torch.equal(ours.compute(), theirs.compute())


@pytest.mark.parametrize("metric", ["accuracy", "miou"])
def test_pixels_and_their_rows_measure_alike(metric: Measure) -> None:
    torch.manual_seed(0)
    teacher, student = 2 * torch.randn(2, 3, 4, 5, 6)
    target = torch.randint(1, 4, (3, 5, 6)).masked_fill(torch.rand(3, 5, 6) < 0.5, 255)
    rows = [logits.movedim(1, -1).reshape(-1, 4) for logits in (teacher, student)]
    dense, flat = (pair_metrics(data(metric)) for _ in range(2))
    update_pair(dense, teacher, student, target, PLAIN)
    for part in range(0, 90, 30):
        chunk = slice(part, part + 30)
        update_pair(flat, rows[0][chunk], rows[1][chunk], target.flatten()[chunk], PLAIN)
    update_pair(flat, rows[0], rows[1], torch.full((90,), 255), PLAIN)  # adds nothing
    found = {name: float(cast(Any, value).compute()) for name, value in dense.items()}
    assert found == pytest.approx({n: float(cast(Any, v).compute()) for n, v in flat.items()})
    valid = target.flatten() != 255
    expected = ncjsd(rows[0][valid], rows[1][valid], target.flatten()[valid]).mean()
    assert found["ncjsd"] == pytest.approx(float(expected))
    alone = single_metric(data(metric))
    alone.update(student, target)
    assert float(alone.compute()) == pytest.approx(found[metric])


def test_sharing_the_softmax_changes_no_bit() -> None:
    teacher, student, target = draw(40)
    target[:5] = 255
    six = data("accuracy")
    six.num_classes = 6
    metrics = pair_metrics(six)
    update_pair(metrics, teacher, student, target, PLAIN)
    rows = teacher[5:], student[5:], target[5:]
    alone = {
        "tcjsd": tcjsd(*rows), "ncjsd": ncjsd(*rows), "kl": kl(*rows[:2]), "tckl": tckl(*rows),
        "tckl_size": tckl(*rows).abs(),
        "tckl_binary": tckl(*rows, binary=True), "nckl": nckl(*rows),
        "tcjsd_binary": tcjsd(*rows, binary=True),
    }  # fmt: skip
    assert alone.keys() == DIVERGENCES.keys()
    for name, values in alone.items():
        mean = RowMean()
        mean.update(values)
        assert torch.equal(mean.compute(), cast(Any, metrics[name]).compute())


def test_what_networks_tell_of_each_other_leaves_out_what_is_ignored() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 40, 4)
    features = torch.randn(40, 3), torch.randn(40, 5)
    target = torch.randint(4, (40,))
    target[5:9] = 255
    metrics = pair_metrics(data("accuracy"), widths=(3, 5))
    update_pair(metrics, teacher, student, target, PLAIN, features=features)
    kept = target != 255
    chosen = [x[kept].argmax(1) for x in (teacher, student)]
    cases: dict[str, tuple[Any, tuple[Tensor, ...]]] = {
        "mi_teacher_student": (MutualInformation(4), tuple(chosen)),
        "mi_student_label": (MutualInformation(4), (chosen[1], target[kept])),
        "mi_teacher_label": (MutualInformation(4), (chosen[0], target[kept])),
        "cka_logits": (LinearCKA((4, 4)), (teacher[kept], student[kept])),
        "cka": (LinearCKA((3, 5)), tuple(x[kept] for x in features)),
    }
    assert tuple(cases) == DEPENDENCE
    found = {name: float(cast(Any, metrics[name]).compute()) for name in cases}
    assert len(set(found.values())) == 5
    for name, (metric, pair) in cases.items():
        metric.update(*pair)
        assert found[name] == float(metric.compute())


def test_points_take_the_class_of_their_pixel() -> None:
    metrics = pair_metrics(data("miou"), points=True)
    logits = torch.nn.functional.one_hot(torch.tensor([[[1, 2]], [[3, 1]]]), 4).movedim(-1, 1)
    points = {
        "pixel": torch.tensor([0, 1, 1, 2, 3, 3]),
        "target": torch.tensor([1, 2, 3, 3, 1, 255]),  # one point hidden, one not counted
    }
    batch = cast(PairedBatch, {"points": points})
    update_pair(metrics, logits.float(), logits.float(), torch.full((2, 1, 2), 255), batch)
    found = cast(Any, metrics["point_miou"])
    assert found.per_class()[1:].tolist() == [1.0, 0.5, 0.5]
    assert float(found.compute()) == pytest.approx(2 / 3)


def test_hidden_voxels_are_completed() -> None:
    metrics = pair_metrics(data("miou"), completion=True)
    predicted = torch.tensor([[[[0, 1, 2, 3, 1, 1]]]])
    logits = torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1).float()
    target = torch.tensor([[[[1, 3, 0, 2, 255, 1]]]])
    occluded = torch.tensor([[[[1, 1, 1, 1, 1, 0]]]]).bool()  # the last is seen
    update_pair(metrics, logits, logits, target, cast(PairedBatch, {"occluded": occluded}))
    found = {name: float(cast(Any, metrics[name]).compute()) for name in COMPLETION}
    assert found == pytest.approx(
        {"completion_iou": 2 / 4, "completion_precision": 2 / 3, "completion_recall": 2 / 3}
    )


def test_completion_is_scored_by_the_protocol_of_the_data() -> None:
    scenes = data("miou")
    scenes.protocol = "sscnet"
    metrics = pair_metrics(scenes, completion=True)
    assert {cast(Any, metrics[name]).protocol for name in COMPLETION} == {"sscnet"}
