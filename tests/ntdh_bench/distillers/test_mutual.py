"""Losses of networks that learn from each other against loops over samples and classes."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from ntdh_bench.distillers.mutual import Distance, joint_distance, mutual_kl, selected_nckl
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


# -- the selection of C2KD -----------------------------------------------------------------------


def naive_selected(
    given: Rows, learner: Rows, target: list[int], threshold: float, *, as_published: bool = False
) -> tuple[float, int]:
    """The sum over selected rows of KL(given || learner) without the target, and their number.

    As published: in the authors' code the target's logit becomes 0 and stays among the others.
    """
    total, selected = 0.0, 0
    for p, q, k in zip(given, learner, target, strict=True):
        if not kendalltau(p, q).statistic > threshold:
            continue
        if as_published:
            p, q = ([0.0 if c == k else v for c, v in enumerate(row)] for row in (p, q))
        else:
            p, q = ([v for c, v in enumerate(row) if c != k] for row in (p, q))
        total += divergence(softmax(p), softmax(q))
        selected += 1
    return total, selected


def agreeing(rows: int = 12, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of which some agree; the fourth has a constant student."""
    student, teacher = (logits.detach() for logits in pair(rows, classes, 3))
    student = student + 0.5 * teacher
    if rows > 3:
        student[3] = 1.0
    target = torch.arange(rows) % classes
    return student.requires_grad_(), teacher.requires_grad_(), target


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.4])
@pytest.mark.parametrize(("rows", "classes"), [(12, 5), (1, 4), (9, 3)])
def test_the_selection_is_the_mean_of_rows_that_agree(
    rows: int, classes: int, threshold: float
) -> None:
    student, teacher, target = agreeing(rows, classes)
    a, b = student.tolist(), teacher.tolist()
    to_student, count = naive_selected(b, a, target.tolist(), threshold)
    to_teacher, _ = naive_selected(a, b, target.tolist(), threshold)
    if threshold == -1 and rows > 3:  # a row without an order has the tau 0, and is one of them
        only = [torch.tensor([3])]
        to_student += selected_nckl(student[only], teacher[only], target[only], -1).item()
        count += 1
    expected = (to_student + to_teacher) / max(count, 1)
    found = selected_nckl(student, teacher, target, threshold)
    assert found.item() == pytest.approx(expected, abs=1e-12)
    assert rows == 1 or count > 0
    assert rows == 1 or count < rows or threshold == -1


def test_the_authors_of_c2kd_keep_mass_on_the_target_and_divide_by_all_rows() -> None:
    """Two faults of their ``ntkl`` that ours does not have, each shown by itself."""
    student, teacher, target = agreeing()
    a, b, k = student.tolist(), teacher.tolist(), target.tolist()
    ours = selected_nckl(student, teacher, target).item()

    def both(as_published: bool) -> tuple[float, int]:
        one, count = naive_selected(b, a, k, 0.0, as_published=as_published)
        other, _ = naive_selected(a, b, k, 0.0, as_published=as_published)
        return one + other, count

    (sound, count), (zeroed, _) = both(False), both(True)
    assert ours == pytest.approx(sound / count, abs=1e-12)
    assert abs(zeroed / count - ours) > 0.05 * ours  # the target at exp(0) among the others
    assert sound / len(k) == pytest.approx(ours * count / len(k), abs=1e-12)
    assert count < len(k)
    shifted = selected_nckl(student + 7.0, teacher - 3.0, target).item()
    assert shifted == pytest.approx(ours, abs=1e-9)  # softmax does not see a constant ...
    moved, _ = naive_selected(
        (teacher - 3.0).tolist(), (student + 7.0).tolist(), k, 0.0, as_published=True
    )
    one, _ = naive_selected(b, a, k, 0.0, as_published=True)
    assert abs(moved - one) > 0.1 * one  # ... and theirs does


def test_gradients_of_the_selection() -> None:
    student, teacher, target = agreeing()
    selected_nckl(student, teacher, target).backward()
    grads = some(student.grad), some(teacher.grad)
    agree = [
        kendalltau(a, b).statistic > 0
        for a, b in zip(*map(_lists, (student, teacher)), strict=True)
    ]
    for grad, other in zip(grads, (teacher, student), strict=True):
        assert (grad.abs().sum(1) > 0).tolist() == agree
        on_target = grad.gather(1, target.unsqueeze(1))
        assert (on_target == 0).all()
        assert torch.allclose(grad.sum(1), torch.zeros(len(grad), dtype=torch.float64), atol=1e-12)
        assert other.grad is not None
    rest = [c for c in range(5) if c != int(target[0])]
    p, q = teacher.detach()[0, rest].softmax(0), student.detach()[0, rest].softmax(0)
    assert agree[0]
    torch.testing.assert_close(grads[0][0, rest], (q - p) / sum(agree))


def _lists(logits: Tensor) -> Rows:
    rows: Rows = logits.tolist()
    return rows


def test_edges_of_the_selection() -> None:
    student, teacher, target = agreeing()
    none = selected_nckl(student, -student.detach(), target)
    none.backward()
    assert none.item() == 0
    assert (some(student.grad) == 0).all()
    assert selected_nckl(student, teacher, target, 1.0).item() == 0
    empty = selected_nckl(student[:0], teacher[:0], target[:0])
    empty.backward()
    assert empty.item() == 0
    two = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    assert selected_nckl(two, 2 * two, torch.tensor([0, 1])).item() == 0  # one class is left
    large = 1e4 * torch.tensor([[3.0, -1.0, 0.5, 0.0], [1.0, 0.9, 0.5, 0.0]], requires_grad=True)
    value = selected_nckl(large, large.detach() / 2, torch.tensor([0, 1]))
    value.backward()
    assert value.isfinite()
    half = selected_nckl(student.detach().half(), teacher.detach().half(), target)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(selected_nckl(student, teacher, target).item(), rel=2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert selected_nckl(student, teacher, target).dtype == torch.float64


@pytest.mark.parametrize("kind", ["kl", "ncjsd"])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_a_joint_distance_is_finite_and_reaches_both(kind: Distance, size: float) -> None:
    logits = [(size * x.detach().float().sign()).requires_grad_() for x in pair()]
    distance = joint_distance(*logits, torch.arange(6) % 5, kind)
    distance.backward()
    assert 0 < distance.item() < math.inf
    for side in logits:
        assert some(side.grad).isfinite().all()
        assert size > 1 or some(side.grad).abs().sum() > 0


def test_a_joint_distance_of_members_is_that_of_each_bit_for_bit() -> None:
    student, teacher = (
        torch.stack([x.detach().float() for x in pair(rows=33, seed=s)]) for s in (0, 1)
    )
    target = torch.arange(66).view(2, 33) % 5
    for kind in ("kl", "ncjsd"):
        found = joint_distance(student, teacher, target, kind)
        alone = [
            joint_distance(s, t, y, kind) for s, t, y in zip(student, teacher, target, strict=True)
        ]
        assert torch.equal(found, torch.stack(alone))
    none = torch.zeros(0, 5, requires_grad=True)
    joint_distance(none, none, torch.zeros(0, dtype=torch.int64), "ncjsd").backward()
