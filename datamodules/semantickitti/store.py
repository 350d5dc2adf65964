"""The cache: every sequence decoded and projected once, read back a piece of a frame at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ntdh_bench.errors import FileError

from ..store import Arrays, Kinds, Sample, files_key
from .layout import CALIBRATION, Frame, frames, require_sequences, sequence_folder
from .projection import project
from .reader import (
    Bytes,
    image_size,
    read_calibration,
    read_classes,
    read_dense_classes,
    read_image,
    read_scan,
)

_VERSION = 1  # of the prepared files: a change of their content needs another
# Of the points, as :class:`Seen` has them.
_POINTS: Kinds = {
    "pixel": ("<i4", (None,)),
    "points": ("<f4", (None, 4)),
    "classes": ("u1", (None,)),
}


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


class PreparedSequence(Arrays):
    """One sequence in the cache; its names are those of the frames.

    Kinds: ``images`` uint8 (3, height, width), ``dense`` uint8 (height, width) if it has such
    classes, and those of the points, see :class:`Seen`.

    Args:
        folder: where :func:`prepared` wrote it.

    Raises:
        FileError: a file of it is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        shown = [entry.fact for entry in self.entries]
        fits = _POINTS.keys() | {"images"} <= self.shapes.keys() and all(
            type(count) is int and 0 <= count <= (entry.rows or 0)
            for count, entry in zip(shown, self.entries, strict=True)
        )
        self._require(None if fits else "what the value holds")
        #: (height, width) of its images
        self.size = (self.shapes["images"][-2], self.shapes["images"][-1])
        self.has_dense = "dense" in self.shapes
        self._shown: list[int] = shown

    def shown(self, frame: int, top: int, bottom: int) -> Seen:
        """Return the points that pixels of the rows [top, bottom) show, one each."""
        first = self.starts[frame]
        return self._rows(first, first + self._shown[frame], top, bottom)

    def hidden(self, frame: int, top: int, bottom: int) -> Seen:
        """Return the points in the rows [top, bottom) that lie behind those shown."""
        first = self.starts[frame] + self._shown[frame]
        return self._rows(first, self.starts[frame + 1], top, bottom)

    def _rows(self, first: int, last: int, top: int, bottom: int) -> Seen:
        """Cut the rows out of a part of the points that is sorted by pixel."""
        width = self.size[1]
        pixel = self["pixel"][first:last]
        start, stop = first + np.searchsorted(pixel, (top * width, bottom * width))
        return Seen(*(self[kind][start:stop] for kind in _POINTS))


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
    pixel and class: about 1.7 MB a frame. A sequence is made anew when a file of it is
    replaced.

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
    return {
        number: _prepared(folder, number, listed, cache_dir / "semantickitti", float(scale))
        for number, listed in files.items()
    }


def _prepared(
    folder: Path, number: int, listed: list[Frame], cache: Path, scale: float
) -> PreparedSequence:
    calibration = listed[0].scan.parents[1] / CALIBRATION
    files = [calibration, *(path for frame in listed for path in frame if path)]
    key = files_key(folder, files, scale=scale, version=_VERSION)
    full = image_size(listed[0].image)
    size = (max(1, round(full[0] * scale)), max(1, round(full[1] * scale)))
    dense: Kinds = {} if listed[0].dense is None else {"dense": ("u1", size)}

    def make(start: int) -> Iterator[tuple[Sample, int]]:
        stretched = np.diag([size[1] / full[1], size[0] / full[0], 1])
        matrix = stretched @ read_calibration(calibration)
        return (_prepare(frame, matrix, full, size) for frame in listed[start:])

    return PreparedSequence.stored(
        cache / f"{number:02d}-{key}",
        [frame.scan.stem for frame in listed],
        {"images": ("u1", (3, *size)), **dense, **_POINTS},
        make,
        f"projecting SemanticKITTI {number:02d}",
        header=repr((size, len(listed))),
    )


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
        "pixel": view.pixel.numpy()[order].astype("<i4"),
        "points": points[chosen],
        "classes": classes[chosen],
    }
    if frame.dense is not None:
        arrays["dense"] = read_dense_classes(frame.dense, full, size)
    return arrays, int(view.nearest.sum())
