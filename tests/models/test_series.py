from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ntdh_bench.layers import FeatureTap, LayerMask, mask_layer
from ntdh_bench.models import SeriesCNN
from ntdh_bench.models.series import Windows
from ntdh_bench.stacks.networks import NetworkStack
from tests.helpers import assert_bits

LAYERS = ["conv1", "conv2", "hidden2"]


@pytest.mark.parametrize("size", [1, 3, 5])
def test_windows_and_a_linear_layer_are_a_convolution(size: int) -> None:
    series = torch.randn(4, 3, 7, dtype=torch.float64)
    linear = nn.Linear(3 * size, 6).double()
    weight = linear.weight.view(6, 3, size)
    expected = F.conv1d(series, weight, linear.bias, padding=size // 2)
    torch.testing.assert_close(linear(Windows(size)(series)).transpose(1, 2), expected)


@pytest.mark.parametrize("time", [2, 3, 32, 101])
def test_layers_by_name(time: int) -> None:
    outputs = FeatureTap(SeriesCNN(3, 5, (8, 16), 12), LAYERS)(torch.randn(2, time, 3))
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {
        "conv1": (2, 8, time // 2), "conv2": (2, 16, 4), "hidden2": (2, 12), "logits": (2, 5),
    }  # fmt: skip


def test_frames_are_series_of_their_pixels() -> None:
    network = SeriesCNN(20, 5)
    frames = torch.randn(2, 9, 4, 5)
    assert torch.equal(network(frames), network(frames.flatten(2)))


@pytest.mark.parametrize("mask", [None, "conv1", "hidden2"])
def test_a_stack_is_its_members_bit_for_bit(mask: str | None) -> None:
    torch.manual_seed(0)
    members = [SeriesCNN(3, 5) for _ in range(3)]
    inputs = torch.randn(3, 64, 16, 3)
    keep = torch.rand(3, 32 if mask == "conv1" else 64) > 0.4
    stack = NetworkStack(members, LAYERS)
    if mask:
        stack.mask(mask, LayerMask.zeroing(keep))
    outputs = stack(inputs)
    outputs["logits"].square().sum().backward()
    for number, member in enumerate(members):
        handle = mask_layer(member, mask, LayerMask.zeroing(keep[number])) if mask else None
        expected = FeatureTap(member, LAYERS)(inputs[number])
        expected["logits"].square().sum().backward()
        for name, value in expected.items():
            assert_bits(outputs[name][number], value)
        for name, parameter in member.named_parameters():
            gradient = stack.network.get_parameter(name).grad
            assert gradient is not None
            torch.testing.assert_close(gradient[number], parameter.grad)
        if handle:
            handle.remove()
