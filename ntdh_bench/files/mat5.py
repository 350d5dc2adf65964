"""Arrays of numbers in MATLAB files of version 5: every length is checked before it is followed.

Not by scipy.io: its compiled reader follows the lengths in a file, and a damaged one ends the
interpreter.

Source: MATLAB MAT-File Format, The MathWorks, R2024b ("Level 5").
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import AGAIN, read_bytes, reading

_HEADER = 128
_ENDIAN = {b"IM": "<", b"MI": ">"}
#: Data types of the format as NumPy's, without the byte order.
_TYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15
_CELL = 1
_NUMBERS = range(6, 16)  # classes of arrays: reals and integers; below: text, cells, ...
_COMPLEX = 0x0800
_EXPANSION = 4 << 20  # most bytes that a compressed variable may have


def read_mat5(
    path: Path, name: str, max_bytes: int = 1 << 24, remedy: str = AGAIN
) -> NDArray[np.float64] | None:
    """Return a variable of real numbers, float64 in its shape, or None if there is none so called.

    Args:
        path: the file.
        name: of the variable.
        max_bytes: largest file to read.
        remedy: what to do.

    Raises:
        FileError: the file is missing, too large, or no sound file of version 5; or the variable is
            no array of real, finite numbers.
    """
    content = read_bytes(path, max_bytes, remedy)
    with reading(path, "a MATLAB 5 file", remedy):
        order = _ENDIAN[content[126:128]]
        for variable in _variables(content[_HEADER:], order, _EXPANSION):
            matrix = _matrix(variable, order)
            if matrix.name != name:
                continue
            if not matrix.real:
                raise FileError(f"{path}: {name} is no array of real numbers; {remedy}")
            values = matrix.values(order)
            if values is None or not np.isfinite(values).all():
                raise FileError(f"{path}: {name} is damaged; {remedy}")
            return values.astype(np.float64)
    return None


def read_mat5_arrays(path: Path, max_bytes: int, remedy: str = AGAIN) -> list[NDArray[Any]]:
    """Return all arrays of real numbers in a file, as stored, those in its cells as well.

    For files that are copied under many names of their variables: shapes tell what they are.

    Args:
        path: the file.
        max_bytes: largest file to read, and most bytes of all its arrays, unpacked.
        remedy: what to do.

    Raises:
        FileError: the file is missing, too large, or no sound file of version 5.
    """
    content = read_bytes(path, max_bytes, remedy)
    found: list[NDArray[Any]] = []
    left = max_bytes
    with reading(path, "a MATLAB 5 file", remedy):
        order = _ENDIAN[content[126:128]]
        for variable in _variables(content[_HEADER:], order, max_bytes):
            for matrix in _inside(variable, order):
                values = matrix.values(order) if matrix.real else None
                if values is None:
                    continue
                left -= values.nbytes
                if left < 0:
                    raise FileError(f"{path}: more than {max_bytes} bytes of arrays; {remedy}")
                found.append(values)
    return found


class _Matrix(NamedTuple):
    """Header of an array, and the elements that follow it."""

    kind: int
    name: str
    flags: int
    shape: tuple[int, ...]
    parts: Iterator[tuple[int, bytes]]

    @property
    def real(self) -> bool:
        return self.kind in _NUMBERS and not self.flags & _COMPLEX

    def values(self, order: str) -> NDArray[Any] | None:
        """Return the array, or None if the shape does not say as many values as there are."""
        kind, content = next(self.parts)
        numbers = np.frombuffer(content, order + _TYPES[kind])
        fits = len(numbers) == math.prod(self.shape)
        return numbers.reshape(self.shape, order="F") if fits else None


def _variables(content: bytes, order: str, expansion: int) -> Iterator[bytes]:
    for kind, data in _elements(content, order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(data, expansion)
            if not unpacker.eof:
                raise ValueError("a compressed variable that does not end, or is too large")
            kind, data = next(_elements(unpacked, order))
        if kind == _MATRIX:
            yield data


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the data of each element: a tag of 8 bytes, data, padding to 8 bytes."""
    first = 0
    while first < len(content):
        tag = np.frombuffer(content[first : first + 8], f"{order}u4")
        kind, size = int(tag[0]), int(tag[1])
        if kind >> 16:  # a small element: size and type share a word, up to 4 bytes follow
            kind, size, start, step = kind & 0xFFFF, kind >> 16, first + 4, 8
            if size > 4:
                raise ValueError("a small element of more than 4 bytes")
        else:
            start, step = first + 8, 8 + size
            step += -step % 8 if kind != _COMPRESSED else 0
        if start + size > len(content):
            raise ValueError("an element beyond the end")
        yield kind, content[start : start + size]
        first += step


def _matrix(data: bytes, order: str) -> _Matrix:
    parts = _elements(data, order)
    kind, flags = next(parts)
    word = int(np.frombuffer(flags, f"{order}u4")[0])
    sides_kind, sides = next(parts)
    if kind != _UINT32 or sides_kind != _INT32:
        raise ValueError("no header of an array")
    shape = tuple(int(side) for side in np.frombuffer(sides, f"{order}i4"))
    if not 2 <= len(shape) <= 32 or min(shape) < 0:
        raise ValueError("no shape")
    name = next(parts)[1].decode("ascii")
    return _Matrix(word & 0xFF, name, word, shape, parts)


def _inside(variable: bytes, order: str) -> Iterator[_Matrix]:
    """Yield a variable, or the members of a cell array."""
    matrix = _matrix(variable, order)
    if matrix.kind != _CELL:
        yield matrix
        return
    for kind, member in matrix.parts:
        if kind == _MATRIX and member:  # an empty member may have no header
            yield _matrix(member, order)
