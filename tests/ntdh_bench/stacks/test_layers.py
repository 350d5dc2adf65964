"""Layers of many members against the members themselves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench.errors import UserError
from ntdh_bench.stacks.layers import (
    OverMembers,
    StackedConv2d,
    StackedLinear,
    beside,
    per_member,
)
from tests.helpers import assert_bits

MEMBERS = 3


def gradients(layers: Sequence[nn.Module], inputs: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Outputs ``(K, N, ...)`` of members one by one, and the gradients of inputs and parameters."""
    inputs = inputs.clone().requires_grad_()
    out = torch.stack([layer(x) for layer, x in zip(layers, inputs, strict=True)])
    out.square().sum().backward()
    assert inputs.grad is not None
    names = [name for name, _ in layers[0].named_parameters()]
    return out, inputs.grad, [stacked_gradient(layers, name) for name in names]


def stacked_gradient(layers: Sequence[nn.Module], name: str) -> Tensor:
    return torch.stack([layer.get_parameter(name).grad for layer in layers])  # type: ignore[misc]


def batched(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    inputs = inputs.clone().requires_grad_()
    out = layer(inputs)
    out.square().sum().backward()
    assert inputs.grad is not None
    return out, inputs.grad, [parameter.grad for parameter in layer.parameters()]  # type: ignore[misc]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(35, 303), (303, 128), (128, 8)])
def test_linear_layers_give_the_same_bits(size: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    members = [nn.Linear(*size, bias=bias) for _ in range(MEMBERS)]
    inputs = torch.randn(MEMBERS, 64, size[0])
    out, slope, slopes = batched(StackedLinear.of(members), inputs)
    wanted_out, wanted_slope, wanted_slopes = gradients(members, inputs)
    pairs = zip([out, slope, *slopes], [wanted_out, wanted_slope, *wanted_slopes], strict=True)
    for found, wanted in pairs:
        assert_bits(found, wanted)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (4, 6), (2, 3, 2)])
def test_linear_layers_take_any_rows(bias: bool, rows: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    members = [nn.Linear(5, 1, bias=bias, dtype=torch.float64) for _ in range(MEMBERS)]
    inputs = torch.randn(MEMBERS, *rows, 5, dtype=torch.float64)
    found, wanted = batched(StackedLinear.of(members), inputs), gradients(members, inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_linear_layers_follow_autocast() -> None:
    torch.manual_seed(0)
    members = [nn.Linear(6, 4) for _ in range(MEMBERS)]
    inputs = torch.randn(MEMBERS, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        out, _, weights = batched(StackedLinear.of(members), inputs)
        wanted, _, wanted_weights = gradients(members, inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(weights, wanted_weights)


@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_are_those_of_the_members(bias: bool) -> None:
    torch.manual_seed(0)
    members = [
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=bias, dtype=torch.float64)
        for _ in range(MEMBERS)
    ]
    inputs = torch.randn(MEMBERS, 5, 2, 9, 8, dtype=torch.float64)
    found, wanted = batched(StackedConv2d.of(members), inputs), gradients(members, inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_other_layers_see_samples_one_by_one() -> None:
    inputs = torch.randn(MEMBERS, 5, 2, 9, 8)
    pooled = OverMembers(nn.AdaptiveMaxPool2d((3, 2)))(inputs)
    assert torch.equal(pooled, torch.stack([nn.AdaptiveMaxPool2d((3, 2))(x) for x in inputs]))


def test_members_of_different_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="different sizes"):
        StackedLinear.of([nn.Linear(2, 3), nn.Linear(2, 4)])
    with pytest.raises(UserError, match="different sizes"):
        StackedLinear.of([nn.Linear(2, 3), nn.Linear(2, 3, bias=False)])


def test_numbers_are_one_value_where_they_are_equal() -> None:
    assert per_member([4.0, 4.0]) == 4.0
    numbers = per_member([1.0, 0.1])
    assert isinstance(numbers, Tensor)
    assert numbers.tolist() == [1.0, 0.1]
    like = torch.zeros(2, 5, 3)
    assert (like + beside(numbers, like)).shape == (2, 5, 3)
    assert beside(4.0, like) == 4.0
