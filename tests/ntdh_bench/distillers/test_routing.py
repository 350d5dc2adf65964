"""A gate's losses against loops over rows and teachers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers.routing import imbalance, routed_kl
from tests.ntdh_bench.distillers.test_mutual import divergence, softmax
from tests.typed import some


def given(rows: int = 6, classes: int = 5, teachers: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 2 * torch.randn(*shape, generator=stream, dtype=torch.float64)

    student, gate = draw(rows, classes).requires_grad_(), draw(rows, teachers).requires_grad_()
    return student, draw(teachers, rows, classes), gate


def naive(student: Tensor, teachers: Tensor, gate: Tensor, top: int) -> float:
    total = 0.0
    for n in range(len(student)):
        odds = softmax(gate[n].tolist())
        best = sorted(range(len(odds)), key=lambda w: -odds[w])[:top]
        for w in best:
            p, q = (softmax(row.tolist(), 4.0) for row in (teachers[w, n], student[n]))
            total += odds[w] / sum(odds[v] for v in best) * 16 * divergence(p, q)
    return total / len(student)


@pytest.mark.parametrize("top", [None, 1, 2, 3])
@pytest.mark.parametrize(("rows", "classes"), [(6, 5), (1, 2)])
def test_the_gate_weighs_the_teachers(top: int | None, rows: int, classes: int) -> None:
    student, teachers, gate = given(rows, classes)
    found = routed_kl(student, teachers, gate.log_softmax(1), 4.0, top)
    assert found.item() == pytest.approx(naive(student, teachers, gate, top or 3), abs=1e-12)


@pytest.mark.parametrize("top", [None, 2])
def test_gradients_of_the_gate_are_right(top: int | None) -> None:
    student, teachers, gate = given()

    def loss(student: Tensor, gate: Tensor) -> Tensor:
        return routed_kl(student, teachers, gate.log_softmax(1), 4.0, top)

    assert torch.autograd.gradcheck(loss, (student, gate))


def test_the_gate_learns_which_teacher_to_follow() -> None:
    """In the authors' code the gate enters by an index alone; here by its probabilities."""
    student, teachers, gate = given()
    by_index = routed_kl(student, teachers, gate.log_softmax(1), top=1)
    by_index.backward()
    assert (some(gate.grad) == 0).all()
    gate.grad = None
    teachers[1] = student.detach() + 0.01 * teachers[1]  # the one that is easy to follow
    optimizer = torch.optim.SGD([gate], 2.0)
    for _ in range(200):
        optimizer.zero_grad()
        routed_kl(student, teachers, gate.log_softmax(1)).backward()
        optimizer.step()
    assert (gate.argmax(1) == 1).all()


def test_teachers_are_taken_as_given() -> None:
    student, teachers, gate = given()
    routed_kl(student, teachers.requires_grad_(), gate.log_softmax(1)).backward()
    assert teachers.grad is None
    assert some(student.grad).abs().sum() > 0


def test_imbalance_is_the_divergence_from_equal_use() -> None:
    _, _, gate = given()
    mean = gate.detach().softmax(1).mean(0).tolist()
    expected = divergence([1 / 3] * 3, mean)
    assert imbalance(gate.log_softmax(1)).item() == pytest.approx(expected, abs=1e-12)
    published = expected / 3  # divided by the number of teachers, as if they were rows
    kl = torch.nn.KLDivLoss(reduction="batchmean")
    theirs = kl(torch.tensor(mean).log(), torch.full((3,), 1 / 3))
    assert theirs.item() == pytest.approx(published, abs=1e-6)
    assert imbalance(torch.zeros(4, 3).log_softmax(1)).item() == pytest.approx(0, abs=1e-6)
    one_sided = torch.tensor([[1e4, 0.0]], requires_grad=True)
    value = imbalance(one_sided.log_softmax(1))
    value.backward()
    assert value.item() == pytest.approx(5000 - math.log(2), rel=1e-4)
    assert some(one_sided.grad).isfinite().all()


def test_edges_of_the_gate() -> None:
    student, teachers, gate = given()
    log_gate = gate.log_softmax(1)
    none = routed_kl(student[:0], teachers[:, :0], log_gate[:0])
    none.backward()
    assert none.item() == 0
    same = teachers * 0 + student.detach()
    assert routed_kl(student, same, log_gate).item() == pytest.approx(0, abs=1e-12)
    large = routed_kl(student.float() * 1e4, teachers.float() * 1e4, log_gate.float())
    assert large.isfinite()
    half = routed_kl(student.half(), teachers.half(), log_gate.half())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(routed_kl(student, teachers, log_gate).item(), rel=2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert routed_kl(student, teachers, log_gate).dtype == torch.float64
        assert imbalance(log_gate).dtype == torch.float64
