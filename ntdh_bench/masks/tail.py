"""Running only what follows a layer, for networks that are a chain of ``nn.Sequential``."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ntdh_bench.layers import ELEMENTWISE, INPUT, LOGITS

# Modules that pass rows of features on as they are (dropout: in eval mode).
_PASS_THROUGH = (nn.Flatten, nn.Identity, nn.Dropout)


@dataclass(frozen=True)
class Chain:
    """A network cut after a layer: ``tail(head(inputs))`` are its logits."""

    head: list[nn.Module]
    tail: list[nn.Module]


def cut(network: nn.Module, layer: str) -> Chain | None:
    """Cut ``network`` after ``layer``; ``None`` if it is no chain of modules that contains it."""
    leaves = list(_leaves(network, ""))
    if not leaves or any(name is None for name, _ in leaves):
        return None
    modules = [module for _, module in leaves]
    if layer in (INPUT, LOGITS):
        after = 0 if layer == INPUT else len(modules)
    else:
        inside = [n for n, (name, _) in enumerate(leaves) if f"{name}.".startswith(f"{layer}.")]
        if not inside:
            return None
        after = inside[-1] + 1
    return Chain(modules[:after], [_overwriting(module) for module in modules[after:]])


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str | None, nn.Module]]:
    """Yield what a chain runs, in order; the name is ``None`` if the network is no chain."""
    if type(module).forward is not nn.Sequential.forward:
        yield (name or None), module
        return
    for child_name, child in module.named_children():
        yield from _leaves(child, f"{name}.{child_name}" if name else child_name)


def _overwriting(module: nn.Module) -> nn.Module:
    """Return an activation that may overwrite what nobody else reads; others as they are."""
    if isinstance(module, ELEMENTWISE):
        module = copy.copy(module)
        module.inplace = True
    return module


def run(modules: Sequence[nn.Module], values: Tensor) -> Tensor:
    """Apply modules one after the other; ``values`` may be overwritten."""
    for module in modules:
        values = module(values)
    return values


def starts_with_linear(tail: Sequence[nn.Module], width: int) -> int | None:
    """Return where in ``tail`` a Linear of ``width`` inputs takes the features, if one does."""
    for position, module in enumerate(tail):
        if type(module) is nn.Linear:
            return position if module.in_features == width else None
        if type(module) not in _PASS_THROUGH:
            return None
    return None
