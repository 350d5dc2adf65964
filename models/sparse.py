"""Sparse convolution in plain PyTorch: gather, matrix product, scatter.

A tensor is a list of occupied voxels. A kernel map says, for every position of the kernel, which
input voxel reaches which output voxel; it is found by sorting voxel keys, so that time and memory
grow with the number of voxels and not with the volume (Graham et al., CVPR 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ntdh_bench.errors import UserError

Shape: TypeAlias = tuple[int, int, int]
KernelMap: TypeAlias = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """Features of occupied voxels.

    Attributes:
        features: ``(N, C)``.
        coordinates: int64 ``(N, 4)``: sample, then three indices within ``shape``. No row twice.
        shape: voxels along each axis.
        batch_size: number of samples.
        maps: kernel maps of these coordinates, shared by all tensors that have them.
    """

    features: Tensor
    coordinates: Tensor
    shape: Shape
    batch_size: int
    maps: dict[str, Any] = field(default_factory=dict, repr=False)

    def with_features(self, features: Tensor) -> SparseTensor:
        """Return other features on the same voxels."""
        return replace(self, features=features)


def voxel_keys(coordinates: Tensor, shape: Shape, batch_size: int, margin: int = 0) -> Tensor:
    """Return one int64 per row of ``(N, 4)`` coordinates, in lexicographic order.

    With a ``margin``, indices from -margin to shape + margin - 1 have keys of their own, and
    neighbours differ by the same number everywhere.

    Raises:
        UserError: the volume has more voxels than int64 can count.
    """
    sides = [side + 2 * margin for side in shape]
    if batch_size * math.prod(sides) >= 2**63:
        raise UserError(
            f"{batch_size} scans of {shape[0]} x {shape[1]} x {shape[2]} voxels are too many to "
            "number: remove stray points, or choose larger voxels"
        )
    return _ravel(coordinates[:, 1:] + margin, sides, coordinates[:, 0])


def voxel_coordinates(keys: Tensor, shape: Shape) -> Tensor:
    """Return the ``(N, 4)`` coordinates of keys without a margin."""
    columns = []
    for side in reversed(shape):
        columns.append(keys % side)
        keys = keys.div(side, rounding_mode="floor")
    return torch.stack([keys, *reversed(columns)], dim=1)


def submanifold_map(
    coordinates: Tensor, shape: Shape, batch_size: int, kernel_size: int
) -> KernelMap:
    """Return the kernel map of a convolution whose output voxels are its input voxels.

    Args:
        coordinates: int64 ``(N, 4)``.
        shape: voxels along each axis.
        batch_size: number of samples.
        kernel_size: odd.

    Returns:
        For each of the kernel_size ** 3 positions (last axis fastest), source and target rows.
    """
    margin = kernel_size // 2
    keys, order = voxel_keys(coordinates, shape, batch_size, margin).sort()
    sides = [side + 2 * margin for side in shape]
    # A position and the one opposite have the same pairs, exchanged: half of them are searched.
    half = kernel_size**3 // 2
    column = torch.arange(half // kernel_size + 1, device=keys.device)
    offset = torch.stack([column // kernel_size, column % kernel_size, 0 * column], dim=1) - margin
    wanted = keys + _ravel(offset, sides)[:, None]
    # The voxels of a column follow each other in `keys`: one search serves a whole column.
    position = torch.searchsorted(keys, wanted)
    hits, found = [], []
    for step in range(kernel_size):
        nearest = position.clamp(max=len(keys) - 1)
        hit = keys[nearest] == wanted + step
        hits.append(hit)
        found.append(nearest)
        position = position + hit
    hit = torch.stack(hits, dim=1).flatten(0, 1)[:half]
    index, target = hit.nonzero(as_tuple=True)
    source = torch.stack(found, dim=1).flatten(0, 1)[index, target]
    before = _split(order[source], order[target], index, half)
    centre = torch.arange(len(keys), device=keys.device)
    return [*before, (centre, centre), *((target, source) for source, target in reversed(before))]


class SubmanifoldConv3d(nn.Module):
    """Convolution of occupied voxels only; the output has the voxels of the input.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: odd, the same along all axes.

    Raises:
        UserError: an even kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise UserError(f"a submanifold convolution needs an odd kernel, not {kernel_size}")
        self.kernel_size = kernel_size
        self.weight = _weight(in_channels, out_channels, kernel_size)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Return the convolved features on the voxels of ``x``."""
        key = f"submanifold{self.kernel_size}"
        if key not in x.maps:
            x.maps[key] = submanifold_map(x.coordinates, x.shape, x.batch_size, self.kernel_size)
        return x.with_features(_convolve(x.features, self.weight, x.maps[key], len(x.features)))


class _GatherMatmulScatter(torch.autograd.Function):
    """``out[target] += features[source] @ weight[k]`` for every position k of the kernel.

    Autograd would keep the gathered rows of every position for the backward pass, ten times the
    features themselves; here they are gathered again.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, pairs: KernelMap, rows: int) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        out = _accumulator(features, rows, weight.shape[2])
        for kernel, (source, target) in zip(weight, pairs, strict=True):
            product = features.index_select(0, source) @ kernel
            out.index_add_(0, target, product.to(out.dtype))
        return out.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        features, weight = ctx.saved_tensors
        grad_features = _accumulator(features, *features.shape)
        grad_weight = torch.empty_like(weight)
        for k, (source, target) in enumerate(ctx.pairs):
            grad_rows = grad.index_select(0, target)
            product = grad_rows @ weight[k].t()
            grad_features.index_add_(0, source, product.to(grad_features.dtype))
            grad_weight[k] = features.index_select(0, source).t() @ grad_rows
        return grad_features.to(features.dtype), grad_weight, None, None


def _accumulator(like: Tensor, rows: int, channels: int) -> Tensor:
    return torch.zeros(
        rows, channels, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32)
    )


def _convolve(features: Tensor, weight: Tensor, pairs: KernelMap, rows: int) -> Tensor:
    device = features.device.type
    if torch.is_autocast_enabled(device):
        features = features.to(torch.get_autocast_dtype(device))
    kernels = weight.flatten(1, 3).permute(1, 2, 0).to(features.dtype).contiguous()
    out: Tensor = _GatherMatmulScatter.apply(features, kernels, pairs, rows)
    return out


def _ravel(indices: Tensor, sides: Sequence[int], first: Tensor | int = 0) -> Tensor:
    keys: Tensor | int = first
    for column, side in zip(indices.unbind(dim=1), sides, strict=True):
        keys = keys * side + column
    assert isinstance(keys, Tensor)
    return keys


def _split(source: Tensor, target: Tensor, index: Tensor, size: int) -> KernelMap:
    counts = index.bincount(minlength=size).tolist()
    return list(zip(torch.split(source, counts), torch.split(target, counts), strict=True))


def _weight(in_channels: int, out_channels: int, kernel_size: int) -> nn.Parameter:
    """Return a kernel in spconv's layout, initialised as a dense convolution would be."""
    weight = torch.empty(out_channels, kernel_size, kernel_size, kernel_size, in_channels)
    bound = (in_channels * kernel_size**3) ** -0.5
    return nn.Parameter(nn.init.uniform_(weight, -bound, bound))
