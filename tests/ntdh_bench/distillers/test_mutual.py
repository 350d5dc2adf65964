"""Losses of networks that learn from each other against loops over samples and classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers.mutual import mutual_kl
from tests.typed import some

Rows = list[list[float]]


def pair(rows: int = 6, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, rows, classes, generator=stream, dtype=torch.float64)
    return student.requires_grad_(), teacher.requires_grad_()


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    odds = [math.exp((value - max(row)) / temperature) for value in row]
    return [value / sum(odds) for value in odds]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def naive_kl(given: Rows, learner: Rows, temperature: float = 1.0) -> float:
    """The mean over rows of T^2 KL(given || learner)."""
    pairs = zip(given, learner, strict=True)
    rows = [divergence(softmax(p, temperature), softmax(q, temperature)) for p, q in pairs]
    return temperature**2 * sum(rows) / len(rows)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("rows", "classes"), [(6, 5), (1, 5), (7, 2)])
def test_mutual_kl_is_the_sum_of_both_ways(rows: int, classes: int, temperature: float) -> None:
    student, teacher = pair(rows, classes)
    a, b = student.tolist(), teacher.tolist()
    expected = naive_kl(b, a, temperature) + naive_kl(a, b, temperature)
    assert mutual_kl(student, teacher, temperature).item() == pytest.approx(expected, abs=1e-12)
    swapped = mutual_kl(teacher, student, temperature).item()
    assert swapped == pytest.approx(expected, abs=1e-12)


def test_each_network_takes_the_other_as_given() -> None:
    """The gradient of T^2 KL(p || softmax(z / T)) is T (softmax(z / T) - p) / N, p being fixed."""
    student, teacher = pair()
    mutual_kl(student, teacher, 2.0).backward()
    p, q = (logits.detach().div(2.0).softmax(1) for logits in (teacher, student))
    torch.testing.assert_close(some(student.grad), 2.0 * (q - p) / 6)
    torch.testing.assert_close(some(teacher.grad), 2.0 * (p - q) / 6)


def test_edges_of_mutual_kl() -> None:
    student, teacher = pair()
    assert mutual_kl(student, student.detach().clone()).item() == 0
    loss = mutual_kl(student[:0], teacher[:0])
    loss.backward()
    assert loss.item() == 0
    assert (some(student.grad) == 0).all()
    large, other = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert mutual_kl(large.requires_grad_(), other).item() == pytest.approx(4e4)
    half = mutual_kl(student.detach().half(), teacher.detach().half())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(mutual_kl(student, teacher).item(), rel=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = mutual_kl(student, teacher)
    assert inside.dtype == torch.float64
