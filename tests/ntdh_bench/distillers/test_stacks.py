"""Stacks of distillers against their members, each trained alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers import (
    CC,
    DIST,
    DKD,
    KD,
    MLKD,
    NKD,
    OFA,
    PKT,
    RKD,
    SKD,
    SP,
    SRD,
    WTTM,
    Combined,
    Distiller,
    FitNet,
    WeightedKL,
)
from ntdh_bench.distillers.base import OneByOne
from ntdh_bench.distillers.functional import kd
from ntdh_bench.paper.authors import AuthorsFitNet
from tests.helpers import methods

MEMBERS, ROWS, CLASSES, WIDTHS = 3, 6, 4, (5, 3)
METHODS = methods("hidden2")
Sides = tuple[dict[str, Tensor], dict[str, Tensor]]


def built(*members: Distiller) -> list[Distiller]:
    for seed, member in enumerate(members):
        student, teacher = ({"logits": CLASSES, "hidden2": width} for width in WIDTHS)
        member.build(student, teacher, ROWS, seed)
    return list(members)


def outputs(rows: int = ROWS, dtype: torch.dtype = torch.float64) -> Sides:
    stream = torch.Generator().manual_seed(rows)

    def of(width: int) -> dict[str, Tensor]:
        shapes = {"logits": (MEMBERS, rows, CLASSES), "hidden2": (MEMBERS, rows, width)}
        return {
            name: torch.randn(shape, generator=stream, dtype=dtype)
            for name, shape in shapes.items()
        }

    return of(WIDTHS[0]), of(WIDTHS[1])


def labels(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    index = torch.stack([torch.arange(rows).roll(shift) for shift in range(MEMBERS)])
    return index % CLASSES, index


def alone(members: Sequence[Distiller], sides: Sides, rows: int = ROWS) -> list[Tensor]:
    target, index = labels(rows)
    student, teacher = sides
    return [
        member.distill(
            {name: value[k] for name, value in student.items()},
            {name: value[k] for name, value in teacher.items()},
            target[k],
            index[k],
        )
        for k, member in enumerate(members)
    ]


STACKS: dict[str, list[Distiller]] = {
    "KD": [KD(1.0), KD(2.5, weight=0.3), KD()],
    "DKD": [DKD(), DKD(0.5, 2.0, 1.5), DKD(temperature=0.7, weight=3.0)],
    "WeightedKL": [WeightedKL(), WeightedKL(0.1, 3.0), WeightedKL(weight=0.2)],
    "KD, standardised": [KD(t, standardize=True) for t in (1.0, 2.0, 4.0)],
    "DKD, standardised": [DKD(beta=b, standardize=True) for b in (1.0, 2.0, 4.0)],
    "NKD": [NKD(), NKD(3.5, 3.0), NKD(weight=0.3)],
    "DIST": [DIST(), DIST(2.0, 0.5, 4.0), DIST(weight=0.3)],
    "WTTM": [WTTM(), WTTM(1.5), WTTM(weight=0.3)],
    "MLKD": [MLKD(), MLKD([1.0, 2.0, 3.0, 4.0, 5.0]), MLKD(weight=0.3)],
    "SKD": [SKD(), SKD(2.0, 1.0), SKD(weight=0.3)],
    "SRD": [
        SRD(layer="hidden2"),
        SRD(2.0, 0.5, layer="hidden2"),
        SRD(3.0, logit_weight=0.1, weight=0.3, layer="hidden2"),
    ],
    "CC": [CC(layer="hidden2"), CC(0.1, layer="hidden2"), CC(weight=0.3, layer="hidden2")],
    "OFA": [
        OFA(["hidden2"]),
        OFA(["hidden2"], eps=1.5),
        OFA(["hidden2"], temperature=2.0, weight=0.3),
    ],
    "FitNet": [
        FitNet(layer="hidden2"),
        FitNet(weight=0.1, layer="hidden2"),
        FitNet(layer="hidden2"),
    ],
    "RKD": [
        RKD(layer="hidden2"),
        RKD(1.0, 0.0, layer="hidden2"),
        RKD(0.0, 1.0, weight=0.5, layer="hidden2"),
    ],
    "PKT": [PKT(layer="hidden2"), PKT(weight=1.0, layer="hidden2"), PKT(layer="hidden2")],
    "SP": [SP(layer="hidden2"), SP(weight=1.0, layer="hidden2"), SP(layer="hidden2")],
    "Combined": [
        Combined([KD(), FitNet(layer="hidden2")], [1.0, 0.1]),
        Combined([KD(2.0), FitNet(weight=3.0, layer="hidden2")], [0.5, 0.3]),
        Combined([KD(), FitNet(layer="hidden2")]),
    ],
    "AuthorsFitNet": [AuthorsFitNet(), AuthorsFitNet(), AuthorsFitNet()],
}


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("rows", [ROWS, 1, 0])
def test_a_stack_is_its_members(name: str, rows: int) -> None:
    members = [member.double() for member in built(*copy.deepcopy(STACKS[name]))]
    stack = type(members[0]).stack(copy.deepcopy(members))
    assert type(stack) is type(members[0])
    sides = outputs(rows)
    leaves = [value.requires_grad_() for side in sides for value in side.values()]
    ours = stack.distill(*sides, *labels(rows))
    expected = torch.stack(alone(members, sides, rows))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    slopes = torch.linspace(0.5, 2, MEMBERS, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(ours, leaves, slopes, allow_unused=True),
        torch.autograd.grad(expected, leaves, slopes, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def parameters_of(stack: Distiller) -> list[list[Tensor]]:
    """Each member's parameters, in the order of a single distiller's."""
    if isinstance(stack, OneByOne):
        return [list(member.parameters()) for member in stack.members]
    return [[parameter[k] for parameter in stack.parameters()] for k in range(MEMBERS)]


@pytest.mark.parametrize("name", ["FitNet", "OFA", "SRD", "Combined", "AuthorsFitNet"])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_training_a_stack_trains_its_members(name: str, one_by_one: bool) -> None:
    members = [member.double() for member in built(*copy.deepcopy(STACKS[name]))]
    ours = copy.deepcopy(members)
    stack = OneByOne(ours) if one_by_one else type(ours[0]).stack(ours)
    before = parameters_of(copy.deepcopy(stack))
    sides = outputs()

    def optimizer(*trained: Distiller) -> torch.optim.Optimizer:
        weights = [parameter for one in trained for parameter in one.parameters()]
        return torch.optim.SGD(weights, lr=1e-3, momentum=0.9)

    optimizers = [optimizer(stack), *(optimizer(member) for member in members)]
    for _ in range(5):
        losses = [stack.distill(*sides, *labels()), *alone(members, sides)]
        for loss, one in zip(losses, optimizers, strict=True):
            one.zero_grad()
            loss.sum().backward()
            one.step()
    for trained, member, first in zip(parameters_of(stack), members, before, strict=True):
        for a, b, c in zip(trained, member.parameters(), first, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
            assert not torch.allclose(a, c)


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_every_method_has_a_stack(make: Callable[[], Distiller]) -> None:
    members = built(*(make() for _ in range(MEMBERS)))
    expected = alone(copy.deepcopy(members), outputs(dtype=torch.float32))
    stack = type(members[0]).stack(members)
    sides = outputs(dtype=torch.float32)
    student = {name: value.requires_grad_() for name, value in sides[0].items()}
    losses = stack.distill(student, sides[1], *labels())
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-6, atol=1e-7)
    losses.sum().backward()
    assert all(parameter.grad is not None for parameter in stack.parameters())


def test_fitnet_of_feature_maps() -> None:
    members = [member.double() for member in built(*copy.deepcopy(STACKS["FitNet"]))]
    stack = FitNet.stack(members)
    student = torch.randn(MEMBERS, 4, WIDTHS[0], 2, 3, dtype=torch.float64)
    teacher = torch.randn(MEMBERS, 4, WIDTHS[1], 2, 3, dtype=torch.float64)
    expected = [member(student[k], teacher[k]) for k, member in enumerate(members)]
    torch.testing.assert_close(stack(student, teacher), torch.stack(expected), rtol=1e-12, atol=0)


def test_fitnet_under_autocast() -> None:
    members = built(*copy.deepcopy(STACKS["FitNet"]))
    stack = FitNet.stack(members)
    sides = outputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, expected = stack.distill(*sides, *labels()), torch.stack(alone(members, sides))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=0)
    assert not torch.equal(ours, stack.distill(*sides, *labels()))  # the regressor ran in bfloat16


def test_small_batches_of_a_stack_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    stack = RKD.stack(copy.deepcopy(STACKS["RKD"]))
    for _ in range(2):
        stack.distill(*outputs(2), *labels(2))
    (line,) = capsys.readouterr().err.splitlines()
    assert "RKD" in line
    assert "its loss is 0 in one of 2" in line
    stack.distill(*outputs(3), *labels(3))
    assert capsys.readouterr().err == ""


def test_numbers_move_with_the_module_and_keep_their_digits() -> None:
    stack = KD.stack([KD(0.1), KD(3.3)]).to("meta", torch.bfloat16)
    assert stack.get_buffer("temperature").dtype == torch.float64
    assert stack.get_buffer("temperature").device.type == "meta"
    assert stack.state_dict() == {}
    assert stack.weight == 1.0  # equal in all: no tensor


class Reversed(KD):
    """The other direction: what KD's batched form computes would be wrong."""

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return kd(teacher_logits, student_logits, self.temperature)


def test_a_derived_class_runs_one_by_one() -> None:
    members = [Reversed(1.0), Reversed(2.0), Reversed(4.0)]
    stack = Reversed.stack(members)
    assert isinstance(stack, OneByOne)
    sides = outputs()
    assert torch.equal(stack.distill(*sides, *labels()), torch.stack(alone(members, sides)))


def test_only_equals_are_stacked() -> None:
    for members in ([KD(), DKD()], [KD(), Reversed()], [Reversed(), Reversed()]):
        with pytest.raises(ValueError, match="one stack_key"):
            KD.stack(members)
    assert KD(1.0).stack_key == KD(2.0, weight=3.0).stack_key
    assert (
        FitNet(5, 3, layer="hidden2").stack_key
        == FitNet(5, 3, weight=2.0, layer="hidden2").stack_key
    )
    assert Combined([KD(1.0)], [0.5]).stack_key == Combined([KD(2.0)]).stack_key
    assert MLKD([1.0, 2.0]).stack_key == MLKD([3.0, 4.0]).stack_key
    others = [
        KD(),
        KD(standardize=True),
        DKD(),
        DKD(standardize=True),
        MLKD(),
        MLKD([1.0, 2.0]),
        SKD(),
        CC(layer="hidden2"),
        CC(order=3, layer="hidden2"),
        OFA(),
        OFA(["hidden2"]),
        OFA(["other"]),
        FitNet(5, 3, layer="hidden2"),
        FitNet(5, 4, layer="hidden2"),
        FitNet(5, 3, layer="other"),
    ]
    others += [
        Combined([KD()]),
        Combined([DKD()]),
        Combined([KD(), KD()]),
        RKD(layer="hidden2"),
        SP(layer="hidden2"),
    ]
    assert len({one.stack_key for one in others}) == len(others)
