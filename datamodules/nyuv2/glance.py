"""What a look at the folders of NYU Depth V2 tells, without opening a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ntdh_bench.files.listing import visible

from .layout import (
    CLASSES_MAT,
    FOLDER,
    PART_FOLDERS,
    PART_SIZE,
    PREPARED,
    SCENES,
    SPLIT,
    SPLIT_MAT,
    has_pairs,
    has_scenes,
)


def lacking(root: Path) -> str | None:
    """Return what is missing of the published files, a few words, or None.

    The files of one of the two tasks are enough.
    """
    pairs, scenes = root / FOLDER, root / SCENES
    notes: list[str] = []
    if (pairs / PREPARED).is_dir():
        notes += _prepared(pairs / PREPARED)
    elif has_pairs(root):
        notes += [f"no {name}" for name in (SPLIT_MAT, CLASSES_MAT) if not (pairs / name).is_file()]
    elif not has_scenes(root):
        notes = ["no pairs, no scenes"]
    if has_scenes(root):
        notes += _scenes(scenes)
    return next(iter(notes), None)


def _prepared(folder: Path) -> Iterator[str]:
    expected = sum(PART_SIZE.values())
    for kind in ("rgb", "depth", "label40"):
        found = len(visible(folder / kind, "[0-9][0-9][0-9][0-9].*"))
        if found != expected:
            yield f"{kind}: {found:,} of {expected:,}"
    if not (folder / SPLIT).is_file():
        yield f"no {SPLIT}"


def _scenes(folder: Path) -> Iterator[str]:
    for part, names in PART_FOLDERS.items():
        there = [folder / name for name in names if (folder / name).is_dir()]
        files = visible(there[0], "*.npz") or visible(there[0], "*.bin") if there else []
        if len(files) != PART_SIZE[part]:
            yield f"{len(files)} of {PART_SIZE[part]} {part} scenes"
