"""Preparing the published files of NYU Depth V2 once, and checking what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.cache import default_cache_dir, locked, write_atomic
from ntdh_bench.datasets import FileCheck, is_simulated, refuse_simulated
from ntdh_bench.downloads import writable
from ntdh_bench.errors import UserError
from ntdh_bench.files.listing import below
from ntdh_bench.progress import progress_bar

from .camera import IMAGE_SIZE
from .labels import NYU40_NAMES
from .layout import (
    CLASSES_MAT,
    FOLDER,
    LABELLED_MAT,
    PART_FOLDERS,
    PART_SIZE,
    PARTS,
    PREPARED,
    SCENES,
    SPLIT,
    SPLIT_MAT,
    PairSource,
    has_pairs,
    has_scenes,
)
from .matfile import LabelledMat
from .pairs import PreparedFolder, pair_source, resized, write_pair
from .scenes import check_scenes, prepared_scenes

_MAT_FILES = (LABELLED_MAT, SPLIT_MAT, CLASSES_MAT)
_SCENE_FOLDERS = tuple(name for part in PARTS for name in PART_FOLDERS[part])


def prepare(root: Path, from_folder: Path | None = None, full_size: bool = False) -> Iterator[str]:
    """Turn what is published below ``root`` into what is read fast, for both tasks.

    ``nyuv2/nyu_depth_v2_labeled.mat`` with its split and classes becomes ``nyuv2/prepared``, which
    appears when it is whole; one that is there stays as it is. The scenes of ``nyu_ssc`` are
    decoded into the cache. One of the two is enough.

    Nothing is downloaded: no checksum of these files is published.

    Args:
        root: data root.
        from_folder: link the published files and folders found in it, or in its sub-folders, below
            ``root`` first; what is there already stays.
        full_size: prepare the pairs at the published 640x480, not at 320x240.

    Yields:
        What was done, a line at a time.

    Raises:
        UserError: neither pairs nor scenes are there, a file is broken, ``root`` holds simulated
            data or cannot be written, or smaller pairs are there than ``full_size`` asks for.
    """
    refuse_simulated(root, root / FOLDER, root / SCENES)
    if from_folder is not None:
        with writable(root):
            _link(from_folder.resolve(), root / FOLDER, _MAT_FILES)
            _link(from_folder.resolve(), root / SCENES, _SCENE_FOLDERS)
    scenes = has_scenes(root)
    if has_pairs(root) or not scenes:
        yield _prepare_pairs(root, full_size)
    if scenes:
        yield _prepare_scenes(root)


def _link(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Link what is called so in ``source`` below ``target``, unless it is there."""
    for name in names:
        found = next(below(source, name), None)
        if found is not None and not (target / name).exists():
            target.mkdir(parents=True, exist_ok=True)
            (target / name).unlink(missing_ok=True)  # a link to what has been moved
            (target / name).symlink_to(found)


def _prepare_pairs(root: Path, full_size: bool) -> str:
    folder = root / FOLDER / PREPARED
    if not folder.exists():
        source = pair_source(root)
        with writable(root), locked(folder):
            if not folder.exists():
                with write_atomic(folder) as target:
                    write_prepared(target, source, full_size)
    there = PreparedFolder(folder)
    if full_size and there.size != _full_size(root):
        raise UserError(
            f"{folder} holds pairs of {there.size[1]}x{there.size[0]}: delete it to prepare them "
            "anew, or leave out --full_size"
        )
    count = sum(map(len, there.split.values()))
    return f"{count} labelled pairs of {there.size[1]}x{there.size[0]} in {folder}"


def _full_size(root: Path) -> tuple[int, int]:
    published = root / FOLDER / LABELLED_MAT
    return LabelledMat(root / FOLDER).size if published.is_file() else IMAGE_SIZE


def write_prepared(target: Path, source: PairSource, full_size: bool) -> None:
    """Write the pairs of the official split into the new folder ``target``, losslessly.

    Args:
        target: gets ``rgb``, ``depth``, ``label40`` (PNG) and ``split.json``.
        source: the published pairs.
        full_size: at their own size; else at half of it.
    """
    height, width = source.size
    size = (height, width) if full_size else (height // 2, width // 2)
    indices = sorted(index for part in PARTS for index in source.split[part])
    with progress_bar("preparing NYU Depth V2", len(indices)) as update:
        for index in indices:
            write_pair(target, index, resized(source.read(index), size))
            update(advance=1)
    (target / SPLIT).write_text(json.dumps(source.split))


def _prepare_scenes(root: Path) -> str:
    counts = {
        part: len(prepared_scenes(root / SCENES, default_cache_dir(), part)) for part in PARTS
    }
    return f"{counts['train']} + {counts['test']} scenes of {root / SCENES} decoded into the cache"


def verify(root: Path) -> list[FileCheck]:
    """Decode every labelled pair and every scene; the files of one of the two tasks are enough."""
    pairs, scenes = has_pairs(root), has_scenes(root)
    checks = [_check_pairs(root)] if pairs or not scenes else []
    return [*checks, *check_scenes(root)] if scenes or not pairs else checks


def _check_pairs(root: Path) -> FileCheck:
    folder = root / FOLDER
    try:
        source = pair_source(root)
        pixels = _count_pixels(source)
    except UserError as error:
        return FileCheck(folder, "corrupt" if has_pairs(root) else "missing", str(error))
    sizes = {part: len(source.split[part]) for part in PARTS}
    note = (
        f"{sizes['train']} + {sizes['test']} pairs of {source.size[1]}x{source.size[0]}, all "
        f"decoded; {np.count_nonzero(pixels[1:])} of {len(NYU40_NAMES)} classes occur"
    )
    if sizes != PART_SIZE and not is_simulated(folder, root):
        note += f"; published: {PART_SIZE['train']} + {PART_SIZE['test']}"
        return FileCheck(source.folder, "incomplete", note)
    return FileCheck(source.folder, "ok", note)


def _count_pixels(source: PairSource) -> NDArray[np.int64]:
    """Read all pairs and return how many pixels have each label: int64 (41,)."""
    pixels = np.zeros(len(NYU40_NAMES) + 1, np.int64)
    indices = [index for part in PARTS for index in source.split[part]]
    with progress_bar("checking NYU Depth V2", len(indices)) as update:
        for index in indices:
            pixels += np.bincount(source.read(index).label.ravel(), minlength=len(pixels))
            update(advance=1)
    return pixels
