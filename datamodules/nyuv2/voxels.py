"""SSCNet's volumes: the run-length coded ``.bin``, the 11 classes, and coarser targets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import read_bytes

from .labels import SSC_NAMES

Labels = NDArray[np.uint8]
Number = TypeVar("Number", bound=np.generic)
Grid = tuple[int, int, int]

#: Voxels of a volume along world x, height (world z) and world y.
GRID: Grid = (240, 144, 240)
#: Side of a voxel in metres.
VOXEL_SIZE = 0.02
#: Side, in voxels of the volume, of what is one voxel of the target.
BLOCK = 4
#: Label of voxels outside the view or the room.
IGNORED = 255

_HEADER = np.dtype([("origin", "<f4", 3), ("pose", "<f4", (4, 4))])
_RUN = np.dtype([("value", "<u4"), ("length", "<u4")])
_UNKNOWN = 254  # stands in the map for labels outside it
_EMPTY_SHARE = 0.95
_AGAIN = "get SSCNet's NYU data again"
_STRETCH, _FLAT = 0.1, 1e-6  # of axes that should be of length 1 and span the world
_FARTHEST = 1e5  # metres


def _class_of_label() -> Labels:
    rows = yaml.safe_load(Path(__file__).with_name("classes36.yaml").read_text(encoding="utf-8"))
    table = np.full(256, _UNKNOWN, dtype=np.uint8)
    table[[0, IGNORED]] = 0, IGNORED
    table[1 : len(rows) + 1] = [SSC_NAMES.index(row["class"]) for row in rows]
    return table


#: uint8 (256,): class 0..11 of the labels 0..36 of the files; 255 stays 255.
CLASS_OF_LABEL = _class_of_label()


class Volume(NamedTuple):
    """A volume as its file has it: runs of equal labels in C order.

    Attributes:
        origin: float64 (3,): corner of the first voxel in the world, metres (x, y, z; z is up).
        pose: float64 (4, 4): from the camera (x right, y down, z forward) to the world.
        grid: number of voxels along world x, height and world y.
        values: uint8 (R,): labels 0..36, or 255.
        lengths: int64 (R,): their sum is the number of voxels.
    """

    origin: NDArray[np.float64]
    pose: NDArray[np.float64]
    grid: Grid
    values: Labels
    lengths: NDArray[np.int64]

    def labels(self) -> Labels:
        """Return the labels of the file: uint8 ``grid``, 0..36 or 255."""
        return np.repeat(self.values, self.lengths).reshape(self.grid)

    def classes(self) -> Labels:
        """Return the classes they are learnt as: uint8 ``grid``, 0 empty, 1..11, or 255."""
        return np.repeat(CLASS_OF_LABEL[self.values], self.lengths).reshape(self.grid)


def read_voxels(path: Path, grid: Grid = GRID) -> Volume:
    """Read a volume in SSCNet's format; its runs are checked, and not yet decoded.

    3 float32 origin, 16 float32 pose (row by row), then pairs of uint32: label and run.

    Source: Song et al., CVPR 2017 (SSCNet), its data release.

    Raises:
        UserError: the file is missing, cut off or too long, its runs do not add up to the grid, a
            label is not in the map, or origin or pose are not those of a camera.
    """
    voxels = math.prod(grid)
    # More runs than voxels is another file.
    most = _HEADER.itemsize + voxels * _RUN.itemsize
    content = read_bytes(path, most, _AGAIN)
    if len(content) < _HEADER.itemsize or (len(content) - _HEADER.itemsize) % _RUN.itemsize:
        raise FileError(
            f"{path}: {len(content)} bytes, expected {_HEADER.itemsize} and {_RUN.itemsize} for "
            f"each run; {_AGAIN}"
        )
    header = np.frombuffer(content, _HEADER, 1)[0]
    runs = np.frombuffer(content, _RUN, offset=_HEADER.itemsize)
    _check_runs(path, runs, grid)
    return Volume(
        header["origin"].astype(np.float64),
        _checked_pose(path, header["origin"], header["pose"]),
        grid,
        runs["value"].astype(np.uint8),
        runs["length"].astype(np.int64),
    )


def _check_runs(path: Path, runs: NDArray[np.void], grid: Grid) -> None:
    # At most 8 million runs of less than 2^32 voxels: the sum cannot overflow.
    total, voxels = int(runs["length"].sum(dtype=np.uint64)), math.prod(grid)
    if total != voxels:
        raise FileError(
            f"{path}: its runs add up to {total} voxels, expected {voxels} "
            f"({'x'.join(map(str, grid))}); get it again"
        )
    value = runs["value"]
    unknown = (value > IGNORED) | (CLASS_OF_LABEL[value & 0xFF] == _UNKNOWN)
    if unknown.any():
        raise FileError(
            f"{path}: label {value[unknown][0]}, expected 0 to 36 or {IGNORED}; get it again"
        )


def _checked_pose(
    path: Path, origin: NDArray[np.float32], pose: NDArray[np.float32]
) -> NDArray[np.float64]:
    double = pose.astype(np.float64)
    if not (np.isfinite(origin).all() and np.isfinite(double).all()):
        raise FileError(f"{path}: origin or pose holds values that are not finite; {_AGAIN}")
    far = max(np.abs(origin).max(), np.abs(double[:3, 3]).max()) > _FARTHEST
    stretch = np.abs(np.linalg.norm(double[:3, :3], axis=1) - 1).max() > _STRETCH
    flat = abs(np.linalg.det(double)) < _FLAT
    if far or stretch or flat or not np.array_equal(double[3], [0, 0, 0, 1]):
        raise FileError(f"{path}: its pose or origin is not one of a camera; {_AGAIN}")
    return double


def write_voxels(
    path: Path, origin: NDArray[np.floating], pose: NDArray[np.floating], labels: Labels
) -> None:
    """Write a volume as :func:`read_voxels` reads it.

    Args:
        path: the file.
        origin: (3,), metres.
        pose: (4, 4), from the camera to the world.
        labels: uint8, 0..36 or 255, in the order (world x, height, world y).
    """
    flat = labels.ravel()
    first = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    runs = np.empty(len(first), _RUN)
    runs["value"] = flat[first]
    runs["length"] = np.diff(first, append=flat.size)
    header = np.zeros(1, _HEADER)
    header["origin"], header["pose"] = origin, pose
    path.write_bytes(header.tobytes() + runs.tobytes())


def downsampled(classes: Labels, factor: int = BLOCK) -> Labels:
    """Return the class of every block of ``factor``³ voxels: uint8, the grid over ``factor``.

    A block of which more than 95 % is empty or ignored is the commoner of the two (of equals,
    ignored); any other block is its commonest class, empty and ignored left out (of equals, the
    lower number).

    Source: Song et al., CVPR 2017 (SSCNet), as its data loaders do.

    Args:
        classes: uint8 (X, Y, Z), 0..11 or 255.
        factor: a multiple of 4 that divides X, Y and Z.
    """
    # Four voxels are a word: a block is all alike if its words are, and the bytes of one are.
    words = np.ascontiguousarray(classes).view(np.uint32)
    every = over_blocks(np.bitwise_and, words, factor, factor // 4)
    some = over_blocks(np.bitwise_or, words, factor, factor // 4)
    result = every.astype(np.uint8)
    mixed = (every != some) | (every != result * np.uint32(0x01010101))
    x, y, z = result.shape
    cubes = words.reshape(x, factor, y, factor, z, -1).transpose(0, 2, 4, 1, 3, 5)
    result[mixed] = _majority(cubes[mixed].view(np.uint8).reshape(-1, factor**3))
    return result


def over_blocks(
    operation: np.ufunc, array: NDArray[Number], factor: int, last: int | None = None
) -> NDArray[Number]:
    """Return ``operation`` over every block of ``factor`` cubed: the shape (X, Y, Z) over it.

    The result has the array's type, and must fit into it.

    Args:
        operation: of two arguments.
        array: (X, Y, Z).
        factor: divides X, Y and Z.
        last: length of a block along Z if it is another.
    """
    x, y, z = array.shape
    last = last or factor
    # The last axis comes last: it is the slow one, and by then 1 / factor² is left.
    planes = operation.reduce(array.reshape(x // factor, factor, y, z), axis=1, dtype=array.dtype)
    rows = operation.reduce(planes.reshape(-1, factor, z), axis=1, dtype=array.dtype)
    cells = operation.reduce(rows.reshape(-1, last), axis=1, dtype=array.dtype)
    result: NDArray[Number] = cells.reshape(x // factor, y // factor, z // last)
    return result


def _majority(blocks: Labels) -> Labels:
    """Return the class of blocks (M, voxels) by the rule of :func:`downsampled`: uint8 (M,)."""
    classes = len(SSC_NAMES)
    column = np.arange(256)
    column[IGNORED] = classes
    width = classes + 1
    cell = column[blocks] + width * np.arange(len(blocks))[:, None]
    count = np.bincount(cell.ravel(), minlength=width * len(blocks)).reshape(-1, width)
    empty, ignored = count[:, 0], count[:, classes]
    hollow = empty + ignored > _EMPTY_SHARE * blocks.shape[1]
    common = count[:, 1:classes].argmax(axis=1) + 1
    return np.where(hollow, np.where(empty > ignored, 0, IGNORED), common).astype(np.uint8)
