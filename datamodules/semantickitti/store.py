"""The cache: every sequence decoded and projected once, read back a piece of a frame at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ntdh_bench.cache import build_once, digest, is_intact
from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import checked_size, reading
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json
from ntdh_bench.progress import Update, progress_bar

from .layout import (
    CALIBRATION,
    HOW_TO_GET,
    Frame,
    frames,
    require_sequences,
    sequence_folder,
)
from .projection import project
from .reader import (
    MAX_PIXELS,
    Bytes,
    image_size,
    read_calibration,
    read_classes,
    read_dense_classes,
    read_image,
    read_scan,
)

_VERSION = 1  # of the prepared files: a change of their content needs another
_META = "meta.json"
_MAX_META = 1 << 24
_REBUILT = "delete its folder, and it will be made anew"
_TYPES: dict[str, np.dtype[Any]] = {
    "images": np.dtype("u1"),
    "dense": np.dtype("u1"),
    "pixel": np.dtype("<i4"),
    "points": np.dtype("<f4"),
    "classes": np.dtype("u1"),
}


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_PIXELS


_SCHEMA = {
    "digest": str, "height": _is_side, "width": _is_side, "dense": bool, "names": [str],
    "bounds": [(int, int, int)],
}  # fmt: skip


def _agrees(meta: dict[str, Any]) -> bool:
    """Return whether the points of the frames follow each other, and every frame has a name."""
    places = [0, *(place for bounds in meta["bounds"] for place in bounds)]
    starts = [first for first, _, _ in meta["bounds"]]
    ends = [0, *(last for _, _, last in meta["bounds"])]
    named = 0 < len(meta["names"]) == len(meta["bounds"])
    return named and places == sorted(places) and starts == ends[:-1]


class Seen(NamedTuple):
    """Points of a frame that fall into its image.

    Attributes:
        pixel: int32 (M,): flat positions in the image.
        points: float32 (M, 4): x, y, z, remission.
        classes: uint8 (M,): 0..19.
    """

    pixel: NDArray[np.int32]
    points: NDArray[np.float32]
    classes: Bytes


class PreparedSequence:
    """One sequence in the cache, mapped into memory; nothing is read before it is asked for.

    Args:
        folder: where :func:`prepared` wrote it.

    Raises:
        UserError: a file of it is missing, or not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        meta = read_json(folder / _META, _MAX_META, _REBUILT)
        if (wrong := mismatch(meta, _SCHEMA)) is not None or not _agrees(meta):
            raise FileError(f"{folder / _META}: {wrong or 'not as it was written'}; {_REBUILT}")
        #: content of all its files, 16 hex digits
        self.digest: str = meta["digest"]
        #: (height, width) of its images
        self.size: tuple[int, int] = (meta["height"], meta["width"])
        self.has_dense: bool = meta["dense"]
        #: names of the frames
        self.names: list[str] = meta["names"]
        # Per frame: its first point, the first that is hidden by another, and the last plus 1.
        self._bounds: list[tuple[int, int, int]] = meta["bounds"]
        for name, count in self._counts().items():
            expected = count * _TYPES[name].itemsize
            if checked_size(folder / name, 1 << 62, _REBUILT) != expected:
                raise FileError(f"{folder / name}: not the {expected} bytes it had; {_REBUILT}")

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes map the files themselves instead of being sent their content.
        return PreparedSequence, (self.folder,)

    def image(self, frame: int) -> Bytes:
        """Return an image, mapped: uint8 (3, height, width)."""
        image: Bytes = self._arrays["images"].reshape(-1, 3, *self.size)[frame]
        return image

    def dense(self, frame: int) -> Bytes:
        """Return dense classes of an image, mapped: uint8 (height, width)."""
        classes: Bytes = self._arrays["dense"].reshape(-1, *self.size)[frame]
        return classes

    def shown(self, frame: int, top: int, bottom: int) -> Seen:
        """Return the points that pixels of the rows [top, bottom) show, one each."""
        first, hidden, _ = self._bounds[frame]
        return self._rows(first, hidden, top, bottom)

    def hidden(self, frame: int, top: int, bottom: int) -> Seen:
        """Return the points in the rows [top, bottom) that lie behind those shown."""
        _, hidden, last = self._bounds[frame]
        return self._rows(hidden, last, top, bottom)

    def _rows(self, first: int, last: int, top: int, bottom: int) -> Seen:
        """Cut the rows out of a part of the points that is sorted by pixel."""
        width = self.size[1]
        pixel = self._arrays["pixel"][first:last]
        start, stop = first + np.searchsorted(pixel, (top * width, bottom * width))
        return Seen(
            self._arrays["pixel"][start:stop],
            self._arrays["points"].reshape(-1, 4)[start:stop],
            self._arrays["classes"][start:stop],
        )

    def _counts(self) -> dict[str, int]:
        points, pixels = self._bounds[-1][2], len(self) * self.size[0] * self.size[1]
        counts = {"images": 3 * pixels, "pixel": points, "points": 4 * points, "classes": points}
        return counts | ({"dense": pixels} if self.has_dense else {})

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return {
            # An empty file cannot be mapped.
            name: np.memmap(self.folder / name, kind, "r") if count else np.empty(0, kind)
            for name, count in self._counts().items()
            for kind in (_TYPES[name],)
        }


def prepared(
    folder: Path,
    sequences: Sequence[int],
    cache_dir: Path,
    *,
    scale: float = 1.0,
    dense: bool = False,
) -> dict[int, PreparedSequence]:
    """Return sequences from the cache, each prepared there the first time.

    A prepared sequence holds images as bytes, undecoded no longer, and the points inside them with
    pixel and class: about 1.7 MB a frame. A sequence is written whole or not at all; what was
    finished before an interruption is kept. It is made anew when a file of it is replaced, or what
    is in the cache is damaged.

    Args:
        folder: with the sequences ``00``, ``01``, ...
        sequences: their numbers.
        cache_dir: the cache is ``semantickitti`` below it.
        scale: size of the images relative to the published ones, in (0, 1].
        dense: also keep labels of ``image_2_labels`` where a sequence has them.

    Raises:
        UserError: a sequence is missing, a file is broken, or the cache cannot be written.
    """
    require_sequences(folder, sequences)
    files = {number: frames(sequence_folder(folder, number), dense=dense) for number in sequences}
    paths = {
        number: cache_dir / "semantickitti" / f"{number:02d}-{_key(listed, folder, scale)}"
        for number, listed in files.items()
    }
    missing = [number for number in sequences if not is_intact(paths[number])]
    total = sum(len(files[number]) for number in missing)
    with progress_bar("projecting SemanticKITTI", total) as update:
        for number in missing:
            build_once(
                paths[number], partial(_build, files=files[number], scale=scale, update=update)
            )
    return {number: PreparedSequence(path) for number, path in paths.items()}


def _key(listed: list[Frame], folder: Path, scale: float) -> str:
    """Identify the files by name, size and time: reading 3 MB a frame at every start is too slow.

    What identifies the *data* is the digest of their content, taken while they are prepared.
    """
    paths = [listed[0].scan.parents[1] / CALIBRATION]
    paths += [path for frame in listed for path in frame if path]
    found = []
    for path in paths:
        with reading(path, "a file", HOW_TO_GET):
            status = path.stat()
        found.append((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    return digest({"files": found, "scale": float(scale), "version": _VERSION})


def _build(target: Path, files: list[Frame], scale: float, update: Update) -> None:
    """Write the prepared files of a sequence into the new folder ``target``."""
    matrix = read_calibration(files[0].scan.parents[1] / CALIBRATION)
    full = image_size(files[0].image)
    size = (max(1, round(full[0] * scale)), max(1, round(full[1] * scale)))
    matrix = np.diag([size[1] / full[1], size[0] / full[0], 1]) @ matrix
    target.mkdir()
    has_dense = files[0].dense is not None
    names = [name for name in _TYPES if has_dense or name != "dense"]
    content = hashlib.sha256(repr((size, len(files))).encode())
    bounds, total = [], 0
    handles = {name: (target / name).open("wb") for name in names}
    try:
        for frame in files:
            arrays, shown = _prepare(frame, matrix, full, size)
            for name in names:
                data = arrays[name].astype(_TYPES[name], copy=False).tobytes()
                content.update(data)
                handles[name].write(data)
            count = len(arrays["pixel"])
            bounds.append((total, total + shown, total + count))
            total += count
            update(advance=1)
    finally:
        for handle in handles.values():
            handle.close()
    meta = {
        "digest": content.hexdigest()[:16],
        "height": size[0],
        "width": size[1],
        "dense": has_dense,
        "names": [frame.scan.stem for frame in files],
        "bounds": bounds,
    }
    (target / _META).write_text(json.dumps(meta))


def _prepare(
    frame: Frame, matrix: NDArray[np.float64], full: tuple[int, int], size: tuple[int, int]
) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the arrays of a frame, and how many of its points are shown by a pixel."""
    if image_size(frame.image) != full:
        height, width = image_size(frame.image)
        raise FileError(
            f"{frame.image}: {width}x{height}, but the sequence's first image has "
            f"{full[1]}x{full[0]}, and they share a calibration; get it again"
        )
    points = read_scan(frame.scan)
    classes = read_classes(frame.labels, len(points))
    view = project(torch.from_numpy(points), torch.from_numpy(matrix), size)
    # Those that are shown come first; both parts by pixel, so that rows are contiguous.
    order = np.lexsort((view.pixel.numpy(), ~view.nearest.numpy()))
    chosen = view.point.numpy()[order]
    arrays: dict[str, NDArray[Any]] = {
        "images": read_image(frame.image, size).transpose(2, 0, 1),
        "pixel": view.pixel.numpy()[order],
        "points": points[chosen],
        "classes": classes[chosen],
    }
    if frame.dense is not None:
        arrays["dense"] = read_dense_classes(frame.dense, full, size)
    return arrays, int(view.nearest.sum())
