"""Networks of K members as one, in one batched pass."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ntdh_bench.batch import Inputs
from ntdh_bench.errors import NotStackable, UserError
from ntdh_bench.layers import ELEMENTWISE, INPUT, FeatureTap, LayerMask, change_layer, find_layer
from ntdh_bench.stacks.layers import OfParts, OverMembers, StackedConv2d, StackedLinear

_POOLS = (
    nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.batchnorm._LazyNormBase)
_RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)


class NetworkStack(nn.Module):
    """K networks of one architecture as one: inputs ``(K, B, ...)`` to logits ``(K, B, C)``.

    Parameters keep their names and are ``(K, ...)``. Chains of linear layers, convolutions,
    poolings and activations, and what is made of such chains, have a batched form, which on a CPU
    gives the bits of perceptrons run alone; other networks are run by ``torch.func.vmap``.

    Args:
        members: the networks; copied.
        layers: whose outputs are given beside the logits.

    Raises:
        NotStackable: a network that mixes samples of a batch, or draws random numbers.
        UserError: members of different sizes, or no such layer.
    """

    def __init__(self, members: Sequence[nn.Module], layers: Iterable[str] = ()) -> None:
        super().__init__()
        _check(members)
        self.count = len(members)
        chain = _chain(members)
        self._is_chain = chain is not None
        self._tapped = _Tapped(chain or _with_parameters(members), layers)
        self._masked: list[str] = []
        self._masks: dict[str, LayerMask] = {}  # while the networks run

    @property
    def network(self) -> nn.Module:
        """The network whose parameters are ``(K, ...)``."""
        return self._tapped.network

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return ``{"logits": (K, B, C), layer: (K, B, ...)}`` of inputs ``(K, B, ...)``."""
        masks = {
            layer: LayerMask(*(self.get_buffer(f"{part}{n}") for part in LayerMask._fields))
            for n, layer in enumerate(self._masked)
        }
        if INPUT in masks:
            assert isinstance(inputs, Tensor)
            inputs = _masked(masks[INPUT], inputs.flatten(2)).view_as(inputs)
        outputs: dict[str, Tensor]
        if self._is_chain:
            self._masks = masks
            outputs = self._tapped(inputs)
        else:
            tapped = self._tapped
            state = {**dict(tapped.named_parameters()), **dict(tapped.named_buffers())}
            outputs = vmap(self._run_one)(state, masks, inputs)
        self._masks = {}
        return outputs

    def mask(self, layer: str, mask: LayerMask) -> None:
        """Mask the features of ``layer``, each member's by its row of ``(K, D)``.

        Raises:
            UserError: no such layer.
        """
        find_layer(self.network, layer)
        if layer != INPUT:
            change_layer(self.network, layer, lambda f: _masked(self._masks[layer], f))
        for part, values in zip(LayerMask._fields, mask, strict=True):
            self.register_buffer(f"{part}{len(self._masked)}", values, persistent=False)
        self._masked.append(layer)

    def state_of(self, member: int) -> dict[str, Tensor]:
        """Return a member's weights by the names that its network gives them."""
        return {name: value[member] for name, value in self.network.state_dict().items()}

    def _run_one(
        self, state: dict[str, Tensor], masks: dict[str, LayerMask], inputs: Inputs
    ) -> dict[str, Tensor]:
        self._masks = masks
        outputs: dict[str, Tensor] = functional_call(self._tapped, state, (inputs,))
        return outputs


class _Tapped(nn.Module):
    """A network that returns what a tap of it does."""

    def __init__(self, network: nn.Module, layers: Iterable[str]) -> None:
        super().__init__()
        self.network = network
        self._tap = FeatureTap(network, layers)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        return self._tap(inputs)


def _masked(mask: LayerMask, features: Tensor) -> Tensor:
    """Return features ``(..., B, D, *spatial)`` under masks ``(..., D)``."""
    scale, shift = (values.to(features).unsqueeze(-2) for values in mask)  # all of a batch
    spatial = (..., *[None] * (features.dim() - scale.dim()))
    return torch.addcmul(shift[spatial], features, scale[spatial])


def _check(members: Sequence[nn.Module]) -> None:
    sizes = {tuple((n, v.shape) for n, v in member.state_dict().items()) for member in members}
    if len(sizes) != 1:
        raise UserError("the members of a stack have networks of different sizes: run them alone")
    first = members[0]
    names = [len(list(first.named_parameters(remove_duplicate=same))) for same in (True, False)]
    if names[0] != names[1]:
        raise NotStackable(f"{type(first).__name__} has layers that share parameters")
    for module in first.modules():
        name = type(module).__name__
        if isinstance(module, _STATISTICS):
            raise NotStackable(f"{name} keeps statistics of batches")
        if isinstance(module, _RANDOM):
            raise NotStackable(f"{name} draws from the global generator")
        if module._forward_hooks or module._forward_pre_hooks:
            raise NotStackable(f"{name} has hooks")


def _chain(members: Sequence[nn.Module]) -> nn.Module | None:
    """Return the batched form of chains of known layers, ``None`` if there is none."""
    first = members[0]
    if type(first).forward is not nn.Sequential.forward and not isinstance(first, OfParts):
        return _batched(members)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, _ in first.named_children():
        part = _chain([member.get_submodule(name) for member in members])
        if part is None:
            return None
        parts[name] = part
    return first.of(parts) if isinstance(first, OfParts) else nn.Sequential(parts)


def _batched(members: Sequence[nn.Module]) -> nn.Module | None:
    first = members[0]
    if type(first) is nn.Linear:
        return StackedLinear.of(members)  # type: ignore[arg-type]
    if type(first) is nn.Conv2d and first.groups == 1 and first.padding_mode == "zeros":
        return StackedConv2d.of(members)  # type: ignore[arg-type]
    if type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1):
        return nn.Flatten(2)
    if type(first) in ELEMENTWISE or type(first) is nn.Identity:
        return copy.deepcopy(first)  # what is hooked is no member's
    alone = type(first) in _POOLS or getattr(type(first), "samplewise", False)
    return OverMembers(first) if alone else None


def _with_parameters(members: Sequence[nn.Module]) -> nn.Module:
    """Return a copy of the first member that holds the parameters and buffers of all."""
    stack = copy.deepcopy(members[0])
    for name, module in stack.named_modules():
        parts = [member.get_submodule(name) for member in members]
        for key, like in list(module.named_parameters(recurse=False)):
            values = torch.stack([part.get_parameter(key).detach() for part in parts])
            setattr(module, key, nn.Parameter(values, like.requires_grad))
        for key in [key for key, value in module.named_buffers(recurse=False)]:
            setattr(module, key, torch.stack([part.get_buffer(key) for part in parts]))
    return stack
