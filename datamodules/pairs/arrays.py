"""Paired arrays of one data set: what readers return, and the ``.npz`` that holds them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import FileError
from ntdh_bench.files.archives import open_zip
from ntdh_bench.files.arrays import MAX_MEMBERS, Spec, read_npz
from ntdh_bench.files.reading import checked_size, reading

TRAIN, TEST, VAL = 0, 1, 2
#: What the array of splits holds: numbers or words.
SPLITS = {"train": TRAIN, "test": TEST, "val": VAL}
_NUMBERS, _LABELS = Spec("fiub"), Spec("iubU", (-1,))
_USUAL = ("split", "group")
_PLAIN = Spec("fiubU")
_MAX_BYTES = 1 << 32
_EXPANSION, _HEADROOM = 100, 1 << 26  # what an honest file may expand to
_MAX_CLASSES = 10_000
_LARGEST = 1e30  # of which the square is a number, too
_WORD = re.compile(r"[\w-]{1,40}")
_FORMAT = "expected a .npz with an array (N, ...) of numbers a modality and one (N,) of targets"


@dataclass(frozen=True)
class PairedArrays:
    """N samples, each seen by every modality.

    Attributes:
        modalities: arrays of finite numbers ``(N, ...)`` by name.
        target: int64 ``(N,)``, from 0 without gaps.
        split: int8 ``(N,)``: 0 training, 1 test, 2 validation; None: not split.
        group: int64 ``(N,)``, what samples have in common (a subject); None: nothing.
        class_names: names of the classes; empty: their numbers.
    """

    modalities: Mapping[str, NDArray[Any]]
    target: NDArray[np.int64]
    split: NDArray[np.int8] | None = None
    group: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.target)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.target.max()) + 1

    def fault(self) -> str | None:
        """Return what is wrong with the arrays, a few words, or None."""
        count = len(self.target)
        rows = {"split": self.split, "group": self.group, **self.modalities}
        for name, array in rows.items():
            if array is not None and (not array.ndim or len(array) != count):
                return f"{name!r} has the shape {array.shape} for {count} targets"
        if empty := [name for name, array in self.modalities.items() if not array.size]:
            return f"{empty[0]!r} is empty"
        for name, array in self.modalities.items():
            if array.dtype.kind == "f" and not float(np.abs(array).max()) <= _LARGEST:
                return f"{name!r} holds values that are not finite, or beyond {_LARGEST:g}"
        present = np.unique(self.target)
        if not 2 <= len(present) <= _MAX_CLASSES:
            return f"{len(present)} classes, expected 2 to {_MAX_CLASSES:,}"
        if not np.array_equal(present, np.arange(len(present))):
            return "the targets are not 0, 1, 2, ... without gaps"
        if self.split is None:
            return None
        if strange := set(np.unique(self.split).tolist()) - set(SPLITS.values()):
            return (
                f"'split' holds {min(strange)}, expected 0 (training), 1 (test) or 2 (validation)"
            )
        return None


def write_arrays(path: Path, arrays: PairedArrays) -> None:
    """Write a ``.npz``, whole or not at all: an array a modality, ``target``, ``split``, ``group``.

    Raises:
        UserError: the folder cannot be written.
        ValueError: the arrays do not go together.
    """
    if fault := arrays.fault():
        raise ValueError(f"{path.name}: {fault}")
    parts = {"target": arrays.target, "split": arrays.split, "group": arrays.group}
    given: dict[str, Any] = {name: array for name, array in parts.items() if array is not None}
    with write_atomic(path) as temporary:
        np.savez_compressed(temporary, **{**arrays.modalities, **given})


def read_arrays(
    path: Path,
    modalities: tuple[str, ...] | None = None,
    target: str = "target",
    split: str | None = "split",
    group: str | None = "group",
) -> PairedArrays:
    """Read a ``.npz`` of paired arrays.

    Args:
        path: the file.
        modalities: names of the arrays to read; None: all but those named below.
        target: name of the array ``(N,)`` of classes, whole numbers or words of any value.
        split: of the splits, 0, 1, 2 or train, test, val. None: not read. It may be absent if it is
            called ``split``.
        group: likewise, of groups, whole numbers or words; absent if called ``group``.

    Raises:
        FileError: the file is missing, damaged, or lacks an array; or they do not go together.
    """
    labels = {name: _LABELS for name in (target, split, group) if name is not None}
    if given := sorted(labels.keys() & set(modalities or ())):
        raise FileError(
            f"{path}: {given[0]!r} is to be a modality, and classes, splits or groups as well: "
            "name another array"
        )
    wanted = None if modalities is None else {**dict.fromkeys(modalities, _NUMBERS), **labels}
    default = _PLAIN if modalities is None else None
    limit = min(_MAX_BYTES, _EXPANSION * checked_size(path, _MAX_BYTES, _FORMAT) + _HEADROOM)
    found = read_npz(path, wanted or labels, default=default, max_bytes=limit, remedy=_FORMAT)
    names = modalities or tuple(
        name for name, array in found.items() if name not in labels and array.dtype.kind != "U"
    )
    named = [name for name in (split, group) if name not in (None, *_USUAL)]
    if missing := [name for name in (*names, target, *named) if name not in found]:
        there = ", ".join(array_names(path)[:10]) or "none"
        raise FileError(f"{path}: no array {missing[0]!r}; it has {there}: name one of them")
    classes, numbers = np.unique(found[target], return_inverse=True)
    arrays = PairedArrays(
        {name: _native(found[name]) for name in names},
        numbers.astype(np.int64),
        _splits(path, found.get(split or "")),
        _groups(found.get(group or "")),
        tuple(map(str, classes.tolist())),
    )
    if fault := arrays.fault():
        raise FileError(f"{path}: {fault}; {_FORMAT}")
    return arrays


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays of a ``.npz``, in its order, those that are plain words.

    Raises:
        FileError: the file is missing or damaged.
    """
    what = "a .npz of plain arrays"
    with reading(path, what, _FORMAT), open_zip(path, MAX_MEMBERS, what, _FORMAT) as archive:
        names = [member.filename.removesuffix(".npy") for member in archive.infolist()]
    return [name for name in names if _WORD.fullmatch(name)]


def shown_name(name: str) -> str:
    """Return the name of an array, which may be any text of the file's own, fit for a terminal."""
    return name if _WORD.fullmatch(name) else f"{name!a:.40}"


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as PyTorch takes them: of 8 bytes at most, in this machine's byte order."""
    dtype = array.dtype.newbyteorder("=")
    return array.astype(np.float64 if dtype.itemsize > 8 else dtype, copy=False)


def _splits(path: Path, array: NDArray[Any] | None) -> NDArray[np.int8] | None:
    if array is None:
        return None
    if array.dtype.kind == "U":
        if strange := set(np.unique(array).tolist()) - SPLITS.keys():
            raise FileError(f"{path}: a split is {min(strange)!r:.40}, expected train, test or val")
        return np.array([SPLITS[word] for word in array.tolist()], np.int8)
    numbers: NDArray[np.int8] = np.clip(array, -1, 127).astype(np.int8)
    return numbers


def _groups(array: NDArray[Any] | None) -> NDArray[np.int64] | None:
    if array is None or array.dtype.kind in "iu":
        return None if array is None else array.astype(np.int64)
    return np.unique(array, return_inverse=True)[1].astype(np.int64)
