"""The IDX files of MNIST: a reader that trusts nothing, and a writer."""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import UserError

_UINT8 = 0x08
_MAX_DEFLATE = 1032  # no deflate stream expands further (zlib's technical details)
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
        raise UserError(f"{path}: label {labels.max()}, expected 0 to {num_classes - 1}; {_REMEDY}")
    return labels


def _read(path: Path, kind: str, item: tuple[int, ...]) -> Bytes:
    try:
        with path.open("rb") as raw:
            if path.suffix != ".gz":
                return _parse(raw, path, kind, item, 1)
            with gzip.open(raw, "rb") as unpacked:
                return _parse(unpacked, path, kind, item, _MAX_DEFLATE)  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: a broken gzip file ({error}); {_REMEDY}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from None


def _parse(file: BinaryIO, path: Path, kind: str, item: tuple[int, ...], expansion: int) -> Bytes:
    """Check the header, and only then read as many bytes as it announces."""
    words = 2 + len(item)
    header = file.read(4 * words)
    expected = _UINT8 << 8 | len(item) + 1
    magic = int.from_bytes(header[:4], "big")
    if len(header) >= 4 and magic != expected:
        raise UserError(
            f"{path}: magic number {magic}, expected {expected} for MNIST {kind}: "
            f"another kind of file; {_REMEDY}"
        )
    if len(header) < 4 * words:
        raise UserError(f"{path}: truncated, {len(header)} bytes in all; {_REMEDY}")
    _, count, *shape = struct.unpack(f">{words}I", header)
    if tuple(shape) != item:
        raise UserError(f"{path}: {kind} of {tuple(shape)}, expected {item}; {_REMEDY}")
    size = count * prod(item)
    limit = path.stat().st_size * expansion
    content = file.read(size + 1) if size <= limit else b""
    if len(content) != size:
        found = "more" if len(content) > size else "fewer"
        raise UserError(
            f"{path}: the header says {count} {kind} ({size} bytes), but {found} bytes follow: "
            f"truncated or damaged; {_REMEDY}"
        )
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(count, *item)


def write_idx(path: Path, array: Bytes) -> None:
    """Write uint8 images (n, h, w) or labels (n,), gzipped; the same array gives the same file."""
    header = struct.pack(f">{1 + array.ndim}I", _UINT8 << 8 | array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))
