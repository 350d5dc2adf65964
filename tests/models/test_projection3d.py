"""Projection into the voxel grid, against loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ntdh_bench.errors import UserError
from ntdh_bench.models.projection3d import project_to_voxels
from tests.typed import some

GRID = (4, 3, 5)
VOXELS = 60


def draw(batch: int = 2, height: int = 6, width: int = 7) -> tuple[Tensor, Tensor]:
    """Features of both signs; pixels share voxels, and about a third see none."""
    stream = torch.Generator().manual_seed(0)
    features = torch.randn(batch, 3, height, width, generator=stream, dtype=torch.float64)
    position = torch.randint(VOXELS // 2, (batch, height, width), generator=stream) * 2
    hidden = torch.rand(position.shape, generator=stream) < 0.3
    return features.requires_grad_(), position.masked_fill(hidden, -1)


def test_the_largest_of_a_voxels_pixels_by_channel() -> None:
    features, position = draw()
    volume = project_to_voxels(features, position, GRID)
    expected = torch.full((2, 3, VOXELS), -torch.inf, dtype=torch.float64)
    for sample, row, column in (position >= 0).nonzero().tolist():
        voxel = expected[sample, :, position[sample, row, column]]
        voxel.copy_(torch.maximum(voxel, features.detach()[sample, :, row, column]))
    assert torch.equal(volume, expected.masked_fill(expected.isinf(), 0).view(2, 3, *GRID))
    assert (volume < 0).any()


def test_the_first_and_the_last_voxel_are_voxels() -> None:
    features = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    volume = project_to_voxels(features, torch.tensor([[[0, -1, VOXELS - 1]]]), GRID)
    assert volume.flatten().nonzero().flatten().tolist() == [0, VOXELS - 1]
    assert volume[0, 0, 0, 0, 0] == 1
    assert volume[0, 0, -1, -1, -1] == 3


def test_gradients() -> None:
    features, position = draw(height=3, width=4)
    assert torch.autograd.gradcheck(lambda x: project_to_voxels(x, position, GRID), features)
    equal = torch.ones(1, 1, 1, 4, requires_grad=True)
    volume = project_to_voxels(equal, torch.tensor([[[7, 7, 8, -1]]]), GRID)
    volume.sum().backward()
    assert some(equal.grad).flatten().tolist() == [0.5, 0.5, 1.0, 0.0]


def test_neither_order_nor_the_batch_matters() -> None:
    features, position = draw()
    volume = project_to_voxels(features, position, GRID)
    alone = [project_to_voxels(features[[i]], position[[i]], GRID) for i in range(2)]
    assert torch.equal(volume, torch.cat(alone))
    turned = project_to_voxels(features.flip(2, 3), position.flip(1, 2), GRID)
    assert torch.equal(volume, turned)


def test_nothing_seen() -> None:
    features, position = draw()
    volume = project_to_voxels(features, torch.full_like(position, -1), GRID)
    assert not volume.any()
    assert project_to_voxels(features[:0], position[:0], GRID).shape == (0, 3, *GRID)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_type_stays(dtype: torch.dtype) -> None:
    features, position = draw()
    single = features.detach().to(dtype)
    volume = project_to_voxels(single, position, GRID)
    assert volume.dtype == dtype
    torch.testing.assert_close(volume, project_to_voxels(features, position, GRID).to(dtype))


def test_an_exported_program_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, position = draw()
    expected = project_to_voxels(features, position, GRID)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(project_to_voxels(features, position, GRID), expected)
    assert not project_to_voxels(features, torch.full_like(position, -1), GRID).any()


def test_positions_that_do_not_fit_are_refused() -> None:
    features, position = draw()
    with pytest.raises(UserError, match=r"\(2, 6, 7\), the position of its pixels \(2, 6, 6\)"):
        project_to_voxels(features, position[..., 1:], GRID)
    for wrong in (-2, VOXELS):
        position[1, 2, 3] = wrong
        with pytest.raises(UserError, match="in a grid of 60 voxels: set the network's grid"):
            project_to_voxels(features, position, GRID)
