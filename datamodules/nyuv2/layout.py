"""Where the files of NYU Depth V2 lie, and what a source of labelled pairs gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.schema import mismatch

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")

FOLDER = "nyuv2"
SCENES = "nyu_ssc"
PREPARED = "prepared"
SPLIT = "split.json"
#: The published files: all pairs (HDF5), the official split and the map 894 -> 40 (MATLAB 5).
LABELLED_MAT = "nyu_depth_v2_labeled.mat"
SPLIT_MAT = "splits.mat"
CLASSES_MAT = "classMapping40.mat"

#: The folders of each part's scenes as SSCNet and as DDRNet publish them; the first there is read.
PART_FOLDERS: dict[Part, tuple[str, ...]] = {
    "train": ("NYUtrain", "NYUtrain_npz"),
    "test": ("NYUtest", "NYUtest_npz"),
}
#: Number of pairs in each part, as published.
PART_SIZE: dict[Part, int] = {"train": 795, "test": 654}
MAX_PIXELS = 4_000_000  # published images have 307,200: more is another file or a bomb

HOW_TO_GET = (
    f"fetch {LABELLED_MAT} (2.8 GB) and {SPLIT_MAT} "
    "(horatio.cs.nyu.edu/mit/silberman/{nyu_depth_v2,indoor_seg_sup}) and "
    f"{CLASSES_MAT} (github.com/ankurhanda/nyuv2-meta-data)"
)


def has_pairs(root: Path) -> bool:
    """Return whether there are labelled pairs below the data root, prepared or published."""
    folder = root / FOLDER
    return (folder / PREPARED).is_dir() or (folder / LABELLED_MAT).is_file()


def has_scenes(root: Path) -> bool:
    """Return whether there are scenes to complete below the data root."""
    return any((root / SCENES / name).is_dir() for part in PARTS for name in PART_FOLDERS[part])


def _is_index(value: Any) -> bool:
    return type(value) is int and abs(value) < 1_000_000


_SPLIT = {part: [_is_index] for part in PARTS}


class Pair(NamedTuple):
    """One labelled view.

    Attributes:
        rgb: uint8 (height, width, 3).
        depth: uint16 (height, width), millimetres, 0 where there is none.
        label: uint8 (height, width), 1..40, 0 where there is none.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    label: NDArray[np.uint8]


class PairSource(Protocol):
    """Labelled pairs by their official index, which counts from 1."""

    #: what the files lie in
    folder: Path
    #: (height, width) of every image
    size: tuple[int, int]
    #: official indices of each part
    split: dict[Part, list[int]]

    def files(self, indices: Sequence[int]) -> list[Path]:
        """Return the files that these pairs come from."""

    def read(self, index: int) -> Pair:
        """Read one pair.

        Raises:
            UserError: a file is broken.
        """


def checked_split(path: Path, split: Any, there: set[int]) -> dict[Part, list[int]]:
    """Return the split that was read from ``path`` if each index is there, and in one part only.

    Raises:
        FileError: it is not.
    """
    if (wrong := mismatch(split, _SPLIT, "the split")) is not None:
        raise FileError(
            f'{path}: {wrong} is not as in {{"train": [1, ...], "test": [2, ...]}}; get it again'
        )
    for part in PARTS:
        if not split[part]:
            raise FileError(f"{path}: {part!r} is empty; get the file again")
        outside = [index for index in split[part] if index not in there]
        if outside:
            span = f"{min(there)}..{max(there)}" if there else "none at all"
            raise FileError(
                f"{path}: index {outside[0]} of {part!r} ({len(outside)} in all) has no pair: "
                f"there are {span}, counted from 1; get the file again, or the pairs"
            )
    twice = [index for index, count in Counter(split["train"] + split["test"]).items() if count > 1]
    if twice:
        raise FileError(
            f"{path}: index {min(twice)} is there twice: a pair belongs to one part, once; get the "
            "file again"
        )
    return {part: split[part] for part in PARTS}
