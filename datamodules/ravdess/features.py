"""One feature vector per clip and modality: a plain ``.npz`` of pairs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.arrays import Spec, read_npz, require_finite
from ntdh_bench.files.reading import checked_size

from .names import ClipName

_MAX_BYTES = 1 << 30
_HEADROOM = 1 << 25
_MAX_CLIPS = 3072  # what names can tell apart
_SPECS = {"name": Spec("U", (-1,)), "actor": Spec("iu", (-1,)), "emotion": Spec("iu", (-1,))}
_PLAIN = Spec("biufSU")
_FORMAT = (
    "expected `name` (N,) of RAVDESS names, one `audio_*` (N, A), one `face_*` (N, F) of finite "
    "floats, and if at all `actor`, `emotion` (N,)"
)


@dataclass(frozen=True)
class FeatureTable:
    """Paired features of clips.

    Attributes:
        names: N names, all different.
        audio: float32 (N, A); A is 0 if only faces are wanted.
        face: float32 (N, F), likewise.
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
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        rows = np.arange(len(self.names))
        ends, first = [], len(rows)
        for array in (array for array in (self.audio, self.face) if array.shape[1]):
            vector = np.unique(array, axis=0, return_inverse=True)[1].reshape(-1)
            ends.append(first + vector)
            first += int(vector.max()) + 1
        edges = (np.ones(len(ends) * len(rows)), (np.tile(rows, len(ends)), np.concatenate(ends)))
        graph = coo_array(edges, shape=(first, first))
        return torch.from_numpy(connected_components(graph, directed=False)[1][rows]).long()


def read_features(path: Path) -> FeatureTable:
    """Read a ``.npz`` of paired features.

    Raises:
        UserError: the file is missing, damaged, or of another format.
    """
    size = checked_size(path, _MAX_BYTES, _FORMAT)
    # An honest file is hardly compressed: a small one that expands to much is none.
    limit = min(_MAX_BYTES, size + _HEADROOM)
    arrays = read_npz(path, _SPECS, default=_PLAIN, max_bytes=limit, remedy=_FORMAT)
    if "name" not in arrays:
        raise FileError(f"{path}: no array `name` of strings; {_FORMAT}")
    names = _names(path, arrays["name"])
    for field in ("actor", "emotion"):
        given = arrays.get(field)
        if given is not None and given.tolist() != [getattr(name, field) for name in names]:
            raise FileError(f"{path}: the array {field!r} does not agree with the names; {_FORMAT}")
    audio, face = (_matrix(path, arrays, prefix, len(names)) for prefix in ("audio_", "face_"))
    return FeatureTable(names, audio, face)


def _names(path: Path, stems: NDArray[np.str_]) -> tuple[ClipName, ...]:
    if not 1 <= len(stems) <= _MAX_CLIPS:
        raise FileError(f"{path}: {len(stems)} names, expected 1 to {_MAX_CLIPS}; {_FORMAT}")
    names = []
    for number, stem in enumerate(stems.tolist()):
        try:
            names.append(ClipName.parse(stem))
        except UserError:
            raise FileError(f"{path}: name {number} is none of RAVDESS; {_FORMAT}") from None
    if len({name.key for name in names}) != len(names):
        raise FileError(f"{path}: a clip is given twice; {_FORMAT}")
    return tuple(names)


def _matrix(
    path: Path, arrays: dict[str, NDArray[Any]], prefix: str, rows: int
) -> NDArray[np.float32]:
    found = [
        array
        for name, array in arrays.items()
        if name.startswith(prefix) and array.dtype.kind == "f"
    ]
    if len(found) != 1:
        raise FileError(f"{path}: {len(found)} arrays of numbers called {prefix}*; {_FORMAT}")
    array = found[0]
    if array.ndim != 2 or len(array) != rows or not array.size:
        raise FileError(
            f"{path}: {prefix}* has the shape {array.shape} for {rows} names; {_FORMAT}"
        )
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    # What is finite in double precision need not be in single.
    require_finite(path, f"{prefix}*", values, _FORMAT)
    return values
