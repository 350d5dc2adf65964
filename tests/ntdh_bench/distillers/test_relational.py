"""RKD against triple loops, and where float32 loses digits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers import relational
from ntdh_bench.distillers.functional import rkd
from tests.helpers import assert_bits


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def naive_distance(student: Tensor, teacher: Tensor) -> float:
    def distances(x: Tensor) -> list[float]:
        values = [float((i - j).norm()) for i in x for j in x]
        positive = [value for value in values if value > 0]
        return [value * len(positive) / sum(positive) for value in values]

    pairs = zip(distances(student), distances(teacher), strict=True)
    return sum(huber(s - t) for s, t in pairs) / len(student) ** 2


def naive_angle(student: Tensor, teacher: Tensor) -> float:
    def unit(x: Tensor) -> Tensor:
        return x / x.norm() if x.norm() > 0 else x

    def cosines(x: Tensor) -> list[float]:
        return [float(unit(i - j) @ unit(k - j)) for j in x for i in x for k in x]

    triplets = zip(cosines(student), cosines(teacher), strict=True)
    return sum(huber(s - t) for s, t in triplets) / len(student) ** 3


def draw(rows: int = 6, width: int = 5, other: int = 4) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(rows)
    student = torch.randn(rows, width, generator=stream, dtype=torch.float64)
    return student, torch.randn(rows, other, generator=stream, dtype=torch.float64)


@pytest.mark.parametrize("duplicates", [False, True])
def test_against_loops(duplicates: bool) -> None:
    student, teacher = draw()
    if duplicates:
        student[4] = student[1]
        teacher[5] = teacher[0]
    distance, angle = naive_distance(student, teacher), naive_angle(student, teacher)
    assert rkd(student, teacher, 1, 0).item() == pytest.approx(distance, rel=1e-10)
    assert rkd(student, teacher, 0, 1).item() == pytest.approx(angle, rel=1e-10)
    assert rkd(student, teacher).item() == pytest.approx(25 * distance + 50 * angle, rel=1e-10)


def reference(student: Tensor, teacher: Tensor) -> Tensor:
    """The angle loss from B x B x D differences."""

    def cosines(x: Tensor) -> Tensor:
        apart = x[None] - x[:, None]
        norm = apart.square().sum(2, keepdim=True)
        unit = apart * torch.where(norm > 0, norm, 1.0).rsqrt()
        return unit @ unit.transpose(1, 2)

    return torch.nn.functional.smooth_l1_loss(cosines(student), cosines(teacher))


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("chunk", [1, 300, 2**19])
def test_chunks_give_the_same(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relational, "CPU_CHUNK", chunk)
    student, teacher = (x.requires_grad_() for x in draw(rows=11))
    ours, expected = rkd(student, teacher, 0, 1), reference(student, teacher)
    torch.testing.assert_close(ours, expected)
    both = student, teacher
    torch.testing.assert_close(gradients(ours, *both), gradients(expected, *both))


@pytest.mark.parametrize("needed", ["student", "teacher"])
def test_gradient_of_one_side(needed: str) -> None:
    student, teacher = draw()
    wanted = student if needed == "student" else teacher
    wanted.requires_grad_()
    (ours,) = gradients(rkd(student, teacher, 0, 1) * 3, wanted)
    (expected,) = gradients(reference(student, teacher) * 3, wanted)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("closeness", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float32_keeps_digits(closeness: float, offset: float) -> None:
    """Clusters of near-duplicates, away from the origin: differences must not be lost."""
    stream = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 1, 16, generator=stream)
    spread = closeness * torch.randn(8, 4, 16, generator=stream)
    student = (centres + spread).flatten(0, 1) + offset
    teacher = torch.randn(32, 16, generator=stream)
    exact = student.double()  # of the same float32 numbers
    student.requires_grad_()
    exact.requires_grad_()
    ours, expected = rkd(student, teacher, 0, 1), reference(exact, teacher.double())
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    (ours_grad,), (expected_grad,) = gradients(ours, student), gradients(expected, exact)
    error = (ours_grad - expected_grad).abs().max() / expected_grad.abs().max()
    assert error < 1e-4


def test_rows_that_are_all_the_same() -> None:
    """Their distances are 0, not the rounding errors of products, and so are their cosines."""
    stream = torch.Generator().manual_seed(0)
    student = torch.rand(1, 37, generator=stream).repeat(50, 1).requires_grad_()
    teacher = torch.rand(50, 9, generator=stream)
    expected = reference(torch.zeros(50, 3).double(), teacher.double())
    loss = rkd(student, teacher, 0, 1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (gradients(loss, student)[0] == 0).all()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_members_with_close_rows_are_told_apart(side: str) -> None:
    """One of three needs more digits; each gets the same as alone."""
    stream = torch.Generator().manual_seed(0)
    student = torch.randn(3, 12, 8, generator=stream)
    teacher = torch.randn(3, 12, 6, generator=stream)
    near = student if side == "student" else teacher
    near[1, 3] = near[1, 7] * (1 + 1e-5)
    student.requires_grad_()
    ours = rkd(student, teacher, stacked=True)
    expected = torch.stack([rkd(s, t) for s, t in zip(student, teacher, strict=True)])
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    ours_grad, expected_grad = (gradients(x.sum(), student)[0] for x in (ours, expected))
    torch.testing.assert_close(ours_grad, expected_grad, rtol=1e-5, atol=1e-6)
    exact = rkd(student[1].double(), teacher[1].double())
    assert ours[1].item() == pytest.approx(exact.item(), rel=1e-6)


def test_translation_changes_nothing() -> None:
    student, teacher = draw()
    torch.testing.assert_close(rkd(student + 5, teacher - 3), rkd(student, teacher))


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_scale_changes_nothing_in_float32(scale: float) -> None:
    student, teacher = (x.float() for x in draw())
    torch.testing.assert_close(rkd(student * scale, teacher), rkd(student, teacher))


def test_no_large_tensor_is_kept() -> None:
    """Nothing of size B^3 or B^2 D may be saved for backward."""
    size, width = 24, 32
    sizes = []

    def record(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    student = torch.randn(size, width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(record, lambda x: x):
        rkd(student, torch.randn(size, width))
    assert max(sizes) <= size * max(size, width)


@pytest.mark.parametrize("rows", [64, 37])
def test_members_of_a_stack_have_the_bits_of_runs_alone(rows: int) -> None:
    stream = torch.Generator().manual_seed(rows)
    student, teacher = torch.randn(2, 5, rows, 16, generator=stream)
    student[1, 1] = student[1, 0] + 1e-3  # one member needs float64
    together, alone = (student.clone().requires_grad_() for _ in range(2))
    losses = rkd(together, teacher, stacked=True)
    losses.sum().backward()
    wanted = torch.stack([rkd(s, t) for s, t in zip(alone, teacher, strict=True)])
    wanted.sum().backward()
    torch.testing.assert_close(losses, wanted)
    assert together.grad is not None
    assert alone.grad is not None
    assert_bits(together.grad, alone.grad)


def test_the_mean_of_distances_is_rounded_as_pytorch_rounds_it() -> None:
    stream = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 1, 37, 37, generator=stream)
    ours, theirs = (student.clone().requires_grad_() for _ in range(2))
    (25.0 * relational._MeanSmoothL1.apply(ours, teacher)).sum().backward()
    (25.0 * torch.nn.functional.smooth_l1_loss(theirs, teacher)).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
