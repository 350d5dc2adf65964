"""One feature vector per clip and modality: a plain ``.npz`` of pairs."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ntdh_bench.errors import UserError

from .names import ClipName

_MAX_BYTES = 2**30
_FORMAT = (
    "expected the arrays `name` (N,) of RAVDESS names, one `audio_*` (N, A) and one `face_*` "
    "(N, F) of finite numbers, and optionally `actor` and `emotion` (N,) that agree with the names"
)


@dataclass(frozen=True)
class FeatureTable:
    """Paired features of clips.

    Attributes:
        names: N names, all different.
        audio: float32 (N, A).
        face: float32 (N, F).
    """

    names: tuple[ClipName, ...]
    audio: NDArray[np.float32]
    face: NDArray[np.float32]

    @property
    def digest(self) -> str:
        """SHA-256 of everything in the table."""
        content = hashlib.sha256(" ".join(map(str, self.names)).encode())
        for array in (self.audio, self.face):
            content.update(f"{array.shape}".encode() + array.tobytes())
        return content.hexdigest()

    @property
    def copies(self) -> Tensor:
        """int64 (N,): clips that share a vector in either modality have the same number.

        The public features hold one clip twice; its copies must not be on two sides of a split.
        """
        rows = np.arange(len(self.names))
        ends, first = [], len(rows)
        for array in (self.audio, self.face):
            vector = np.unique(array, axis=0, return_inverse=True)[1].reshape(-1)
            ends.append(first + vector)
            first += int(vector.max()) + 1
        edges = (np.ones(2 * len(rows)), (np.tile(rows, 2), np.concatenate(ends)))
        graph = coo_array(edges, shape=(first, first))
        return torch.from_numpy(connected_components(graph, directed=False)[1][rows]).long()


def read_features(path: Path) -> FeatureTable:
    """Read a ``.npz`` of paired features.

    Raises:
        UserError: the file is missing, damaged, or of another format.
    """
    arrays = _load(path)
    if "name" not in arrays or arrays["name"].ndim != 1 or arrays["name"].dtype.kind != "U":
        raise UserError(f"{path}: no array `name` of strings; {_FORMAT}")
    names = _names(path, arrays["name"].tolist())
    for field in ("actor", "emotion"):
        given = arrays.get(field)
        if given is not None and given.tolist() != [getattr(name, field) for name in names]:
            raise UserError(f"{path}: the array {field!r} does not agree with the names; {_FORMAT}")
    audio, face = (_matrix(path, arrays, prefix, len(names)) for prefix in ("audio_", "face_"))
    return FeatureTable(names, audio, face)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_BYTES:
            raise UserError(f"{path}: {size} bytes unpacked, expected at most {_MAX_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {_FORMAT}") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
        raise UserError(f"{path}: not a .npz of plain arrays ({error}); {_FORMAT}") from None


def _names(path: Path, stems: list[str]) -> tuple[ClipName, ...]:
    try:
        names = tuple(map(ClipName.parse, stems))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if len({name.key for name in names}) != len(names) or not names:
        raise UserError(f"{path}: names are missing or given twice; {_FORMAT}")
    return names


def _matrix(
    path: Path, arrays: dict[str, NDArray[Any]], prefix: str, rows: int
) -> NDArray[np.float32]:
    found = [
        name
        for name, array in arrays.items()
        if name.startswith(prefix) and array.dtype.kind == "f"
    ]
    if len(found) != 1:
        raise UserError(f"{path}: {len(found)} arrays of numbers called {prefix}*; {_FORMAT}")
    array = arrays[found[0]]
    if array.ndim != 2 or len(array) != rows or not np.isfinite(array).all():
        raise UserError(
            f"{path}: {found[0]} has the shape {array.shape} for {rows} names, or values that are "
            f"not finite; {_FORMAT}"
        )
    return array.astype(np.float32)
