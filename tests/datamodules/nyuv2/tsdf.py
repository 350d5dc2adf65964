"""SSCNet's truncated signed distance of a scene, as far as its sign and its surface go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.datamodules.nyuv2.camera import read_depth
from ntdh_bench.datamodules.nyuv2.voxels import GRID, read_voxels


def flipped_tsdf(voxels: Path) -> NDArray[np.float32]:
    """Return 1 on the surface, -0.5 behind it and 0.5 elsewhere: float32 (240, 144, 240).

    A transcription of SSCNet's CUDA kernels (``depth2Grid``, ``SquaredDistanceTransform``) that
    shares no code with the package: float32, the transposed rotation, and voxels by their corner.
    """
    volume = read_voxels(voxels)
    depth = read_depth(voxels.with_suffix(".png")).astype(np.float32) / np.float32(1000)
    pose, origin = volume.pose.astype(np.float32), volume.origin.astype(np.float32)
    focal, unit = np.float32(518.8579), np.float32(0.02)

    row, column = np.indices(depth.shape, dtype=np.float32)
    camera = np.stack([(column - 320) * depth / focal, (row - 240) * depth / focal, depth])
    world = np.tensordot(pose[:3, :3], camera, 1) + pose[:3, 3, None, None]
    x, y, up = np.floor((world - origin[:, None, None]) / unit).astype(int)
    inside = (x >= 0) & (x < 240) & (y >= 0) & (y < 240) & (up >= 0) & (up < 144)

    result = np.full(GRID, 0.5, np.float32)
    for index, plane in enumerate(result):
        high, along = np.indices(plane.shape, dtype=np.float32)
        corner = np.stack([np.full_like(along, index), along, high]) * unit
        offset = corner + (origin - pose[:3, 3])[:, None, None]
        right, down, deep = np.tensordot(pose[:3, :3].T, offset, 1)
        ahead = np.where(deep > 0, deep, np.inf)
        column, row = (
            np.trunc(value + np.copysign(np.float32(0.5), value))
            for value in (focal * right / ahead + 320, focal * down / ahead + 240)
        )
        seen = (deep > 0) & (column >= 0) & (column < 640) & (row >= 0) & (row < 480)
        measured = np.zeros_like(deep)
        measured[seen] = depth[row[seen].astype(int), column[seen].astype(int)]
        known = (measured >= 0.5) & (measured <= 8)
        plane[known & (deep - measured >= 0.0001)] = -0.5
    result[x[inside], up[inside], y[inside]] = 1
    return result
