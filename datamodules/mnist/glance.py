"""What a look at the folders of MNIST and MNIST-M tells, without opening a file."""

from __future__ import annotations

from pathlib import Path

from ntdh_bench.errors import UserError
from ntdh_bench.files.listing import visible

from .layout import (
    ARCHIVE_COUNT,
    ARCHIVE_FOLDER,
    IDX_COUNT,
    PHOTO_COUNT,
    PHOTO_FOLDER,
    idx_file,
    jpegs,
)


def lacking(root: Path) -> str | None:
    """Return what is missing of the published files, a few words, or None."""
    for split in IDX_COUNT:
        for kind in ("images", "labels"):
            try:
                idx_file(root, split, kind)
            except UserError:
                return f"no {split} {kind} of MNIST"
    folder = root / ARCHIVE_FOLDER
    for split, expected in ARCHIVE_COUNT.items() if folder.is_dir() else ():
        found = len(visible(folder / f"mnist_m_{split}", "*.png"))
        if found != expected:
            return f"MNIST-M {split}: {found:,} of {expected:,}"
    if folder.is_dir() and not (root / PHOTO_FOLDER).is_dir():
        return None
    for split in ("train", "test"):
        found, expected = len(jpegs(root / PHOTO_FOLDER / split)), PHOTO_COUNT[split]
        if found != expected:
            return f"BSDS500 {split}: {found} of {expected}"
    return None
