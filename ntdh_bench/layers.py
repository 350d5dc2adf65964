"""Layers by name: reading their outputs (taps) and removing parts of them (masks)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ntdh_bench.batch import Inputs
from ntdh_bench.errors import UserError

INPUT = "input"
LOGITS = "logits"
#: In dense tasks the logits averaged over positions, beside those of every position.
AVERAGED_LOGITS = "logits, averaged"
#: Layers without parameters that act on each value alone, and take an ``inplace``.
ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.ReLU6, nn.SiLU, nn.Hardtanh, nn.CELU, nn.SELU)


def input_of(layer: str) -> str:
    """Return the name, for a tap, of what a layer takes."""
    return f"{layer}, input"


def map_of(layer: str) -> str:
    """Return the name of a layer's outputs at every position, where ``layer`` is their average."""
    return f"{layer}, map"


def share_of(layer: str) -> str:
    """Return the name of how much of each position of that map counts, in [0, 1]."""
    return f"{layer}, share"


def layer_names(network: nn.Module) -> list[str]:
    """Return the names of all sub-modules of ``network``, outermost first."""
    return [name for name, _ in network.named_modules() if name]


def find_layer(network: nn.Module, name: str) -> nn.Module:
    """Return the sub-module called ``name``; ``"input"`` and ``"logits"`` give the network itself.

    Raises:
        UserError: there is no such layer; the message names those there are.
    """
    if name in (INPUT, LOGITS):
        return network
    modules = dict(network.named_modules())
    if name not in modules or not name:
        valid = ", ".join([INPUT, *layer_names(network), LOGITS])
        raise UserError(f"no layer {name!r} in {type(network).__name__}: choose one of {valid}")
    module: nn.Module = modules[name]
    return module


class FeatureTap:
    """Runs a network and returns its logits together with the outputs of named layers.

    Args:
        network: any module that returns logits ``(B, C, *spatial)``.
        layers: names from :func:`layer_names`, or :func:`input_of` one; ``"logits"`` is always
            returned.

    Raises:
        UserError: a layer does not exist, or is the input.
    """

    def __init__(self, network: nn.Module, layers: Iterable[str]) -> None:
        wanted = set(layers) - {LOGITS}
        if INPUT in wanted:
            raise UserError("the input cannot be distilled: name a layer of the network, or logits")
        self.network = network
        self._outputs: dict[str, Tensor] = {}
        self._handles = [self._tap(name) for name in sorted(wanted)]

    def _tap(self, name: str) -> RemovableHandle:
        def keep_output(_module: nn.Module, _args: Any, output: Tensor) -> None:
            self._outputs[name] = output

        def keep_input(_module: nn.Module, args: Any) -> None:
            self._outputs[name] = args[0]

        layer = find_layer(self.network, name.removesuffix(input_of("")))
        if name.endswith(input_of("")):
            return layer.register_forward_pre_hook(keep_input)
        return layer.register_forward_hook(keep_output)

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return ``{"logits": ..., layer: output, ...}`` for one batch of inputs."""
        self._outputs.clear()  # of calls of the network by others
        logits = self.network(inputs)
        outputs = {LOGITS: logits, **self._outputs}
        self._outputs.clear()
        return outputs

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._outputs.clear()


def run_tapped(network: nn.Module, layers: Iterable[str], inputs: Inputs) -> dict[str, Tensor]:
    """Return what a :class:`FeatureTap` of these layers does, once."""
    tap = FeatureTap(network, layers)
    try:
        return tap(inputs)
    finally:
        tap.close()


def features_layer(network: nn.Module) -> str | None:
    """Return the name, for a tap, of the features that the last linear layer of a network takes.

    Layers are in the order of their names. A module of several linear layers that says what it
    takes as one, by ``in_features``, is one. ``None``: the network has none, or is one itself.
    """
    found = ""
    for name, module in network.named_modules():
        within = bool(found) and name.startswith(f"{found}.")
        if not within and isinstance(getattr(module, "in_features", None), int):
            found = name
    return input_of(found) if found else None


class LayerMask(NamedTuple):
    """What a mask makes of a layer's features: ``features * scale + shift``.

    Attributes:
        scale: float32 ``(..., D)``, 0 where a feature is removed.
        shift: float32 ``(..., D)``, what stands in its place; 0 where it stays.
    """

    scale: Tensor
    shift: Tensor

    @staticmethod
    def zeroing(keep: Tensor) -> LayerMask:
        """Return the mask that zeroes features where ``keep``, bool ``(..., D)``, is false."""
        scale = keep.float()
        return LayerMask(scale, torch.zeros_like(scale))


def mask_layer(network: nn.Module, layer: str, mask: LayerMask) -> RemovableHandle:
    """Mask the features of ``layer``, ``(B, D, ...)``, until removed.

    Tapped features are the masked ones.

    Raises:
        UserError: there is no such layer, or the mask does not fit its width.
    """

    def masked(features: Tensor) -> Tensor:
        width = features.shape[1]
        if len(mask.scale) != width:
            raise UserError(
                f"the feature mask has {len(mask.scale)} entries, but {layer!r} has {width} "
                "features: it was made for another network or layer"
            )
        scale, shift = (channels(values.to(features), features) for values in mask)
        return torch.addcmul(shift, features, scale)

    return change_layer(network, layer, masked)


def change_layer(
    network: nn.Module, layer: str, change: Callable[[Tensor], Tensor]
) -> RemovableHandle:
    """Replace the features ``(B, D, ...)`` of ``layer`` by ``change`` of them, until removed.

    The features of the ``"input"`` are the elements of the flattened sample. The hook runs before
    those that are there, taps among them.

    Raises:
        UserError: there is no such layer.
    """
    module = find_layer(network, layer)
    if layer == INPUT:
        return module.register_forward_pre_hook(
            lambda _module, args: (change(args[0].flatten(1)).view_as(args[0]), *args[1:]),
            prepend=True,
        )
    return module.register_forward_hook(lambda _module, _args, output: change(output), prepend=True)


def channels(values: Tensor, features: Tensor) -> Tensor:
    """View one value a feature, ``(D,)``, so that it goes with features ``(B, D, ...)``."""
    return values.view(1, -1, *[1] * (features.dim() - 2))
