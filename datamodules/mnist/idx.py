"""The IDX files of MNIST: a reader that trusts nothing, and a writer."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import checked_size, reading

#: Images in the larger file of MNIST: more is another file, or a bomb.
MAX_COUNT = 60_000
_MAX_FILE = 64 << 20  # the larger file has 47 MB unpacked
_UINT8 = 0x08
_REMEDY = "get the file again with `ntdh-bench data prepare mnist`"

Bytes = NDArray[np.uint8]


def read_images(path: Path, size: int = 28) -> Bytes:
    """Read an IDX image file, gzipped or not: uint8 (n, size, size).

    Source: the format as described on the MNIST page (LeCun, Cortes, Burges).

    Raises:
        UserError: the file is not there, of another kind or size, truncated or too long.
    """
    return _read(path, "images", (size, size))


def read_labels(path: Path, num_classes: int = 10) -> Bytes:
    """Read an IDX label file, gzipped or not: uint8 (n,) in [0, num_classes).

    Raises:
        UserError: the file is not there, of another kind, truncated, too long, or has a label
            outside the range.
    """
    labels = _read(path, "labels", ())
    if len(labels) and labels.max() >= num_classes:
        raise FileError(f"{path}: label {labels.max()}, expected 0 to {num_classes - 1}; {_REMEDY}")
    return labels


def _read(path: Path, kind: str, item: tuple[int, ...]) -> Bytes:
    checked_size(path, _MAX_FILE, _REMEDY)
    opened = gzip.open if path.suffix == ".gz" else open
    with reading(path, "an IDX file", _REMEDY), opened(path, "rb") as file:
        return _parse(file, path, kind, item)


def _parse(file: Any, path: Path, kind: str, item: tuple[int, ...]) -> Bytes:
    """Check the header, and only then read as many bytes as it announces."""
    words = 2 + len(item)
    header = file.read(4 * words)
    expected = _UINT8 << 8 | len(item) + 1
    magic = int.from_bytes(header[:4], "big")
    if len(header) >= 4 and magic != expected:
        raise FileError(
            f"{path}: magic number {magic}, expected {expected} for MNIST {kind}: "
            f"another kind of file; {_REMEDY}"
        )
    if len(header) < 4 * words:
        raise FileError(f"{path}: truncated, {len(header)} bytes in all; {_REMEDY}")
    _, count, *shape = struct.unpack(f">{words}I", header)
    if tuple(shape) != item:
        raise FileError(f"{path}: {kind} of {tuple(shape)}, expected {item}; {_REMEDY}")
    if count > MAX_COUNT:
        raise FileError(
            f"{path}: the header says {count} {kind}, expected at most {MAX_COUNT}; {_REMEDY}"
        )
    array = np.empty((count, *item), dtype=np.uint8)
    found = _fill(file, array)
    if found != array.nbytes or file.read(1):
        raise FileError(
            f"{path}: the header says {count} {kind} ({array.nbytes} bytes), but "
            f"{'fewer' if found < array.nbytes else 'more'} bytes follow: truncated or damaged; "
            f"{_REMEDY}"
        )
    return array


def _fill(file: Any, array: Bytes) -> int:
    """Read into an array, up to its size or the end of the file; returns the number of bytes."""
    view, filled = array.reshape(-1).data, 0
    while filled < len(view) and (read := file.readinto(view[filled:])):
        filled += read
    return filled


def write_idx(path: Path, array: Bytes) -> None:
    """Write uint8 images (n, h, w) or labels (n,), gzipped; the same array gives the same file."""
    header = struct.pack(f">{1 + array.ndim}I", _UINT8 << 8 | array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))
