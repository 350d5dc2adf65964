"""Arrays in NumPy's formats: headers are checked against the file before anything is allocated."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.archives import open_zip, read_member
from ntdh_bench.files.reading import AGAIN, checked_size, reading

_MAX_BYTES = 1 << 30
#: Most arrays of a ``.npz``.
MAX_MEMBERS = 1000
_MAX_HEADER = 10_000


class Spec(NamedTuple):
    """What an array should be.

    Attributes:
        kinds: letters of NumPy's kinds of types, such as "f" or "iu"; objects are never read.
        shape: of it; None for any, -1 for any length of an axis.
        itemsize: bytes of a value; None for any.
        squeezed: whether axes of length 1 do not count.
    """

    kinds: str
    shape: tuple[int, ...] | None = None
    itemsize: int | None = None
    squeezed: bool = False

    def fits(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Return whether an array of this shape and type is meant."""
        if dtype.kind not in self.kinds or self.itemsize not in (None, dtype.itemsize):
            return False
        if self.shape is None:
            return True
        if self.squeezed:
            shape = tuple(side for side in shape if side != 1)
        pairs = list(zip(self.shape, shape, strict=False))
        return len(self.shape) == len(shape) and all(a in (-1, b) for a, b in pairs)

    def __str__(self) -> str:
        """Say it in words."""
        size = "" if self.itemsize is None else f" of {self.itemsize} bytes"
        shape = "" if self.shape is None else f", shape {self.shape}".replace("-1", "N")
        return f"kind {'/'.join(self.kinds)}{size}{shape}"


class _Header(NamedTuple):
    shape: tuple[int, ...]
    columns_first: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npz(
    path: Path,
    specs: Mapping[str, Spec] | None = None,
    *,
    default: Spec | None = None,
    max_bytes: int = _MAX_BYTES,
    remedy: str = AGAIN,
) -> dict[str, NDArray[Any]]:
    """Return arrays of a ``.npz``; those that are not asked for are not read.

    Args:
        path: the file.
        specs: what arrays there should be. Which of them are there is for the caller to check.
        default: of the other arrays; None leaves them out.
        max_bytes: most bytes of all that is read, unpacked.
        remedy: what to do.

    Raises:
        FileError: it is missing, no sound zip of arrays, too large, or an array is of another type
            or shape; or its numbers are floats that are not finite.
    """
    arrays: dict[str, NDArray[Any]] = {}
    left = max_bytes
    what = "a .npz of plain arrays"
    with reading(path, what, remedy), open_zip(path, MAX_MEMBERS, what, remedy) as archive:
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            spec = (specs or {}).get(key, default)
            if spec is None or key == member.filename:
                continue
            left -= member.file_size
            if left < 0:
                raise FileError(f"{path}: more than {max_bytes} bytes of arrays; {remedy}")
            # A key may be any text of the file's own: only those asked for are named.
            name = key if specs and key in specs else "an array"
            if key in arrays:
                raise FileError(f"{path}: {name} is there twice; {remedy}")
            arrays[key] = _read(path, archive, member, name, spec, remedy)
    return arrays


def _read(
    path: Path,
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    name: str,
    spec: Spec,
    remedy: str,
) -> NDArray[Any]:
    with archive.open(member) as file:
        header = _header(file)
    if not spec.fits(header.shape, header.dtype):
        raise FileError(
            f"{path}: {name} is {header.dtype} {header.shape}, expected {spec}; {remedy}"
        )
    if header.offset + header.nbytes != member.file_size:
        raise FileError(f"{path}: {name} is not of the size its header says; {remedy}")
    content = read_member(archive, member, member.file_size)
    flat = np.frombuffer(content, header.dtype, offset=header.offset)
    array = flat.reshape(header.shape, order="F" if header.columns_first else "C")
    require_finite(path, name, array, remedy)
    return array


def require_finite(path: Path, name: str, array: NDArray[Any], remedy: str = AGAIN) -> None:
    """Raise a FileError if an array of floats holds NaN or infinity."""
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise FileError(f"{path}: {name} holds values that are not finite; {remedy}")


def map_npy(path: Path, spec: Spec, remedy: str = AGAIN) -> NDArray[Any]:
    """Return the array of a ``.npy``, mapped copy-on-write: the file never changes.

    Raises:
        FileError: it is missing, no ``.npy``, of another type or shape, or of another size than
            its header says.
    """
    size = checked_size(path, 1 << 62, remedy)
    with reading(path, "a .npy of a plain array", remedy):
        with path.open("rb") as file:
            header = _header(file)
        if not spec.fits(header.shape, header.dtype):
            raise FileError(f"{path}: {header.dtype} {header.shape}, expected {spec}; {remedy}")
        if header.offset + header.nbytes != size:
            raise FileError(f"{path}: not of the size its header says; {remedy}")
        if not header.nbytes:
            return np.empty(header.shape, header.dtype)  # nothing cannot be mapped
        order: Any = "F" if header.columns_first else "C"
        return np.memmap(path, header.dtype, "c", header.offset, header.shape, order)


def _header(file: IO[bytes]) -> _Header:
    """Read the header of a ``.npy``; whatever is wrong with it raises something."""
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, columns_first, dtype = readers[version](file, max_header_size=_MAX_HEADER)
    if dtype.hasobject or dtype.itemsize == 0 or any(side < 0 for side in shape):
        raise ValueError("no plain array")
    return _Header(shape, columns_first, dtype, file.tell())
