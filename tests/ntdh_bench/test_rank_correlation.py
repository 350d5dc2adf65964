from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from ntdh_bench.rank_correlation import kendall_tau


def by_scipy(student: Tensor, teacher: Tensor) -> Tensor:
    """SciPy's tau-b of one row after another; NaN for rows without an order."""
    rows = zip(student.double().numpy(), teacher.double().numpy(), strict=True)
    return torch.tensor([kendalltau(a, b).statistic for a, b in rows], dtype=torch.float64)


def logits(rows: int, classes: int, values: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows that agree more or less; with ties where they take few ``values``."""
    stream = torch.Generator().manual_seed(seed)
    shared, a, b = torch.randn(3, rows, classes, generator=stream, dtype=torch.float64)
    share = torch.linspace(-1, 1, rows, dtype=torch.float64).unsqueeze(1)
    pair = share * shared + (1 - share.abs()) * a, shared + b / 4
    if values:
        return pair[0].mul(values).round(), pair[1].mul(values).round()
    return pair


@pytest.mark.parametrize("classes", [2, 3, 10, 41, 300])
@pytest.mark.parametrize("values", [0, 1, 3], ids=["no ties", "many ties", "ties"])
def test_equals_scipy(classes: int, values: int) -> None:
    student, teacher = logits(60, classes, values)
    expected = by_scipy(student, teacher)
    found = kendall_tau(student, teacher)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected.nan_to_num(0), rtol=0, atol=1e-12)
    assert found.max() > 0.5
    assert found.min() < -0.5
    torch.testing.assert_close(kendall_tau(teacher, student), found)


def test_a_row_without_an_order_has_none_to_agree_on() -> None:
    """SciPy gives NaN; in C2KD's code such a row is dropped as well, since NaN exceeds nothing."""
    student = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    teacher = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [0.0, 0.0, 0.0]])
    assert by_scipy(student, teacher).isnan().all()
    assert kendall_tau(student, teacher).tolist() == [0.0, 0.0, 0.0]


def test_ends_of_the_range_are_exact() -> None:
    row = torch.randn(4, 50)
    assert kendall_tau(row, row * 3 + 1).tolist() == [1.0] * 4
    assert kendall_tau(row, -row).tolist() == [-1.0] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_and_size_of_logits_change_ranks_alone(dtype: torch.dtype) -> None:
    student, teacher = (x.to(dtype) for x in logits(40, 10))
    expected = by_scipy(student, teacher)
    torch.testing.assert_close(kendall_tau(student, teacher).double(), expected, rtol=0, atol=1e-6)
    large, tiny = student.float() * 1e4, teacher.float() * 1e-30
    torch.testing.assert_close(kendall_tau(large, tiny).double(), expected, rtol=0, atol=1e-6)
    wide = torch.tensor([[-6e4, 6e4, 0.0]], dtype=torch.float16)
    assert kendall_tau(wide, wide).item() == 1


def test_shapes() -> None:
    student, teacher = logits(24, 5)
    stacked = kendall_tau(student.view(2, 12, 5), teacher.view(2, 12, 5))
    assert torch.equal(stacked, kendall_tau(student, teacher).view(2, 12))
    assert kendall_tau(student[:0], teacher[:0]).shape == (0,)
    assert kendall_tau(student[0], teacher[0]).shape == ()
    with pytest.raises(ValueError, match=r"\(24, 4\) and teacher \(24, 5\) differ"):
        kendall_tau(student[:, :4], teacher)


def test_needs_no_gradient_and_leaves_the_logits_alone() -> None:
    student, teacher = logits(8, 5)
    before = student.clone()
    assert not kendall_tau(student.requires_grad_(), teacher).requires_grad
    assert torch.equal(student, before)


def test_dense_rows() -> None:
    student, teacher = (x.float() for x in logits(50_000, 20))
    found = kendall_tau(student, teacher)
    some_rows = torch.arange(0, 50_000, 997)
    expected = by_scipy(student[some_rows], teacher[some_rows])
    torch.testing.assert_close(found[some_rows].double(), expected, rtol=0, atol=1e-6)
    assert math.isclose(float(found[0]), -1, abs_tol=0.5)
