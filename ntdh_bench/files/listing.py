"""Which files of a folder are meant."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import reading


def is_shadow(path: PurePath) -> bool:
    """Return whether a file is hidden, or what macOS and archivers put beside real ones.

    ``._name`` beside every file, ``.DS_Store``, and everything below ``__MACOSX``.
    """
    return path.name.startswith(".") or "__MACOSX" in path.parts


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Return what matches in a folder, in order of name, shadows left out; [] if there is none.

    Raises:
        FileError: the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    with reading(folder, "a folder", "check its permissions"):
        names = fnmatch.filter([path.name for path in folder.iterdir()], pattern)
    return [folder / name for name in sorted(names) if not is_shadow(folder / name)]


def below(
    folder: Path, pattern: str = "*", unreadable: Callable[[OSError], None] | None = None
) -> Iterator[Path]:
    """Yield files and folders below a folder whose end matches, those of a folder by name.

    Shadows are left out. Links to folders are followed, and no folder is looked into twice.

    Args:
        folder: where to look.
        pattern: as of ``Path.match``, such as "images/train/*.jpg".
        unreadable: told which folders cannot be read; None to raise.

    Raises:
        FileError: a folder cannot be read, and nobody is told.
    """
    seen = set()
    for place, folders, files in os.walk(
        folder, onerror=unreadable or _refuse_unreadable, followlinks=True
    ):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_shadow(PurePath(name)))
        for name in [*folders, *sorted(files)]:
            path = Path(place, name)
            if path.match(pattern) and not is_shadow(path):
                yield path


def _refuse_unreadable(error: OSError) -> None:
    raise FileError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions")
