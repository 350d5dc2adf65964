"""The published MATLAB files: all labelled pairs (HDF5, read one at a time), split and classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.mat5 import read_mat5
from ntdh_bench.files.reading import AGAIN, reading

from .labels import NYU40_NAMES
from .layout import CLASSES_MAT, HOW_TO_GET, LABELLED_MAT, SPLIT_MAT, Pair, Part, checked_split

RAW_CLASSES = 894
_MAX_PAIRS = 10_000
_MAX_PIXELS = 1 << 20  # of an image: published ones have 307,200
_MAX_MAT_BYTES = 1 << 20  # of the split and of the classes: published ones have a few thousand
#: Of decoded chunks, per variable: a chunk of the file may hold pieces of many pairs.
_CACHE_BYTES = 1 << 27
#: Of a chunk, unless the file is larger: it is decoded whole.
_CHUNK_BYTES = 1 << 23
_WHAT = "a MATLAB 7.3 (HDF5) file"
#: Kind of number and shape of each variable on disk; MATLAB writes its axes in reverse.
_VARIABLES = {
    "images": ("u", ("N", "3", "width", "height")),
    "depths": ("f", ("N", "width", "height")),
    "labels": ("u", ("N", "width", "height")),
}


class LabelledMat:
    """The pairs of ``nyu_depth_v2_labeled.mat``: a :class:`.layout.PairSource`.

    With ``splits.mat`` (``trainNdxs``, ``testNdxs``, counted from 1) and ``classMapping40.mat``
    (``mapClass``: 894 raw classes to 40). Depth is the in-filled one (``depths``, metres). Nothing
    is read before a pair is asked for.

    Args:
        folder: that holds the three files.

    Raises:
        FileError: a file is missing or not of its format, or lacks a variable or has one of
            another type or shape.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LABELLED_MAT
        self._file = _open(self.path)
        self._max_chunk = max(_CHUNK_BYTES, min(self.path.stat().st_size, _CACHE_BYTES))
        with reading(self.path, _WHAT):
            self._variables = {name: self._variable(name) for name in _VARIABLES}
        images = self._variables["images"]
        count, _, width, height = images.shape
        #: (height, width) of every image
        self.size: tuple[int, int] = (height, width)
        self._check_shapes(count, width, height)
        self.split: dict[Part, list[int]] = read_split(folder / SPLIT_MAT, count)
        self._classes = read_class_map(folder / CLASSES_MAT)

    def files(self, indices: Sequence[int]) -> list[Path]:
        """Return the three files, whatever the pairs."""
        return [self.folder / name for name in (LABELLED_MAT, SPLIT_MAT, CLASSES_MAT)]

    def read(self, index: int) -> Pair:
        """Read one pair; depth is rounded to millimetres, 0 where it is not finite.

        Raises:
            FileError: the file is damaged, or has a label above 894.
        """
        with reading(self.path, f"{_WHAT} whose pair {index} can be read"):
            image, metres, raw = (variable[index - 1].T for variable in self._variables.values())
        if raw.max() > RAW_CLASSES:
            raise FileError(
                f"{self.path}: a label above {RAW_CLASSES} in pair {index}; get the file again"
            )
        with np.errstate(over="ignore"):
            millimetres = 1000 * metres.astype(np.float64)
        np.nan_to_num(millimetres, copy=False, nan=0, posinf=0, neginf=0)
        depth = np.rint(millimetres).clip(0, 0xFFFF).astype(np.uint16)
        return Pair(image, depth, self._classes[raw])

    def _variable(self, name: str) -> Any:
        import h5py

        # Only what lies in this very file is read: links and external storage may point anywhere.
        link = self._file.get(name, getlink=True)
        variable = self._file.get(name) if isinstance(link, h5py.HardLink) else None
        if not isinstance(variable, h5py.Dataset) or variable.external or variable.is_virtual:
            raise FileError(f"{self.path}: no variable {name!r}; {HOW_TO_GET}")
        kind, axes = _VARIABLES[name]
        chunk = math.prod(variable.chunks or ()) * variable.dtype.itemsize
        if (
            variable.dtype.kind != kind
            or variable.ndim != len(axes)
            or (name == "images" and (variable.shape[1] != 3 or variable.dtype.itemsize != 1))
            or chunk > self._max_chunk
        ):
            raise self._unexpected(name, variable)
        return variable

    def _check_shapes(self, count: int, width: int, height: int) -> None:
        for name, variable in self._variables.items():
            same = variable.shape[0] == count and variable.shape[-2:] == (width, height)
            if not same or not 0 < count <= _MAX_PAIRS or not 0 < width * height <= _MAX_PIXELS:
                raise self._unexpected(name, variable)

    def _unexpected(self, name: str, variable: Any) -> FileError:
        kind, axes = _VARIABLES[name]
        expected = "unsigned integers" if kind == "u" else "floating-point numbers"
        return FileError(
            f"{self.path}: {name} is {variable.dtype.name} {variable.shape}, expected {expected} "
            f"({', '.join(axes)}), sizes equal in all variables; get the file again"
        )


def read_split(path: Path, count: int) -> dict[Part, list[int]]:
    """Return the official indices, counted from 1, of each part.

    Args:
        path: ``splits.mat``.
        count: number of pairs there are.

    Raises:
        FileError: the file is missing or no MATLAB 5 file, lacks a variable, or an index is out of
            range or there twice.
    """
    variables = {"train": "trainNdxs", "test": "testNdxs"}
    split = {part: _read_whole_numbers(path, name).tolist() for part, name in variables.items()}
    return checked_split(path, split, set(range(1, count + 1)))


def read_class_map(path: Path) -> NDArray[np.uint8]:
    """Return the class 0..40 of each raw class 0..894: uint8 (895,); 0 stays 0.

    Args:
        path: ``classMapping40.mat``.

    Raises:
        FileError: the file is missing or no MATLAB 5 file, or ``mapClass`` is not 894 numbers in
            1..40.
    """
    classes = _read_whole_numbers(path, "mapClass")
    if len(classes) != RAW_CLASSES or not 1 <= classes.min() <= classes.max() <= len(NYU40_NAMES):
        raise FileError(
            f"{path}: mapClass is not {RAW_CLASSES} numbers in 1..{len(NYU40_NAMES)}; get it again"
        )
    return np.concatenate([[0], classes]).astype(np.uint8)


def _read_whole_numbers(path: Path, name: str) -> NDArray[np.int64]:
    """Read a variable of a MATLAB 5 file as int64 (N,)."""
    if not path.is_file():
        raise FileError(f"{path} is missing; {HOW_TO_GET}")
    values = read_mat5(path, name, _MAX_MAT_BYTES)
    if values is None:
        raise FileError(f"{path}: no variable {name!r}; {HOW_TO_GET}")
    if values.size > _MAX_PAIRS:
        raise FileError(f"{path}: {name} has {values.size} values, at most {_MAX_PAIRS}; {AGAIN}")
    if (values != np.rint(values)).any() or (np.abs(values) > _MAX_PAIRS).any():
        raise FileError(f"{path}: {name} are not whole numbers up to {_MAX_PAIRS}; {AGAIN}")
    return values.ravel().astype(np.int64)


def _open(path: Path) -> Any:
    import h5py

    if not path.is_file():
        raise FileError(f"{path} is missing; {HOW_TO_GET}")
    with reading(path, _WHAT, f"{AGAIN}: it has 2.8 GB"):
        return h5py.File(path, "r", rdcc_nbytes=_CACHE_BYTES, rdcc_nslots=10_007)
