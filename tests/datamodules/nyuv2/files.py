"""A few labelled pairs in the published layouts, without the marker of generated files."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from ntdh_bench.datamodules.nyuv2.layout import Pair
from ntdh_bench.datamodules.nyuv2.pairs import write_pair

SIZE = (12, 16)
SPLIT = {"train": [5, 2, 4], "test": [1, 3]}


def raw_pair(index: int, size: tuple[int, int] = SIZE) -> Pair:
    """Red is a pixel's row, green its column, blue the index; the label is a raw class, uint16.

    There is no depth at (0, 0), and no label in row 0.
    """
    rows, columns = np.indices(size)
    rgb = np.stack([rows, columns, np.full(size, index)], axis=2).astype(np.uint8)
    depth = (1000 * index + 100 * rows + columns).astype(np.uint16)
    depth[0, 0] = 0
    label = ((rows * 97 + columns + index) % 894 + 1).astype(np.uint16)
    label[0] = 0
    return Pair(rgb, depth, label)  # type: ignore[arg-type]


def class_map() -> NDArray[np.uint8]:
    """The class 1..40 of each raw class 1..894."""
    return (np.arange(894) * 7 % 40 + 1).astype(np.uint8)


def pair(index: int, size: tuple[int, int] = SIZE) -> Pair:
    """What is to be read."""
    rgb, depth, raw = raw_pair(index, size)
    return Pair(rgb, depth, np.concatenate([[0], class_map()]).astype(np.uint8)[raw])


def write_prepared(root: Path, count: int = 5, size: tuple[int, int] = SIZE) -> Path:
    """The folder ``nyuv2/prepared``."""
    folder = root / "nyuv2" / "prepared"
    for index in range(1, count + 1):
        write_pair(folder, index, pair(index, size))
    (folder / "split.json").write_text(json.dumps(SPLIT))
    return folder


def write_mat(folder: Path, count: int = 5, size: tuple[int, int] = SIZE) -> Path:
    """The three published files, axes reversed as MATLAB writes them."""
    folder.mkdir(parents=True)
    pairs = [raw_pair(index, size) for index in range(1, count + 1)]
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.stack([pair.rgb.T for pair in pairs])
        metres = np.stack([pair.depth.T for pair in pairs]) / 1000
        metres[metres == 0] = np.nan
        file.create_dataset("depths", data=metres.astype("<f4"), chunks=(2, 4, 4), compression=3)
        file["labels"] = np.stack([pair.label.T for pair in pairs])
    columns = {f"{part}Ndxs": np.array(SPLIT[part], np.float64)[:, None] for part in SPLIT}
    scipy.io.savemat(folder / "splits.mat", columns)
    scipy.io.savemat(folder / "classMapping40.mat", {"mapClass": class_map()[None]})
    return folder
