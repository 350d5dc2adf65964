from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ntdh_bench.errors import UserError
from ntdh_bench.models import sparse
from ntdh_bench.models.sparse import (
    SparseTensor,
    SubmanifoldConv3d,
    submanifold_map,
    voxel_coordinates,
    voxel_keys,
)
from tests.typed import some

SHAPE = (7, 6, 5)


def occupied(channels: int = 4, dtype: torch.dtype = torch.float64) -> SparseTensor:
    """About a third of two small volumes, in random order."""
    generator = torch.Generator().manual_seed(0)
    rows = (torch.rand(2, *SHAPE, generator=generator) < 0.3).nonzero()
    rows = rows[torch.randperm(len(rows), generator=generator)]
    features = torch.randn(len(rows), channels, dtype=dtype, generator=generator)
    return SparseTensor(features, rows, SHAPE, 2)


def dense(x: SparseTensor) -> Tensor:
    """``(B, C, *shape)`` with zeros where no voxel is."""
    volume = x.features.new_zeros(x.batch_size, *x.shape, x.features.shape[1])
    return volume.index_put(x.coordinates.unbind(1), x.features).permute(0, 4, 1, 2, 3)


def at(volume: Tensor, coordinates: Tensor) -> Tensor:
    return volume.permute(0, 2, 3, 4, 1)[coordinates.unbind(1)]


def dense_weight(layer: Any) -> Tensor:
    weight: Tensor = layer.weight
    return weight.permute(0, 4, 1, 2, 3)


def same_gradients(
    found: Tensor, expected: Tensor, features: Tensor, weights: list[Tensor]
) -> bool:
    """Whether the sum of squares has the same gradients; ``weights`` of one or of each."""
    pairs = [
        torch.autograd.grad(values.square().sum(), [features, weight])
        for values, weight in ((found, weights[0]), (expected, weights[-1]))
    ]
    return all(torch.allclose(*pair, atol=1e-4) for pair in zip(*pairs, strict=True))


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_submanifold_is_a_dense_convolution_at_the_voxels(kernel_size: int) -> None:
    x = occupied()
    features = x.features.requires_grad_()
    layer = SubmanifoldConv3d(4, 3, kernel_size).double()
    out = layer(x)
    volume = F.conv3d(dense(x), dense_weight(layer), padding=kernel_size // 2)
    expected = at(volume, x.coordinates)
    assert torch.equal(out.coordinates, x.coordinates)
    assert torch.allclose(out.features, expected)
    assert same_gradients(out.features, expected, features, [layer.weight])


def test_kernel_map_is_built_once_per_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: Any) -> Any:
        calls.append(args)
        return submanifold_map(*args)

    monkeypatch.setattr(sparse, "submanifold_map", counted)
    first, second = (SubmanifoldConv3d(4, 4).double() for _ in range(2))
    x = occupied()
    second(first(x))
    first(x)
    assert len(calls) == 1
    first(occupied())
    assert len(calls) == 2


def test_scans_do_not_touch() -> None:
    x = occupied()
    layer = SubmanifoldConv3d(4, 3).double()
    alone = x.coordinates[:, 0] == 1
    rows = x.coordinates[alone] - torch.tensor([1, 0, 0, 0])
    part = SparseTensor(x.features[alone], rows, SHAPE, 1)
    assert torch.allclose(layer(x).features[alone], layer(part).features)


def test_the_volume_costs_nothing() -> None:
    side = 1_000_000
    rows = torch.tensor([[0, 0, 0, 0], [0, side - 1, side - 1, side - 1], [0, side - 1, 0, 0]])
    x = SparseTensor(torch.ones(3, 2), rows, (side, side, side), 1)
    layer = SubmanifoldConv3d(2, 2)
    expected = x.features @ layer.weight[:, 1, 1, 1].T  # no neighbours, not even around an edge
    assert torch.allclose(layer(x).features, expected)


def test_volume_beyond_int64() -> None:
    rows = torch.zeros(1, 4, dtype=torch.int64)
    x = SparseTensor(torch.ones(1, 2), rows, (3_000_000, 3_000_000, 3_000_000), 1)
    with pytest.raises(UserError, match="too many to number: remove stray points"):
        SubmanifoldConv3d(2, 2)(x)


def test_keys_and_coordinates() -> None:
    x = occupied()
    keys = voxel_keys(x.coordinates, SHAPE, 2)
    assert torch.equal(voxel_coordinates(keys, SHAPE), x.coordinates)
    assert len(keys.unique()) == len(keys)
    in_order = voxel_coordinates(keys.sort().values, SHAPE).tolist()
    assert in_order == sorted(x.coordinates.tolist())


def test_every_pair_is_in_the_kernel_map_once() -> None:
    x = occupied()
    rows = [tuple(row) for row in x.coordinates.tolist()]
    pairs = submanifold_map(x.coordinates, SHAPE, 2, 3)
    found = {
        (k, source, target)
        for k, (sources, targets) in enumerate(pairs)
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True)
    }
    steps = [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]
    place = {row: number for number, row in enumerate(rows)}
    expected = set()
    for number, (scan, *voxel) in enumerate(rows):
        for k, step in enumerate(steps):
            other = (scan, *(a + b for a, b in zip(voxel, step, strict=True)))
            if other in place:
                expected.add((k, place[other], number))
    assert found == expected
    assert sum(len(source) for source, _ in pairs) == len(expected)


def test_no_voxels() -> None:
    x = SparseTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int64), SHAPE, 1)
    assert SubmanifoldConv3d(4, 3)(x).features.shape == (0, 3)


def test_mixed_precision() -> None:
    x = occupied(dtype=torch.float32)
    layer = SubmanifoldConv3d(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x).features
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), layer(x).features, atol=0.05)
    out.float().sum().backward()
    assert some(layer.weight.grad).dtype == torch.float32


def test_initial_weights_are_those_of_a_dense_convolution() -> None:
    layer = SubmanifoldConv3d(16, 32)
    expected = torch.nn.Conv3d(16, 32, 3).weight
    assert torch.allclose(layer.weight.abs().max(), expected.abs().max(), rtol=0.01)


def test_an_even_kernel() -> None:
    with pytest.raises(UserError, match="needs an odd kernel, not 2"):
        SubmanifoldConv3d(1, 1, 2)
