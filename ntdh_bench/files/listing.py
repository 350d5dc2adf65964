"""Which files of a folder are meant."""

from __future__ import annotations

from pathlib import Path, PurePath

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
    with reading(folder, "a folder", "check its permissions"):
        return sorted(path for path in folder.glob(pattern) if not is_shadow(path))
