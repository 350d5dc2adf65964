"""Scene completion at the published size: the projection against a loop, a step of DDRNet."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntdh_bench.models.aicnet import AICNet
from ntdh_bench.models.ddrnet import GRID, DDRNet
from ntdh_bench.models.projection3d import Grid, project_to_voxels
from tests.benchmarks.test_sparse import milliseconds, peak_mib

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOXELS = GRID[0] * GRID[1] * GRID[2]


def scene() -> tuple[Tensor, Tensor]:
    """Depth in metres and voxels of a Kinect's view of a room's far wall, floor and ceiling."""
    row, column = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing="ij")
    ray = torch.stack([column - 320, 240 - row, torch.full_like(row, 518.8579)], dim=-1) / 518.8579
    wall, level = torch.full_like(row, 4.0), 1.3 / ray[..., 1].abs().clamp(min=1e-6)
    depth = torch.minimum(wall, level)
    place = ray * depth[..., None] + torch.tensor([2.4, 1.4, 0.0])
    index = (place / 0.02).floor().long()
    inside = ((index >= 0) & (index < torch.tensor(GRID))).all(dim=-1)
    position = (index[..., 0] * GRID[1] + index[..., 1]) * GRID[2] + index[..., 2]
    return depth.view(1, 1, 480, 640), position.where(inside, -1)[None]


def loop(features: Tensor, position: Tensor, grid: Grid) -> Tensor:
    """What the projection does, pixel by pixel."""
    batch, channels, height, width = features.shape
    volume = features.new_zeros(batch, channels, grid[0] * grid[1] * grid[2])
    found: set[tuple[int, int]] = set()
    for sample in range(batch):
        for row in range(height):
            for column in range(width):
                voxel = int(position[sample, row, column])
                if voxel < 0:
                    continue
                values = features[sample, :, row, column]
                if (sample, voxel) in found:
                    values = torch.maximum(volume[sample, :, voxel], values)
                volume[sample, :, voxel] = values
                found.add((sample, voxel))
    return volume.view(batch, channels, *grid)


def test_projection_against_a_loop() -> None:
    _, position = scene()
    features = torch.randn(1, 8, 480, 640)
    start = time.perf_counter()
    expected = loop(features, position, GRID)
    seconds = time.perf_counter() - start
    assert torch.equal(project_to_voxels(features, position, GRID), expected)
    features, position = features.to(DEVICE).requires_grad_(), position.to(DEVICE)
    slope = torch.ones_like(expected, device=DEVICE)

    def forward() -> object:
        with torch.no_grad():
            return project_to_voxels(features, position, GRID)

    def both() -> None:
        features.grad = None
        project_to_voxels(features, position, GRID).backward(slope)

    def clear() -> object:
        return torch.zeros(1, 8, VOXELS, device=DEVICE)

    once, twice, empty = milliseconds(forward, both, clear)
    voxels = len(position.unique()) - 1
    print(
        f"\n8 channels of 480x640 pixels into {voxels:,} of {VOXELS:,} voxels, {DEVICE}, one core: "
        f"{once:.0f} ms, of which {empty:.0f} for the empty volume, with its gradient {twice:.0f} "
        f"ms; a Python loop, without one, {seconds:.1f} s: {1e3 * seconds / once:.0f}x"
    )
    assert 1e3 * seconds > 5 * once


@pytest.mark.parametrize("network", [DDRNet, AICNet])
def test_training_step(network: type[nn.Module]) -> None:
    torch.set_num_threads(2)
    depth, position = scene()
    inputs = {"image": depth.to(DEVICE), "position": position.to(DEVICE)}
    target = torch.randint(12, (1, 60, 36, 60), device=DEVICE)
    model = network(in_channels=1).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), target).backward()
        optimizer.step()

    @torch.no_grad()
    def prediction() -> None:
        model(inputs)

    step()
    training, forward = milliseconds(step, prediction)
    print(
        f"\n{network.__name__}, depth, batch 1, 480x640 into 240x144x240, {DEVICE}, two threads: "
        f"training step {training / 1e3:.2f} s, {peak_mib(step):,.0f} MiB; prediction "
        f"{forward / 1e3:.2f} s, {peak_mib(prediction):,.0f} MiB"
    )
