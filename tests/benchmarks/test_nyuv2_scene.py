"""Scene completion: one scene from files to tensors against loops over voxels and pixels."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ntdh_bench.datamodules.nyuv2.camera import NYU_CAMERA, positions, read_depth
from ntdh_bench.datamodules.nyuv2.scenes import find_scenes
from ntdh_bench.datamodules.nyuv2.simulate import write_simulated
from ntdh_bench.datamodules.nyuv2.voxels import (
    CLASS_OF_LABEL,
    GRID,
    IGNORED,
    VOXEL_SIZE,
    Volume,
    downsampled,
    read_voxels,
)

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def depth_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_simulated(root, rooms=1)
    return next((root / "nyu_ssc" / "NYUtrain").glob("NYU*_0000.png"))


def milliseconds(run: Callable[[], object], rounds: int = 9) -> float:
    """The best of some rounds: processor time of the only thread."""
    taken = []
    for _ in range(rounds):
        start = time.thread_time()
        run()
        taken.append(1000 * (time.thread_time() - start))
    return min(taken)


def loop_decode(volume: Volume) -> NDArray[np.uint8]:
    """Class by class of the file's runs, voxel by voxel."""
    flat = np.zeros(volume.lengths.sum(), dtype=np.uint8)
    at = 0
    for value, length in zip(volume.values.tolist(), volume.lengths.tolist(), strict=True):
        label = int(CLASS_OF_LABEL[value])
        for voxel in range(at, at + length):
            flat[voxel] = label
        at += length
    return flat.reshape(volume.grid)


def loop_downsample(classes: NDArray[np.uint8], layers: int) -> NDArray[np.uint8]:
    """The first ``layers`` of the target's 60, block by block."""
    result = np.zeros((layers, 36, 60), dtype=np.uint8)
    for x, up, y in np.ndindex(*result.shape):
        cube = classes[4 * x : 4 * x + 4, 4 * up : 4 * up + 4, 4 * y : 4 * y + 4].ravel()
        empty, ignored = np.sum(cube == 0), np.sum(cube == IGNORED)
        if empty + ignored > 0.95 * 64:
            result[x, up, y] = 0 if empty > ignored else IGNORED
        else:
            result[x, up, y] = np.argmax(np.bincount(cube[(cube > 0) & (cube < IGNORED)]))
    return result


def loop_positions(
    depth: NDArray[np.uint16], pose: NDArray[np.float64], origin: NDArray[np.float64], rows: range
) -> NDArray[np.int32]:
    """The pixels of some rows, one by one."""
    result = np.full((len(rows), depth.shape[1]), -1, dtype=np.int32)
    turn, corner = pose.tolist(), origin.tolist()
    for at, row in enumerate(rows):
        for column, millimetres in enumerate(depth[row].tolist()):
            if not millimetres:
                continue
            z = millimetres / 1000
            x = (column - NYU_CAMERA.column) / NYU_CAMERA.focal * z
            y = (row - NYU_CAMERA.row) / NYU_CAMERA.focal * z
            index = [
                int((r[0] * x + r[1] * y + r[2] * z + r[3] - corner[axis]) // VOXEL_SIZE)
                for axis, r in enumerate(turn[:3])
            ]
            i, k, j = index
            if 0 <= i < GRID[0] and 0 <= j < GRID[1] and 0 <= k < GRID[2]:
                result[at, column] = (i * GRID[1] + j) * GRID[2] + k
    return result


def test_files_to_tensors(depth_file: Path) -> None:
    voxels = depth_file.with_suffix(".bin")
    volume, depth = read_voxels(voxels), read_depth(depth_file)
    classes = volume.classes()

    def ours() -> tuple[torch.Tensor, ...]:
        volume, depth = read_voxels(voxels), read_depth(depth_file)
        target = downsampled(volume.classes())
        position = positions(depth / 1000, volume.pose, volume.origin)
        return tuple(map(torch.from_numpy, (target, position, depth.astype(np.int32))))

    # The loops get a sixth of the target and of the image, evenly spread, and are scaled.
    layers, rows, share = 10, range(3, 480, 6), 6
    assert np.array_equal(loop_decode(volume), classes)
    found = loop_positions(depth, volume.pose, volume.origin, rows)
    target, position, _ = ours()
    agreement = (found == position.numpy()[list(rows)]).mean()
    assert agreement > 0.999  # a point on a voxel's face is rounded to either side
    assert np.array_equal(loop_downsample(classes[100:], 10), target.numpy()[25:35])

    reading = milliseconds(lambda: (read_voxels(voxels), read_depth(depth_file)))
    parts = [
        milliseconds(volume.classes),
        milliseconds(lambda: downsampled(classes)),
        milliseconds(lambda: positions(depth / 1000, volume.pose, volume.origin)),
    ]
    loops = [
        milliseconds(lambda: loop_decode(volume), 1),
        share * milliseconds(lambda: loop_downsample(classes[100:], layers), 1),
        share * milliseconds(lambda: loop_positions(depth, volume.pose, volume.origin, rows), 1),
    ]
    total, naive = milliseconds(ours), reading + sum(loops)
    for name, taken, loop in zip(("runs", "labels", "index"), parts, loops, strict=True):
        print(f"\n{name}: {taken:.2f} ms, loop {loop:.0f} ms ({loop / taken:.0f}x)", end="")
    print(
        f"\na scene from files to tensors, one core: {total:.1f} ms (reading {reading:.1f}), loops "
        f"{naive:.0f} ms (labels and index measured on a sixth): {naive / total:.0f}x"
    )
    assert naive > 100 * total


def test_preparing_a_scene(depth_file: Path) -> None:
    (scene,) = find_scenes(depth_file.parent)
    for stride in (1, 2, 4):
        taken = milliseconds(lambda stride=stride: scene.read(stride), 3)  # type: ignore[misc]
        print(f"\na scene with colours and visibility, scale {1 / stride}: {taken:.0f} ms", end="")
    assert milliseconds(lambda: scene.read(1), 3) < 500
