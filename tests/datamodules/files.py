"""What tests of several data sets do with files."""

from __future__ import annotations

from pathlib import Path

from ntdh_bench.cache import file_digest


def digests(root: Path) -> dict[str, str]:
    """Digest of every file by its path below ``root``."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): file_digest(path) for path in files}
