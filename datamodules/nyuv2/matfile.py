"""The published MATLAB files: all labelled pairs (HDF5, read one at a time), split and classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from ntdh_bench.errors import UserError

from .labels import NYU40_NAMES
from .layout import (
    CLASSES_MAT,
    HOW_TO_GET,
    LABELLED_MAT,
    MAX_PIXELS,
    SPLIT_MAT,
    Pair,
    Part,
    checked_split,
)

RAW_CLASSES = 894
_MAX_PAIRS = 10_000
_MAX_CHUNK_BYTES = 1 << 28
#: Of decoded chunks, per variable: a chunk of the file may hold pieces of many pairs.
_CACHE_BYTES = 1 << 27
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
        UserError: a file is missing or not of its format, or lacks a variable or has one of
            another type or shape.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LABELLED_MAT
        self._file = _open(self.path)
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
            UserError: the file is damaged, or has a label above 894.
        """
        try:
            image, metres, raw = (variable[index - 1].T for variable in self._variables.values())
        except OSError as error:
            raise UserError(
                f"{self.path}: pair {index} cannot be read ({error}); get the file again"
            ) from None
        if raw.max() > RAW_CLASSES:
            raise UserError(
                f"{self.path}: label {raw.max()} in pair {index}, expected at most {RAW_CLASSES}; "
                "get the file again"
            )
        millimetres = np.nan_to_num(1000 * metres.astype(np.float64), nan=0, posinf=0, neginf=0)
        depth = np.rint(millimetres).clip(0, 0xFFFF).astype(np.uint16)
        return Pair(image, depth, self._classes[raw])

    def _variable(self, name: str) -> Any:
        # Only what lies in this very file is read: links and external storage may point anywhere.
        link = self._file.get(name, getlink=True)
        variable = self._file.get(name) if isinstance(link, h5py.HardLink) else None
        if not isinstance(variable, h5py.Dataset) or variable.external or variable.is_virtual:
            there = ", ".join(sorted(self._file)[:10]) or "nothing"
            raise UserError(f"{self.path}: no variable {name!r} (there: {there}); {HOW_TO_GET}")
        kind, axes = _VARIABLES[name]
        chunk = math.prod(variable.chunks or ()) * variable.dtype.itemsize
        if (
            variable.dtype.kind != kind
            or variable.ndim != len(axes)
            or (name == "images" and (variable.shape[1] != 3 or variable.dtype.itemsize != 1))
            or chunk > _MAX_CHUNK_BYTES
        ):
            raise self._unexpected(name, variable)
        return variable

    def _check_shapes(self, count: int, width: int, height: int) -> None:
        for name, variable in self._variables.items():
            same = variable.shape[0] == count and variable.shape[-2:] == (width, height)
            if not same or not 0 < count <= _MAX_PAIRS or not 0 < width * height <= MAX_PIXELS:
                raise self._unexpected(name, variable)

    def _unexpected(self, name: str, variable: Any) -> UserError:
        kind, axes = _VARIABLES[name]
        expected = "unsigned integers" if kind == "u" else "floating-point numbers"
        return UserError(
            f"{self.path}: {name} is {variable.dtype} {variable.shape}, expected {expected} "
            f"({', '.join(axes)}), sizes equal in all variables; get the file again"
        )


def read_split(path: Path, count: int) -> dict[Part, list[int]]:
    """Return the official indices, counted from 1, of each part.

    Args:
        path: ``splits.mat``.
        count: number of pairs there are.

    Raises:
        UserError: the file is missing or no MATLAB 5 file, lacks a variable, or an index is out of
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
        UserError: the file is missing or no MATLAB 5 file, or ``mapClass`` is not 894 numbers in
            1..40.
    """
    classes = _read_whole_numbers(path, "mapClass")
    if len(classes) != RAW_CLASSES or not 1 <= classes.min() <= classes.max() <= len(NYU40_NAMES):
        raise UserError(
            f"{path}: mapClass is not {RAW_CLASSES} numbers in 1..{len(NYU40_NAMES)}; get it again"
        )
    return np.concatenate([[0], classes]).astype(np.uint8)


def _read_whole_numbers(path: Path, name: str) -> NDArray[np.int64]:
    """Read a variable of a MATLAB 5 file as int64 (N,)."""
    if not path.is_file():
        raise UserError(f"{path} is missing; {HOW_TO_GET}")
    try:
        shapes = {key: shape for key, shape, _ in scipy.io.whosmat(path)}
        if name in shapes and math.prod(shapes[name]) > _MAX_PAIRS:
            raise ValueError(f"{name} has the shape {shapes[name]}")
        values = scipy.io.loadmat(path, variable_names=[name])[name].ravel()
        whole: NDArray[np.int64] = values.astype(np.int64)
        if not np.array_equal(values, whole):
            raise ValueError(f"{name} are not whole numbers")
    except KeyError:
        raise UserError(f"{path}: no variable {name!r}; {HOW_TO_GET}") from None
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        raise UserError(f"{path}: not a sound MATLAB 5 file ({error}); get it again") from None
    return whole


def _open(path: Path) -> Any:
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CACHE_BYTES, rdcc_nslots=10_007)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {HOW_TO_GET}") from None
    except OSError as error:
        raise UserError(
            f"{path}: not a MATLAB 7.3 (HDF5) file ({error}); get it again: it has 2.8 GB"
        ) from None
