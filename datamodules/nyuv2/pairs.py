"""The labelled pairs of colour and depth: read from the files, resized once into the cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.images import opened_image
from ntdh_bench.files.listing import visible
from ntdh_bench.files.text import read_json

from ..images import nearest
from ..store import Arrays, Sample, files_key
from .labels import NYU40_NAMES
from .layout import (
    FOLDER,
    HOW_TO_GET,
    LABELLED_MAT,
    MAX_PIXELS,
    PREPARED,
    SPLIT,
    Pair,
    PairSource,
    Part,
    checked_split,
)
from .matfile import LabelledMat

_VERSION = 1  # of the arrays in the cache: a change of their content needs another
_MAX_SPLIT_BYTES = 1 << 20


class _Kind(NamedTuple):
    """Pillow's formats of a kind of file by ending, the preferred first; modes; what they mean."""

    formats: dict[str, str]
    modes: tuple[str, ...]
    meaning: str


_KINDS = {
    "rgb": _Kind({".png": "PNG", ".jpg": "JPEG"}, ("RGB",), "8-bit RGB"),
    "depth": _Kind({".png": "PNG"}, ("I;16", "I"), "16-bit grey"),
    "label40": _Kind({".png": "PNG"}, ("L",), "8-bit grey"),
}


class PreparedFolder:
    """The pairs of ``nyuv2/prepared``: a :class:`.layout.PairSource`.

    ``rgb/NNNN.png`` or ``.jpg``, ``depth/NNNN.png`` (uint16 millimetres, 0 for none),
    ``label40/NNNN.png`` (1..40, 0 for none), all of one size; NNNN is the official index, from
    0001. ``split.json`` holds ``{"train": [...], "test": [...]}``.

    Raises:
        UserError: the split is broken, a pair of it lacks a file, or its first image is broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {kind: _numbered(folder / kind, _KINDS[kind].formats) for kind in _KINDS}
        self.split = self._read_split(folder / SPLIT)
        first = next(index for part in self.split.values() for index in part)
        self.size = self._decode("rgb", first).shape[:2]

    def files(self, indices: Sequence[int]) -> list[Path]:
        """Return the files of these pairs."""
        return [files[index] for files in self._files.values() for index in indices]

    def read(self, index: int) -> Pair:
        """Decode one pair.

        Raises:
            UserError: a file is damaged, or of another type or size, or has a label above 40.
        """
        rgb, depth, label = (self._checked(kind, index) for kind in _KINDS)
        highest = int(label.max())
        if highest > len(NYU40_NAMES):
            raise FileError(
                f"{self._files['label40'][index]}: label {highest}, expected at most "
                f"{len(NYU40_NAMES)} (0 is unlabelled); make the file again"
            )
        return Pair(rgb, depth.astype(np.uint16), label)

    def _checked(self, kind: str, index: int) -> NDArray[Any]:
        array = self._decode(kind, index)
        if array.shape[:2] != self.size:
            raise FileError(
                f"{self._files[kind][index]}: {array.shape[1]}x{array.shape[0]}, but the first "
                f"image has {self.size[1]}x{self.size[0]}; get it again"
            )
        return array

    def _decode(self, kind: str, index: int) -> NDArray[Any]:
        path, expected = self._files[kind][index], _KINDS[kind]
        with opened_image(path, MAX_PIXELS, (expected.formats[path.suffix],)) as image:
            if image.mode not in expected.modes:
                raise FileError(
                    f"{path}: mode {image.mode}, expected {expected.meaning}; get it again"
                )
            return np.asarray(image)

    def _read_split(self, path: Path) -> dict[Part, list[int]]:
        there = set().union(*self._files.values())
        if not path.is_file():
            raise FileError(
                f'{path} is missing: it holds the official split, {{"train": [...], "test": [...]}}'
            )
        split = checked_split(path, read_json(path, _MAX_SPLIT_BYTES), there)
        for kind, files in self._files.items():
            missing = sorted({index for part in split.values() for index in part} - files.keys())
            if missing:
                name = f"{missing[0]:04d}{list(_KINDS[kind].formats)[-1]}"
                raise FileError(
                    f"{self.folder / kind / name} is missing ({len(missing)} such files in all), "
                    f"though {SPLIT} names the pair: get it, or take the index out"
                )
        return split


def pair_source(root: Path) -> PairSource:
    """Return the labelled pairs below the data root: ``nyuv2/prepared``, else the ``.mat``.

    Raises:
        UserError: neither is there, or what is there is broken.
    """
    folder = root / FOLDER
    if (folder / PREPARED).is_dir():
        return PreparedFolder(folder / PREPARED)
    if (folder / LABELLED_MAT).is_file():
        return LabelledMat(folder)
    raise UserError(
        f"NYU Depth V2 is missing: neither {folder / PREPARED} nor the .mat beside it; "
        f"{HOW_TO_GET}, then `ntdh-bench data prepare nyuv2 --from FOLDER`, or use "
        "`--data.source simulated`"
    )


def prepared_pairs(root: Path, cache_dir: Path, part: Part, *, size: tuple[int, int]) -> Arrays:
    """Return the pairs of one part of the official split from the cache, made the first time.

    Kinds: ``rgb`` uint8 (3, height, width), ``depth`` uint16 (height, width) in millimetres with
    0 for none, ``label`` uint8 (height, width) in 1..40 with 0 for none. A sample's name is its
    official index.

    Args:
        root: data root.
        cache_dir: the cache is ``nyuv2`` below it.
        part: ``"train"`` or ``"test"``.
        size: (height, width); the colours are averaged over the pixels that become one, depth and
            label are those of the pixel at the centre.

    Raises:
        UserError: files are missing or broken, ``size`` is larger than they are, or the cache
            cannot be written.
    """
    source = pair_source(root)
    if size[0] > source.size[0] or size[1] > source.size[1]:
        raise UserError(
            f"{size[1]}x{size[0]} pixels are asked for, but the images of {source.folder} have "
            f"{source.size[1]}x{source.size[0]}: choose a smaller data.scale"
        )
    indices = source.split[part]
    key = files_key(source.folder, source.files(indices), indices=indices, size=size, v=_VERSION)
    kinds = {"rgb": ("u1", (3, *size)), "depth": ("u2", size), "label": ("u1", size)}

    def make(start: int) -> Iterator[tuple[Sample, None]]:
        for index in indices[start:]:
            rgb, depth, label = resized(source.read(index), size)
            yield {"rgb": rgb.transpose(2, 0, 1), "depth": depth, "label": label}, None

    return Arrays.stored(
        cache_dir / FOLDER / f"pairs-{part}-{key}",
        [f"{index:04d}" for index in indices],
        kinds,
        make,
        f"reading NYU Depth V2 ({part})",
    )


def resized(pair: Pair, size: tuple[int, int]) -> Pair:
    """Shrink a pair to (height, width): colours by area, depth and label by nearest."""
    full = pair.label.shape
    if size == full:
        return pair
    rgb = Image.fromarray(pair.rgb).resize(size[::-1], Image.Resampling.BOX)
    return Pair(np.asarray(rgb), nearest(pair.depth, size), nearest(pair.label, size))


def write_pair(folder: Path, index: int, pair: Pair) -> None:
    """Write the three files of a pair, as :class:`PreparedFolder` reads them, without loss."""
    images: tuple[NDArray[Any], ...] = pair
    for kind, array in zip(_KINDS, images, strict=True):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{index:04d}.png")


def _numbered(folder: Path, endings: Iterable[str]) -> dict[int, Path]:
    """Return the files called NNNN with one of the endings, by number."""
    return {
        int(path.stem): path
        for ending in reversed(list(endings))
        for path in visible(folder, f"[0-9][0-9][0-9][0-9]{ending}")
    }
