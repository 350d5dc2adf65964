"""SRD against a loop, and where the logarithm of nothing would be taken."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench.distillers import SRD
from ntdh_bench.distillers.functional import kd, srd
from ntdh_bench.errors import UserError
from tests.typed import some


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def naive_srd(student: Tensor, teacher: Tensor, exponent: float) -> float:
    def standardised(column: list[float]) -> list[float]:
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        return [(x - mean) / math.sqrt(variance + 1e-4) for x in column]

    total = 0.0
    for ours, theirs in zip(student.T.tolist(), teacher.T.tolist(), strict=True):
        pairs = zip(standardised(ours), standardised(theirs), strict=True)
        total += sum(abs(a - b) ** exponent for a, b in pairs)
    return math.log(total)


@pytest.mark.parametrize("exponent", [1.0, 2.5, 4.0])
def test_srd(exponent: float) -> None:
    student, teacher = draw(6, 5), 3 * draw(6, 5, seed=1) + 2
    wanted = naive_srd(student, teacher, exponent)
    assert srd(student, teacher, exponent).item() == pytest.approx(wanted, rel=1e-12)


def test_it_is_that_of_batch_normalisation() -> None:
    student, teacher = draw(6, 5), draw(6, 5, seed=1)
    norm = nn.BatchNorm1d(5, eps=1e-4, affine=False).double()
    gap = norm(student) - norm(teacher)
    torch.testing.assert_close(srd(student, teacher), gap.pow(4).sum().log())


@pytest.mark.parametrize("rows", [1, 6])
def test_nothing_differs(rows: int) -> None:
    """Peers take the logarithm of 0 there: minus infinity, and gradients that are no numbers."""
    same = draw(6, 5)[:rows]
    student = same.clone().requires_grad_()
    value = srd(student, same if rows > 1 else draw(1, 5, seed=1))
    value.backward()
    assert value == 0
    assert (some(student.grad) == 0).all()
    assert torch.zeros(()).log().isneginf()


def test_both_terms_and_maps_averaged() -> None:
    one = SRD(3.0, feature_weight=0.5, logit_weight=0.25, layer="x")
    one.build({"x": 3}, {"x": 5}, 6, 0)
    one.double()
    student = {"x": draw(6, 3, 2, 2), "logits": draw(6, 4, seed=2)}
    teacher = {"x": draw(6, 5, 3, 3, seed=1), "logits": draw(6, 4, seed=3)}
    projected = some(one.projector)(student["x"].mean(dim=(2, 3)))
    features = srd(projected, teacher["x"].mean(dim=(2, 3)), 3.0)
    wanted = 0.5 * features + 0.25 * kd(student["logits"], teacher["logits"], 1.0)
    index = torch.arange(6)
    torch.testing.assert_close(one.distill(student, teacher, index, index), wanted)


def test_arguments() -> None:
    for wrong in ({"exponent": 0.5}, {"feature_weight": -1.0}, {"logit_weight": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            SRD(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no projector"):
        SRD(layer="x")(draw(4, 3), draw(4, 2), draw(4, 2), draw(4, 2))
