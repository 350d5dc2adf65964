from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ntdh_bench.divergence import flatten_dense, kl, ncjsd, nckl, target_nontarget, tcjsd, tckl
from ntdh_bench.errors import UserError
from tests.typed import some

Divergence = Callable[..., Tensor]
ALL: list[Divergence] = [tckl, nckl, tcjsd, ncjsd]


def two_way_tckl(a: Tensor, b: Tensor, target: Tensor) -> Tensor:
    return tckl(a, b, target, binary=True)


def two_way_tcjsd(a: Tensor, b: Tensor, target: Tensor) -> Tensor:
    return tcjsd(a, b, target, binary=True)


def probabilities(logits: Tensor, target: int) -> tuple[float, list[float]]:
    """p_k and p_hat of one row, straight from the equations."""
    powers = [math.exp(z) for z in logits.tolist()]
    rest = sum(powers) - powers[target]
    others = [power / rest for i, power in enumerate(powers) if i != target]
    return powers[target] / sum(powers), others


def naive(name: str, a: Tensor, b: Tensor, target: Tensor) -> list[float]:
    """Eq. 5, 6, 19, 20 row by row."""
    values = []
    for row_a, row_b, k in zip(a, b, target.tolist(), strict=True):
        (p, p_hat), (q, q_hat) = probabilities(row_a, k), probabilities(row_b, k)
        pairs = list(zip(p_hat, q_hat, strict=True))
        if name == "tckl":
            values.append(p * math.log(p / q))
        elif name == "two_way_tckl":
            values.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        elif name == "nckl":
            values.append(sum(x * math.log(x / y) for x, y in pairs))
        elif name == "tcjsd":
            values.append(js_term(p, q))
        elif name == "two_way_tcjsd":
            values.append(js_term(p, q) + js_term(1 - p, 1 - q))
        else:
            values.append(sum(js_term(x, y) for x, y in pairs))
    return values


def js_term(p: float, q: float) -> float:
    m = (p + q) / 2
    return 0.5 * p * math.log(p / m) + 0.5 * q * math.log(q / m)


def draw(
    rows: int = 7, classes: int = 5, scale: float = 2.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(rows + classes)
    a = torch.randn(rows, classes, generator=stream, dtype=dtype) * scale
    b = torch.randn(rows, classes, generator=stream, dtype=dtype) * scale
    return a, b, torch.randint(classes, (rows,), generator=stream)


@pytest.mark.parametrize("function", [*ALL, two_way_tckl, two_way_tcjsd])
def test_equations(function: Divergence) -> None:
    a, b, target = draw()
    expected = torch.tensor(naive(function.__name__, a, b, target), dtype=torch.float64)
    torch.testing.assert_close(function(a, b, target), expected, rtol=1e-12, atol=1e-14)


def test_target_nontarget() -> None:
    a, _, target = draw(classes=4)
    log_p, log_rest, log_hat = target_nontarget(a, target)
    for i, k in enumerate(target.tolist()):
        p, p_hat = probabilities(a[i], k)
        assert log_p[i].exp().item() == pytest.approx(p)
        assert log_rest[i].exp().item() == pytest.approx(1 - p)
        assert log_hat[i].exp().tolist() == pytest.approx(p_hat)


@pytest.mark.parametrize("function", [*ALL, two_way_tckl, two_way_tcjsd])
def test_gradcheck(function: Divergence) -> None:
    a, b, target = draw(rows=3)
    a.requires_grad_()
    b.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: function(x, y, target), (a, b))


@pytest.mark.parametrize("function", [*ALL, two_way_tckl, two_way_tcjsd])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_for_extreme_logits(function: Divergence, dtype: torch.dtype) -> None:
    a, b, target = draw(rows=200, classes=10, dtype=dtype)
    a, b = (a.sign() * 1e4).requires_grad_(), (b * 3e3).clamp(-1e4, 1e4).requires_grad_()
    value = function(a, b, target)
    value.sum().backward()
    assert value.isfinite().all()
    for logits in (a, b):
        assert some(logits.grad).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_js_bounds(dtype: torch.dtype) -> None:
    target = torch.zeros(4, dtype=torch.int64)
    a = torch.tensor([[0.0, 50, 0, 0], [0, 0, 1e4, 0], [0, 1, 2, 3], [9, 1, 1, 1]], dtype=dtype)
    b = torch.tensor([[0.0, 0, 50, 0], [0, 1e4, 0, 0], [0, 1, 2, 3], [-9, 1, 1, 1]], dtype=dtype)
    for value in (ncjsd(a, b, target), two_way_tcjsd(a, b, target), tcjsd(a, b, target)):
        assert value.min().item() >= 0
        assert value.max().item() <= math.log(2)
    assert ncjsd(a, b, target).tolist() == pytest.approx([math.log(2)] * 2 + [0, 0], abs=1e-6)


@pytest.mark.parametrize("function", [*ALL, two_way_tckl, two_way_tcjsd])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_inputs(function: Divergence, dtype: torch.dtype) -> None:
    a, _, target = draw(rows=50, classes=10, dtype=dtype)
    b = a.clone().requires_grad_()
    value = function(a, b, target)
    value.sum().backward()
    assert (value == 0).all()
    assert b.grad is not None
    if function is tckl:  # Eq. 19 alone has no minimum there: d/dq of p log(p / q) is -p / q
        assert b.grad.isfinite().all()
    else:
        assert b.grad.abs().max() < 1e-6 if function is nckl else b.grad.abs().max() < 1e-7


@pytest.mark.parametrize("function", [nckl, ncjsd])
def test_two_classes_leave_one_other(function: Divergence) -> None:
    a, b, target = draw(classes=2)
    b.requires_grad_()
    value = function(a, b, target)
    value.sum().backward()
    assert (value == 0).all()
    assert (some(b.grad) == 0).all()


def test_js_is_symmetric_and_kl_is_not() -> None:
    a, b, target = draw()
    torch.testing.assert_close(ncjsd(a, b, target), ncjsd(b, a, target))
    torch.testing.assert_close(tcjsd(a, b, target), tcjsd(b, a, target))
    assert not torch.allclose(nckl(a, b, target), nckl(b, a, target))


@pytest.mark.parametrize("function", ALL)
def test_shift_of_logits_changes_nothing(function: Divergence) -> None:
    a, b, target = draw()
    torch.testing.assert_close(function(a + 100, b - 7, target), function(a, b, target))


@pytest.mark.parametrize("function", [nckl, ncjsd])
def test_target_logit_does_not_matter(function: Divergence) -> None:
    a, b, target = draw()
    moved = a.scatter_add(1, target[:, None], torch.full((len(a), 1), 500.0, dtype=a.dtype))
    torch.testing.assert_close(function(moved, b, target), function(a, b, target))


def test_kl_its_parts_and_its_bound() -> None:
    """KL = two-way TCKL + (1 - p_k) NCKL (Zhao et al., Eq. 5), at most their sum (Eq. 16-18)."""
    a, b, target = draw(rows=40)
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    whole = (log_p.exp() * (log_p - log_q)).sum(1)
    binary, others = two_way_tckl(a, b, target), nckl(a, b, target)
    torch.testing.assert_close(kl(a, b), whole)
    rest = 1 - a.softmax(1).gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(binary + rest * others, whole)
    assert (whole <= binary + others).all()
    extreme = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], requires_grad=True)
    value = kl(extreme, extreme.flip(1).detach())
    value.sum().backward()
    assert value.isfinite().all()
    assert some(extreme.grad).isfinite().all()
    with pytest.raises(ValueError, match="differ"):
        kl(a, b[:, :3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", ALL)
def test_half_precision_is_promoted(function: Divergence, dtype: torch.dtype) -> None:
    a, b, target = draw()
    a, b = a.to(dtype), b.to(dtype)
    value = function(a, b, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, function(a.float(), b.float(), target))


def test_float64_stays() -> None:
    a, b, target = draw()
    assert ncjsd(a, b.float(), target).dtype == torch.float64


def test_empty_batch() -> None:
    logits, target = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    for function in ALL:
        assert function(logits, logits, target).shape == (0,)


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("bad", [-1, 5, 255])
def test_target_outside_classes(function: Divergence, bad: int) -> None:
    a, b, target = draw()
    target[3] = bad
    with pytest.raises(UserError, match=r"5 classes \(0 to 4\).*flatten_dense"):
        function(a, b, target)


@pytest.mark.parametrize("function", ALL)
def test_wrong_shapes(function: Divergence) -> None:
    a, b, target = draw()
    with pytest.raises(ValueError, match="differ"):
        function(a, b[:, :-1], target)
    with pytest.raises(ValueError, match="do not fit"):
        function(a, b, target[:-1])
    with pytest.raises(ValueError, match="do not fit"):
        function(a[..., None], b[..., None], target)
    with pytest.raises(ValueError, match="at least 2"):
        function(a[:, :1], b[:, :1], torch.zeros_like(target))
    with pytest.raises(ValueError, match="int64"):
        function(a, b, target.float())


def test_flatten_dense() -> None:
    logits = torch.arange(2 * 3 * 2 * 2, dtype=torch.float32).reshape(2, 3, 2, 2)
    target = torch.tensor([[[0, 255], [2, 1]], [[255, 255], [1, 0]]])
    rows, labels = flatten_dense(logits, target, 255)
    assert labels.tolist() == [0, 2, 1, 1, 0]
    expected = [logits[n, :, y, x] for n in (0, 1) for y in (0, 1) for x in (0, 1)]
    keep = [0, 2, 3, 6, 7]
    torch.testing.assert_close(rows, torch.stack([expected[i] for i in keep]))


def test_flatten_dense_of_rows_and_of_nothing() -> None:
    logits, target = torch.randn(3, 4), torch.tensor([1, 255, 3])
    rows, labels = flatten_dense(logits, target)
    torch.testing.assert_close(rows, logits[[0, 2]])
    assert labels.tolist() == [1, 3]
    assert flatten_dense(logits, torch.full((3,), 255))[0].shape == (0, 4)
    with pytest.raises(ValueError, match="do not fit"):
        flatten_dense(torch.randn(2, 4, 5), torch.zeros(2, 4, dtype=torch.int64))
