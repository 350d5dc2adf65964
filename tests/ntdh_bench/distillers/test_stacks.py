"""Stacks of distillers against their members, each trained alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers import DKD, KD, Distiller, WeightedKL
from ntdh_bench.distillers.base import OneByOne
from ntdh_bench.distillers.functional import kd
from tests.typed import some

MEMBERS, ROWS, CLASSES, WIDTHS = 3, 6, 4, (5, 3)
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
}


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_is_its_members(name: str) -> None:
    members = built(*copy.deepcopy(STACKS[name]))
    stack = type(members[0]).stack(copy.deepcopy(members)).double()
    assert type(stack) is type(members[0])
    sides = outputs()
    leaves = [value.requires_grad_() for side in sides for value in side.values()]
    ours, expected = stack.distill(*sides, *labels()), torch.stack(alone(members, sides))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    slopes = torch.linspace(0.5, 2, MEMBERS, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(ours, leaves, slopes, allow_unused=True),
        torch.autograd.grad(expected, leaves, slopes, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_numbers_move_with_the_module_and_keep_their_digits() -> None:
    stack = KD.stack([KD(0.1), KD(3.3)]).to("meta", torch.bfloat16)
    assert some(dict(stack.named_buffers())["temperature"]).dtype == torch.float64
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
    assert hash(KD().stack_key) != hash(DKD().stack_key)
