"""Stacks of networks against their members."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench.errors import NotStackable, UserError
from ntdh_bench.layers import INPUT, LOGITS, FeatureTap, LayerMask, mask_layer
from ntdh_bench.models import (
    AudioCNN,
    ConcatFusion,
    GatedFusion,
    LateFusion,
    MLPClassifier,
)
from ntdh_bench.stacks.networks import NetworkStack
from tests.helpers import assert_bits

MEMBERS, BATCH = 3, 4


class OwnForward(nn.Module):
    """No chain: layers by name, a buffer, and a layer norm."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 3)
        self.register_buffer("scale", torch.rand(5))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.hidden1(inputs.flatten(1)))
        logits: Tensor = self.head(self.norm(hidden) * self.scale)
        return logits


def networks(factory: Callable[[], nn.Module]) -> list[nn.Module]:
    torch.manual_seed(0)
    return [factory().double() for _ in range(MEMBERS)]


def perceptron() -> nn.Module:
    return MLPClassifier(6, [5, 4], 3)


KINDS = {
    "chain": (perceptron, (6,)),
    "convolutions": (AudioCNN, (1, 20, 24)),
    "own forward": (OwnForward, (2, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_the_members(kind: str) -> None:
    factory, shape = KINDS[kind]
    members = networks(factory)
    inputs = torch.randn(MEMBERS, BATCH, *shape, dtype=torch.float64)
    stack = NetworkStack(members, ["hidden1"])
    outputs = stack(inputs)
    outputs[LOGITS].square().sum().backward()
    weights = dict(stack.network.named_parameters())
    for number, member in enumerate(members):
        wanted = FeatureTap(member, ["hidden1"])(inputs[number])
        wanted[LOGITS].square().sum().backward()
        for name, value in wanted.items():
            torch.testing.assert_close(outputs[name][number], value, rtol=1e-12, atol=1e-12)
        for name, parameter in member.named_parameters():
            slope = weights[name].grad
            assert slope is not None
            torch.testing.assert_close(slope[number], parameter.grad, rtol=1e-12, atol=1e-12)


def test_the_suites_perceptrons_give_the_same_bits() -> None:
    torch.manual_seed(0)
    members = [MLPClassifier(35, [303, 128], 8) for _ in range(MEMBERS)]
    inputs = torch.randn(MEMBERS, 64, 35)
    found = NetworkStack(members)(inputs)[LOGITS]
    assert_bits(found, torch.stack([m(x) for m, x in zip(members, inputs, strict=True)]))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_keep_their_names(kind: str) -> None:
    members = networks(KINDS[kind][0])
    stack = NetworkStack(members)
    for number, member in enumerate(members):
        state = stack.state_of(number)
        assert state.keys() == member.state_dict().keys()
        assert all(torch.equal(state[name], value) for name, value in member.state_dict().items())


@pytest.mark.parametrize("layer", ["hidden1", INPUT])
@pytest.mark.parametrize("kind", KINDS)
def test_each_member_has_a_mask_of_its_own(kind: str, layer: str) -> None:
    factory, shape = KINDS[kind]
    members = networks(factory)
    inputs = torch.randn(MEMBERS, BATCH, *shape, dtype=torch.float64)
    taps = [FeatureTap(member, ["hidden1"]) for member in networks(factory)]
    size = inputs[0, 0].numel() if layer == INPUT else taps[0](inputs[0])["hidden1"].shape[1]
    keep = torch.rand(MEMBERS, size) < 0.6
    mask = LayerMask(keep * torch.rand(MEMBERS, size), torch.rand(MEMBERS, size) * ~keep)
    stack = NetworkStack(members, ["hidden1"])
    stack.mask(layer, mask)
    outputs = stack(inputs)
    for number, member in enumerate(members):
        mask_layer(member, layer, LayerMask(mask.scale[number], mask.shift[number]))
        wanted = FeatureTap(member, ["hidden1"])(inputs[number])
        for name, value in wanted.items():
            torch.testing.assert_close(outputs[name][number], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fusion", [LateFusion, ConcatFusion, GatedFusion])
@pytest.mark.parametrize("part", [perceptron, OwnForward])
def test_networks_of_both_modalities(
    fusion: Callable[..., nn.Module], part: Callable[[], nn.Module]
) -> None:
    members = networks(lambda: fusion(perceptron, part))
    shapes = {"teacher": (6,), "student": (2, 3)}
    inputs = {
        name: torch.randn(MEMBERS, BATCH, *shape, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    stack = NetworkStack(members, ["hidden2"])
    width = stack(inputs)["hidden2"].shape[2]
    keep = torch.rand(MEMBERS, width) < 0.6
    stack.mask("hidden2", LayerMask.zeroing(keep))
    outputs = stack(inputs)
    assert not outputs["hidden2"].masked_select(~keep.unsqueeze(1)).any()
    for number, member in enumerate(members):
        mask_layer(member, "hidden2", LayerMask.zeroing(keep[number]))
        own = {name: value[number] for name, value in inputs.items()}
        for name, value in FeatureTap(member, ["hidden2"])(own).items():
            torch.testing.assert_close(outputs[name][number], value, rtol=1e-12, atol=1e-12)
        state, wanted = stack.state_of(number), member.state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], value) for name, value in wanted.items())


def test_masks_move_with_the_stack() -> None:
    stack = NetworkStack(networks(perceptron))
    stack.mask("hidden1", LayerMask.zeroing(torch.ones(MEMBERS, 5)))
    stack.to("meta")
    assert [buffer.device.type for buffer in stack.buffers()] == ["meta", "meta"]


def with_hook() -> nn.Module:
    network = perceptron()
    network.register_forward_hook(lambda *_: None)
    return network


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "statistics of batches": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
    "global generator": lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1)),
    "hooks": with_hook,
    "share parameters": tied,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_stacked_is_refused(reason: str) -> None:
    members: Sequence[nn.Module] = [REFUSED[reason](), REFUSED[reason]()]
    with pytest.raises(NotStackable, match=reason):
        NetworkStack(members)


def test_networks_of_different_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="different sizes"):
        NetworkStack([MLPClassifier(6, [5], 3), MLPClassifier(6, [4], 3)])
    with pytest.raises(UserError, match="no layer"):
        NetworkStack(networks(perceptron), ["hidden9"])
