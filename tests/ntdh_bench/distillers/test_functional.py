"""The losses against loops written from their papers, and what every one of them must stand."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers import functional, logits, predictions
from ntdh_bench.distillers.functional import at, cc, dkd, fitnet, kd, pkt, reviewkd, rkd, sp, vid
from ntdh_bench.distillers.precision import unit_rows
from tests.helpers import assert_bits
from tests.typed import some

Loss = Callable[..., Tensor]
RELATIONAL: list[Loss] = [cc, rkd, pkt, sp]


def draw(rows: int = 6, width: int = 5, other: int | None = None) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(rows + width)
    student = torch.randn(rows, width, generator=stream, dtype=torch.float64)
    return student, torch.randn(rows, other or width, generator=stream, dtype=torch.float64)


def targets(rows: int, classes: int) -> Tensor:
    return torch.arange(rows) % classes


def of_pairs(loss: Loss) -> Loss:
    """A loss of student and teacher alone; of targets too, where it takes any."""
    if "target" not in inspect.signature(loss).parameters:
        return loss
    return lambda student, teacher: loss(
        student, teacher, targets(*student.shape[-2:]).expand(student.shape[:-1])
    )


def at_of_rows(student: Tensor, teacher: Tensor, *, stacked: bool = False) -> Tensor:
    """AT of maps with one channel, and a position for every value of a row."""
    return at(student.unsqueeze(-2), teacher.unsqueeze(-2), stacked=stacked)


def reviewkd_of_rows(student: Tensor, teacher: Tensor, *, stacked: bool = False) -> Tensor:
    """ReviewKD's loss of maps of one row, whose averages are not compared."""
    maps = (x[..., None, None, :] for x in (student, teacher))
    return reviewkd(*maps, stacked=stacked)


def vid_of_rows(student: Tensor, teacher: Tensor, *, stacked: bool = False) -> Tensor:
    """VID with variances of 1, whose logarithm adds nothing."""
    variance = torch.ones(*student.shape[: int(stacked)], student.shape[-1])
    return vid(student, teacher, variance, stacked=stacked)


#: Those of the package but CRD's, which has a memory and tests of its own.
EVERY = {
    **{name: of_pairs(getattr(functional, name)) for name in functional.__all__ if name != "crd"},
    "at": at_of_rows,
    "reviewkd": reviewkd_of_rows,
    "vid": vid_of_rows,
}
every = pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)


def softmax(row: Tensor, temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in row.tolist()]
    return [power / sum(powers) for power in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def naive_kd(student: Tensor, teacher: Tensor, temperature: float) -> float:
    rows = zip(teacher, student, strict=True)
    values = [kl(softmax(t, temperature), softmax(s, temperature)) for t, s in rows]
    return temperature**2 * sum(values) / len(values)


def naive_dkd(
    student: Tensor, teacher: Tensor, target: Tensor, a: float, b: float, temperature: float
) -> float:
    total = 0.0
    for s, t, k in zip(student, teacher, target.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total += a * kl([p[k], 1 - p[k]], [q[k], 1 - q[k]])
        p_hat = [x / (1 - p[k]) for i, x in enumerate(p) if i != k]
        q_hat = [x / (1 - q[k]) for i, x in enumerate(q) if i != k]
        total += b * kl(p_hat, q_hat)
    return temperature**2 * total / len(student)


def naive_pkt(student: Tensor, teacher: Tensor) -> float:
    def affinities(x: Tensor) -> list[list[float]]:
        rows = []
        for i in x:
            cosines = [float(i @ j) / (float(i.norm()) * float(j.norm())) for j in x]
            rows.append([(c + 1) / 2 for c in cosines])
        return [[a / sum(row) for a in row] for row in rows]

    p, q = affinities(teacher), affinities(student)
    size = len(student)
    pairs = [(p[i][j], q[i][j]) for i in range(size) for j in range(size)]
    return sum(a * math.log((a + 1e-7) / (b + 1e-7)) for a, b in pairs) / size**2


def naive_sp(student: Tensor, teacher: Tensor) -> float:
    def similarities(x: Tensor) -> list[list[float]]:
        gram = [[float(i @ j) for j in x] for i in x]
        return [[g / math.sqrt(sum(h * h for h in row)) for g in row] for row in gram]

    g, h = similarities(teacher), similarities(student)
    size = len(student)
    return sum((g[i][j] - h[i][j]) ** 2 for i in range(size) for j in range(size)) / size**2


OF_LOGITS = {**vars(logits), **vars(predictions)}
#: A call on logits (K, N, C) or features (K, N, D) at once, and the call of one member.
STACKED: dict[str, tuple[Loss, Loss]] = {
    name: (functools.partial(loss, stacked=True), loss)
    for name, loss in EVERY.items()
    if "stacked" in inspect.signature(loss).parameters
} | {name: (loss, loss) for name, loss in EVERY.items() if name in OF_LOGITS}
#: Cross entropies, which do not vanish where both agree, and a temperature of the teacher's alone.
NOT_ZERO = {"nkd", "ofa", "wttm"}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd(temperature: float) -> None:
    student, teacher = draw()
    expected = naive_kd(student, teacher, temperature)
    assert kd(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1, 8, 4), (0.5, 0.5, 1), (2, 0, 0.7)])
def test_dkd(alpha: float, beta: float, temperature: float) -> None:
    student, teacher = draw()
    target = targets(*student.shape)
    expected = naive_dkd(student, teacher, target, alpha, beta, temperature)
    actual = dkd(student, teacher, target, alpha, beta, temperature)
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_fitnet() -> None:
    student, teacher = draw()
    errors = [(a - b) ** 2 for a, b in zip(student.flatten(), teacher.flatten(), strict=True)]
    assert fitnet(student, teacher).item() == pytest.approx(float(sum(errors)) / len(errors))


@pytest.mark.parametrize(("loss", "naive"), [(pkt, naive_pkt), (sp, naive_sp)])
def test_pkt_and_sp(loss: Loss, naive: Callable[[Tensor, Tensor], float]) -> None:
    student, teacher = draw(other=9)
    assert loss(student, teacher).item() == pytest.approx(naive(student, teacher), rel=1e-6)


@every
def test_gradcheck(loss: Loss) -> None:
    student, teacher = draw(rows=4, width=3)
    student.requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(loss, (student, teacher))


@pytest.mark.parametrize("name", sorted(EVERY.keys() - NOT_ZERO))
def test_same_is_zero(name: str) -> None:
    student, _ = draw()
    student.requires_grad_()
    value = EVERY[name](student, student.detach())
    value.backward()
    # DIST adds 1e-8 to the norms, PKT 1e-7.
    assert value.item() == pytest.approx(0, abs=1e-6 if name == "dist" else 1e-12)
    assert some(student.grad).abs().max() < 1e-7


def orthogonal(width: int) -> Tensor:
    stream = torch.Generator().manual_seed(1)
    return torch.linalg.qr(torch.randn(width, width, generator=stream, dtype=torch.float64))[0]


@pytest.mark.parametrize("loss", RELATIONAL)
def test_invariant_to_rotation_and_scale(loss: Loss) -> None:
    student, teacher = draw()
    expected = loss(student, teacher)
    torch.testing.assert_close(loss(student @ orthogonal(5), teacher), expected)
    # PKT adds 1e-7 to the norms, so it is invariant up to that.
    torch.testing.assert_close(loss(student * 1e3, teacher * 1e2), expected, rtol=1e-5, atol=0.0)


def test_pkt_is_invariant_to_the_scale_of_each_row() -> None:
    student, teacher = draw()
    scale = torch.linspace(0.5, 7, len(student), dtype=student.dtype)[:, None]
    torch.testing.assert_close(
        pkt(student * scale, teacher), pkt(student, teacher), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("name", EVERY)
def test_permuting_the_batch_changes_nothing(name: str) -> None:
    loss: Loss = getattr(functional, name)
    extra = (targets(5, 5),) if "target" in inspect.signature(loss).parameters else ()
    if not extra:
        loss = EVERY[name]
    rows, order = (*draw(rows=5, width=5), *extra), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(loss(*(x[order] for x in rows)), loss(*rows))


def edge_cases() -> dict[str, tuple[Tensor, Tensor]]:
    student, teacher = (x.float() for x in draw())
    zero_row, same_rows, near = student.clone(), student.clone(), student.clone()
    zero_row[2] = 0
    same_rows[3] = same_rows[1]
    near[3] = near[1] * (1 + 1e-6)
    return {
        "one row": (student[:1], teacher[:1]),
        "two rows": (student[:2], teacher[:2]),
        "no row": (student[:0], teacher[:0]),
        "zero row": (zero_row, teacher),
        "zero row in both": (zero_row, zero_row * 2),
        "all zero": (torch.zeros_like(student), teacher),
        "all zero in both": (torch.zeros_like(student), torch.zeros_like(student)),
        "one zero row alone": (torch.zeros(1, 5), torch.zeros(1, 5)),
        "same rows": (same_rows, teacher),
        "same rows in the teacher": (student, same_rows),
        "all rows the same": (student[:1].repeat(6, 1), teacher),
        "near-duplicates": (near, teacher),
        "large": (student * 1e4, teacher * 1e4),
        "small": (student * 1e-6, teacher * 1e-6),
    }


@pytest.mark.parametrize("case", edge_cases())
@every
def test_finite(loss: Loss, case: str) -> None:
    student, teacher = edge_cases()[case]
    student.requires_grad_()
    teacher.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite()
    for x in (student, teacher):
        assert some(x.grad).isfinite().all()
    if case == "no row":
        assert value == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every
def test_half_precision_is_promoted(loss: Loss, dtype: torch.dtype) -> None:
    student, teacher = (x.to(dtype) * 50 for x in draw())
    leaf = student.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(leaf, teacher)
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.detach(), loss(student.float(), teacher.float()))
    assert leaf.grad is not None
    assert leaf.grad.dtype == dtype
    assert leaf.grad.isfinite().all()


@every
def test_autocast_does_not_reach_inside(loss: Loss) -> None:
    student, teacher = (x.float() for x in draw())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    torch.testing.assert_close(value, loss(student, teacher), rtol=0, atol=0)


@every
def test_float64_stays(loss: Loss) -> None:
    student, teacher = draw()
    assert loss(student, teacher.float()).dtype == torch.float64


def test_sp_does_not_overflow() -> None:
    student, teacher = (x.float() for x in draw())
    torch.testing.assert_close(sp(student * 1e15, teacher * 1e-15), sp(student, teacher))


def test_sp_takes_feature_maps() -> None:
    student, teacher = torch.randn(4, 3, 2, 2), torch.randn(4, 2, 5, 5)
    for loss in RELATIONAL:
        torch.testing.assert_close(
            loss(student, teacher), loss(student.flatten(1), teacher.flatten(1))
        )


def test_unit_rows() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit = unit_rows(x)
    torch.testing.assert_close(unit.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    (unit * torch.tensor([1.0, 2.0])).sum().backward()
    assert (some(x.grad)[1] == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, t: kd(s, t[:, :-1]), "differ"),
        (lambda s, t: kd(s, t, 0.0), "temperature"),
        (lambda s, t: dkd(s, t, targets(6, 5), temperature=-1.0), "temperature"),
        (lambda s, t: dkd(s, t, targets(6, 7)), "classes"),
        (lambda s, t: fitnet(s, t[:, :-1]), "differ"),
        (lambda s, t: rkd(s, t[:-1]), "rows"),
        (lambda s, t: sp(s[:-1], t), "rows"),
    ],
)
def test_bad_arguments(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*draw())


def assert_stacked_is_single(stacked: Loss, single: Loss, *sides: Tensor, rel: float) -> None:
    """Of ``(K, N, ...)``, in value and in the gradients of both sides."""
    leaves = [x.clone().requires_grad_() for x in sides]
    ours = stacked(*leaves)
    expected = torch.stack([single(*pair) for pair in zip(*leaves, strict=True)])
    scale = expected.detach().abs().amax().item()
    torch.testing.assert_close(ours, expected, rtol=rel, atol=rel * min(1, scale))
    slopes = torch.linspace(0.5, 3, len(ours), dtype=ours.dtype)
    gradients = (torch.autograd.grad(loss, leaves, slopes) for loss in (ours, expected))
    for one, other in zip(*gradients, strict=True):
        # Where a gradient of about 1 cancels, its rounding errors are what is left.
        scale = max(other.abs().max().item(), 1e-2) if other.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=rel, atol=rel * scale)


def members(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Three members, of which the second has teacher and student swapped if both are of a size."""
    swapped = (teacher, student) if student.shape == teacher.shape else (student.flip(0), teacher)
    pairs = [(student, teacher), swapped, (student * 3, teacher.flip(0))]
    students, teachers = zip(*pairs, strict=True)
    return torch.stack(students), torch.stack(teachers)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("case", edge_cases())
@pytest.mark.parametrize("name", STACKED)
def test_a_stack_is_its_members(name: str, case: str, dtype: torch.dtype, rel: float) -> None:
    sides = members(*(x.to(dtype) for x in edge_cases()[case]))
    assert_stacked_is_single(*STACKED[name], *sides, rel=rel)


@pytest.mark.parametrize(("rows", "width"), [(64, 128), (37, 10), (6, 9)])
@pytest.mark.parametrize("name", STACKED)
def test_a_member_has_the_bits_of_a_call_of_its_own(name: str, rows: int, width: int) -> None:
    """On a CPU in float32: gradients, so a run is trained the same in a stack as alone."""
    stream = torch.Generator().manual_seed(0)
    sides = [torch.randn(3, rows, width, generator=stream) for _ in range(2)]
    stacked, single = STACKED[name]
    together, alone = ([x.clone().requires_grad_() for x in sides] for _ in range(2))
    ours = stacked(*together)
    expected = torch.stack([single(*pair) for pair in zip(*alone, strict=True)])
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)  # several threads sum otherwise
    weights = torch.tensor([0.3, 1.0, 77.0])
    for one, other in zip(
        torch.autograd.grad(ours, together, weights),
        torch.autograd.grad(expected, alone, weights),
        strict=True,
    ):
        assert_bits(one, other)


@pytest.mark.parametrize("name", ["rkd", "pkt", "sp", "cc", "fitnet"])
def test_a_stack_of_feature_maps(name: str) -> None:
    stream = torch.Generator().manual_seed(0)
    width = 2 if name == "fitnet" else 3
    student = torch.randn(2, 4, 2, 3, 3, generator=stream, dtype=torch.float64)
    teacher = torch.randn(2, 4, width, 3, 3, generator=stream, dtype=torch.float64)
    assert_stacked_is_single(*STACKED[name], student, teacher, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", STACKED)
def test_a_stack_under_autocast(name: str, dtype: torch.dtype) -> None:
    stacked, single = STACKED[name]
    student, teacher = members(*(x.to(dtype) * 50 for x in draw()))
    with torch.autocast("cpu", dtype=dtype):
        ours = stacked(student, teacher)
    expected = torch.stack([single(*pair) for pair in zip(student, teacher, strict=True)])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_numbers_of_members(dtype: torch.dtype, rel: float) -> None:
    """Float64 numbers do not make float32 losses float64."""
    sides = [x.to(dtype) for x in members(*draw())]
    target = torch.stack([targets(6, 5).roll(k) for k in range(3)])
    calls: list[tuple[Loss, list[Tensor], list[Tensor], dict[str, bool]]] = [
        (kd, [], [numbers(0.1, 1.7, 4)], {}),
        (dkd, [target], [numbers(0, 0.3, 2), numbers(8, 0, 0.7), numbers(1, 3.3, 0.6)], {}),
        (rkd, [], [numbers(25, 0, 1.3), numbers(0, 50, 0.7)], {"stacked": True}),
    ]
    for loss, extra, of_members, keyword in calls:
        ours = loss(*sides, *extra, *of_members, **keyword)
        assert ours.dtype == dtype
        for k, value in enumerate(ours):
            single = (float(number[k]) for number in of_members)
            expected = loss(*(x[k] for x in (*sides, *extra)), *single)
            torch.testing.assert_close(value, expected, rtol=rel, atol=0)


def test_rows_of_a_stack_must_fit() -> None:
    student, teacher = members(*draw())
    for bad in (teacher[:2], teacher[:, :5]):
        with pytest.raises(ValueError, match="rows"):
            sp(student, bad, stacked=True)
    for loss in (kd, of_pairs(dkd)):
        with pytest.raises(ValueError, match=r"\(K, N, C\)"):
            loss(student[None], teacher[None])
    with pytest.raises(ValueError, match="temperature"):
        kd(student, teacher, numbers(1, 0, 2))
