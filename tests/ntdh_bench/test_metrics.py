from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ntdh_bench.divergence import kl, ncjsd, nckl, tcjsd, tckl
from ntdh_bench.metrics import (
    NonTargetJSD,
    NonTargetKL,
    TargetJSD,
    TargetKL,
    TeacherStudentKL,
)


def draw(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(rows)
    teacher, student = torch.randn(2, rows, 6, generator=stream).unbind()
    return teacher, student, torch.randint(6, (rows,), generator=stream)


def test_mean_over_batches_of_any_size() -> None:
    teacher, student, target = draw(50)
    for metric, divergence in (
        (TargetJSD(), tcjsd), (NonTargetJSD(), ncjsd), (TargetKL(), tckl), (NonTargetKL(), nckl),
        (TeacherStudentKL(), lambda teacher, student, _: kl(teacher, student)),
    ):  # fmt: skip
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
    for metric, divergence in ((TargetJSD(binary=True), tcjsd), (TargetKL(binary=True), tckl)):
        metric.update(teacher, student, target)
        expected = divergence(teacher, student, target, binary=True).mean()
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
