"""A tiny street in the published layout, without the marker of generated files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.datamodules.semantickitti.labels import RAW_NAMES

SIZE = (40, 120)
POINTS = 1500
P2 = "60 0 60 1.5 0 60 20 0.1 0 0 1 0.003"
TR = "0 -1 0 -0.01 0 0 -1 -0.08 1 0 0 -0.27"


def write_sequence(
    folder: Path, frames: int, seed: int, size: tuple[int, int] = SIZE, points: int = POINTS
) -> Path:
    """Random points all around; red is a pixel's column, green its row, blue the frame."""
    random = np.random.default_rng(seed)
    for name in ("velodyne", "labels", "image_2"):
        (folder / name).mkdir(parents=True)
    (folder / "calib.txt").write_text(f"P0: {P2}\nP2: {P2}\nTr: {TR}\n")
    rows, columns = np.indices(size, dtype=np.uint8)
    ids = np.array(sorted(RAW_NAMES), dtype=np.uint32)
    for number in range(frames):
        scan = random.uniform((-20, -20, -2, 0), (40, 20, 3, 1), (points, 4)).astype("<f4")
        scan.tofile(folder / "velodyne" / f"{number:06d}.bin")
        labels = random.choice(ids, points) | random.integers(0, 99, points, dtype="u4") << 16
        labels.astype("<u4").tofile(folder / "labels" / f"{number:06d}.label")
        image = np.stack([columns, rows, np.full(size, number, dtype=np.uint8)], axis=2)
        Image.fromarray(image).save(folder / "image_2" / f"{number:06d}.png")
    return folder


def write_street(
    root: Path, lengths: Sequence[tuple[int, int]] = ((0, 4), (8, 3), (10, 2))
) -> Path:
    """Sequences by (number, frames) below ``root``."""
    for number, frames in lengths:
        write_sequence(root / "semantickitti" / "sequences" / f"{number:02d}", frames, number)
    return root


def read_raw(folder: Path, name: str = "000000") -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Points (N, 4) and labels (N,) as they are in the files."""
    points = np.fromfile(folder / "velodyne" / f"{name}.bin", "<f4").reshape(-1, 4)
    return points, np.fromfile(folder / "labels" / f"{name}.label", "<u4")
