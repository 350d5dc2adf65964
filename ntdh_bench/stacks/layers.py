"""Layers of K members as one: parameters ``(K, ...)``, features ``(K, N, ...)``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ntdh_bench.errors import UserError


class OfParts(nn.Module):
    """A module without parameters beside those of its parts, which goes along ``dim`` for features.

    Nothing else that it does may depend on the dimensions of its features.
    """

    dim = 1

    def of(self, parts: Mapping[str, nn.Module]) -> OfParts:
        """Return the stack of members whose parts are these stacks."""
        one = copy.deepcopy(self)
        one.dim = 2
        for name, part in parts.items():
            setattr(one, name, part)
        return one


class StackedLinear(nn.Module):
    """K linear layers of one size: ``(K, N, in) -> (K, N, out)``; more dimensions before ``in`` go.

    Args:
        weight: ``(K, out, in)``.
        bias: ``(K, out)``, or ``None``.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    @classmethod
    def of(cls, members: Sequence[nn.Linear]) -> StackedLinear:
        """Return the members as one, with copies of their parameters, frozen if theirs are."""
        return cls(*_parameters(members)).requires_grad_(members[0].weight.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's layer to its features ``(K, N, ..., in)``."""
        rows: Tensor = x.flatten(1, -2)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        device = x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            rows, weight = rows.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        out: Tensor = _BatchedLinear.apply(rows, weight, bias)
        return out.view(*x.shape[:-1], out.shape[-1])


class _BatchedLinear(torch.autograd.Function):
    """K products with the gradients in the form of ``F.linear``: the same bits on a CPU."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        if bias is None:
            return torch.bmm(rows, weight.transpose(1, 2))
        return torch.baddbmm(bias.unsqueeze(1), rows, weight.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            torch.bmm(grad, weight) if needs_rows else None,
            torch.bmm(grad.transpose(1, 2), rows) if needs_weight else None,
            grad.sum(1) if needs_bias else None,
        )


class StackedConv2d(nn.Module):
    """K convolutions of one size as one grouped convolution: ``(K, N, C, H, W)`` both ways.

    Args:
        weight: ``(K, out, in, height, width)``.
        bias: ``(K, out)``, or ``None``.
        like: a member, whose stride, padding and dilation are taken; without groups.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, like: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self._stride, self._padding, self._dilation = like.stride, like.padding, like.dilation

    @classmethod
    def of(cls, members: Sequence[nn.Conv2d]) -> StackedConv2d:
        """Return the members as one, with copies of their parameters, frozen if theirs are."""
        one = cls(*_parameters(members), members[0])
        return one.requires_grad_(members[0].weight.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's convolution to its features ``(K, N, C, H, W)``."""
        count = len(x)
        out = F.conv2d(
            x.transpose(0, 1).flatten(1, 2),  # a member's channels are a group
            self.weight.flatten(0, 1),
            None if self.bias is None else self.bias.flatten(),
            self._stride,
            self._padding,
            self._dilation,
            groups=count,
        )
        return out.view(len(out), count, -1, *out.shape[2:]).transpose(0, 1)


class OverMembers(nn.Module):
    """A layer without parameters that takes ``(N, ...)``, applied to ``(K, N, ...)``.

    Args:
        layer: treats samples one by one.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to all samples of all members."""
        out: Tensor = self.layer(x.flatten(0, 1))
        return out.view(*x.shape[:2], *out.shape[1:])


def per_member(values: Sequence[float]) -> float | Tensor:
    """Return a number of K members: a float where all are equal, else float64 ``(K,)``."""
    first = values[0]
    if all(value == first for value in values):
        return first
    return torch.tensor(values, dtype=torch.float64)


def beside(value: float | Tensor, like: Tensor) -> float | Tensor:
    """View a number of :func:`per_member` so that it goes with ``like``, ``(K, ...)``."""
    if not isinstance(value, Tensor):
        return value
    return value.to(like).view(-1, *[1] * (like.dim() - 1))


def _parameters(members: Sequence[nn.Linear | nn.Conv2d]) -> tuple[Tensor, Tensor | None]:
    if len({(member.weight.shape, member.bias is None) for member in members}) != 1:
        raise UserError("the members of a stack have layers of different sizes: run them alone")
    weight = torch.stack([member.weight.detach() for member in members])
    biases = [member.bias.detach() for member in members if member.bias is not None]
    return weight, torch.stack(biases) if biases else None
