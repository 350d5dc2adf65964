"""Plain-PyTorch sparse convolution on scans of a 64-beam lidar: time and memory."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ntdh_bench.models.sparse import (
    SparseTensor,
    SubmanifoldConv3d,
    submanifold_map,
    voxel_coordinates,
    voxel_keys,
)
from ntdh_bench.models.twodpass import TwoDPASSNet

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]
CHANNELS, ROUNDS, VOXEL_SIZE = 64, 5, 0.1
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def scan(voxels: int) -> Tensor:
    """About as many points as fill ``voxels`` voxels, x, y, z in metres: ground between walls."""
    generator = torch.Generator().manual_seed(0)
    azimuth = torch.linspace(-math.pi, math.pi, voxels // 40)[:, None]
    elevation = torch.linspace(-24.8, 2.0, 64).deg2rad()
    direction = torch.stack(
        [
            azimuth.cos() * elevation.cos(),
            azimuth.sin() * elevation.cos(),
            elevation.sin().expand(len(azimuth), -1),
        ],
        dim=-1,
    )
    reach = torch.tensor([50.0, 12.0, 1.73]) / direction.abs().clamp(min=1e-6)
    reach[..., 2].masked_fill_(direction[..., 2] > 0, torch.inf)
    distance = reach.amin(dim=-1) + 0.1 * torch.randn(reach.shape[:2], generator=generator)
    return (direction * distance[..., None]).flatten(0, 1)


def voxelised(points: Tensor) -> SparseTensor:
    indices = (points / VOXEL_SIZE).floor().long()
    indices -= indices.amin(dim=0)
    first, second, third = (indices.amax(dim=0) + 1).tolist()
    shape = (first, second, third)
    keys = voxel_keys(torch.nn.functional.pad(indices, (1, 0)), shape, 1).unique()
    coordinates = voxel_coordinates(keys, shape).to(DEVICE)
    features = torch.randn(len(coordinates), CHANNELS, device=DEVICE)
    return SparseTensor(features, coordinates, shape, 1)


def milliseconds(*runs: Callable[[], object]) -> list[float]:
    """Best wall time of each, in turns, so that a busy machine slows all alike."""
    best = [math.inf] * len(runs)
    for _ in range(ROUNDS):
        for number, run in enumerate(runs):
            start = time.perf_counter()
            run()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            best[number] = min(best[number], (time.perf_counter() - start) * 1e3)
    return best


def peak_mib(run: Callable[[], object]) -> float:
    """Memory that ``run`` needs at most, beyond what was in use before it (on a CPU: Linux)."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # else freed memory of earlier runs hides this one's
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _resident_kib("VmRSS")
    run()
    return (_resident_kib("VmHWM") - before) / 2**10


def _resident_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def test_submanifold_convolution() -> None:
    x = voxelised(scan(50_000))
    ours = SubmanifoldConv3d(CHANNELS, CHANNELS).to(DEVICE)
    pairs = submanifold_map(x.coordinates, x.shape, 1, 3)
    per_voxel = sum(len(source) for source, _ in pairs) / len(x.coordinates)

    @torch.no_grad()
    def forward() -> object:
        return ours(x)

    @torch.no_grad()
    def cold() -> object:  # without its maps, a tensor has them built anew
        return ours(SparseTensor(x.features, x.coordinates, x.shape, 1))

    features = x.features.clone().requires_grad_()

    def training() -> None:
        ours(x.with_features(features)).features.sum().backward()

    runs = training, forward, cold
    best, memory = milliseconds(*runs), [peak_mib(run) for run in runs]
    print(
        f"\n3x3x3, {CHANNELS} channels, {len(x.coordinates):,} voxels, {per_voxel:.1f} pairs a "
        f"voxel, {DEVICE}: forward and backward {best[0]:.1f} ms, {memory[0]:.0f} MiB; "
        f"forward {best[1]:.1f} ms, {memory[1]:.0f} MiB; with the kernel map {best[2]:.1f} ms, "
        f"{memory[2]:.0f} MiB"
    )


def test_memory_is_linear_in_voxels() -> None:
    layer = SubmanifoldConv3d(CHANNELS, CHANNELS).to(DEVICE)
    per_voxel = []
    for voxels in (25_000, 50_000, 100_000, 200_000):
        x = voxelised(scan(voxels))
        features = x.features.requires_grad_()
        mib = peak_mib(lambda x=x: layer(x).features.sum().backward())  # type: ignore[misc]
        per_voxel.append(mib * 2**20 / len(features))
        print(f"\n{len(features):,} voxels: {mib:.0f} MiB, {per_voxel[-1]:,.0f} bytes a voxel")
    assert max(per_voxel) < 2 * min(per_voxel)


def test_whole_network_on_a_scan() -> None:
    points = scan(50_000)
    inputs = {
        "points": torch.cat([points, torch.rand(len(points), 1)], dim=1).to(DEVICE),
        "scan": torch.zeros(len(points), dtype=torch.int64, device=DEVICE),
    }
    network = TwoDPASSNet().to(DEVICE)

    def training() -> None:
        network(inputs)["logits"].sum().backward()

    @torch.no_grad()
    def prediction() -> None:
        network(inputs)

    step, forward = milliseconds(training, prediction)
    print(
        f"\n2DPASS's 3D branch on {len(points):,} points, {DEVICE}: prediction {forward:.0f} ms, "
        f"forward and backward {step:.0f} ms, {peak_mib(training):.0f} MiB"
    )
