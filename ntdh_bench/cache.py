"""Derived files: where they go, what they are called, and how they are written whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.reading import checked_size
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json
from ntdh_bench.notices import notice

_SEALED = "sha256.json"
_SEAL = {str: {"bytes": int, "sha256": str, "modified": int}}
#: Larger files are read again only if their size or time is not what it was.
_ALWAYS_READ = 1 << 30
# What a folder, and not a programmer, is to blame for.
_UNWRITABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO,
    errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
)  # fmt: skip


def default_cache_dir() -> Path:
    """Return ``$NTDH_CACHE``, or ``ntdh-bench`` in the user's cache folder."""
    if override := os.environ.get("NTDH_CACHE"):
        return Path(override)
    from platformdirs import user_cache_path

    return user_cache_path("ntdh-bench")


def digest(plain: Any) -> str:
    """Return 16 hex digits that identify a value made of dicts, lists, strings and numbers.

    The order of keys does not count.

    Raises:
        TypeError: the value holds something JSON cannot express.
    """
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path, algorithm: str = "md5") -> str:
    """Return the hexadecimal digest of a file's content.

    Raises:
        UserError: it is missing, or no regular file: reading a pipe or a device never ends.
        OSError: it cannot be read.
    """
    checked_size(path, 1 << 62, "remove it, or get it again")
    with path.open("rb") as file:
        content = hashlib.new(algorithm, usedforsecurity=False)
        while chunk := file.read(1 << 20):
            content.update(chunk)
    return content.hexdigest()


@contextmanager
def write_atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (file or folder), renamed to it if the block succeeds.

    Raises:
        UserError: the folder cannot be written.
    """
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if is_unwritable(error):
            raise unwritable(path if path.is_dir() else path.parent, error) from None
        raise
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def build_once(path: Path, build: Callable[[Path], None], anew: bool = False) -> Path:
    """Return ``path``, first built by ``build(temporary_path)`` if it is not there and whole.

    Digests of what was built lie beside it; what no longer has them is built anew, and said.
    Processes that ask for the same path wait for the first one, and then use what it built.

    Args:
        path: a file or a folder in the cache.
        build: writes it.
        anew: build it in any case.

    Raises:
        UserError: the folder cannot be written.
    """
    if not anew and is_intact(path):
        return path
    with locked(path):
        if anew or not is_usable(path):
            with write_atomic(path) as temporary:
                build(temporary)
                seal(temporary, path)
                remove(path)
    return path


def is_usable(path: Path) -> bool:
    """Return whether a cached file or folder is there and whole; one that is damaged is said."""
    if is_intact(path):
        return True
    if path.exists():
        say_anew(path)
    return False


def say_anew(path: Path) -> None:
    """Say that what there is of ``path`` is of no use."""
    notice(f"{path} is damaged or of an earlier version: made anew")


def origin(path: Path) -> dict[str, str]:
    """Return what a record says of a cached file: its ``key``, and when it was ``created``."""
    made = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    return {
        "key": path.stem.rpartition("-")[2],
        "created": made.isoformat(timespec="seconds"),
        "path": str(path),
    }


def seal(built: Path, path: Path) -> None:
    """Write the digests of ``built``, a file or a folder, beside ``path``, its future name.

    Raises:
        UserError: the folder cannot be written.
    """
    entries = {
        name: {**_stamp(file), "sha256": file_digest(file, "sha256")}
        for name, file in _parts(built).items()
    }
    with write_atomic(seal_path(path)) as temporary:
        temporary.write_text(json.dumps(entries))
    _intact.pop(path, None)


def seal_path(path: Path) -> Path:
    """Return where the digests of a cached file or folder are."""
    return path.with_name(f"{path.name}.{_SEALED}")


#: What was found whole by this process, with the stamps that it had then.
_intact: dict[Path, dict[str, Any]] = {}


def is_intact(path: Path) -> bool:
    """Return whether a cached file or folder is what was sealed; False without a seal.

    Files of more than 1 GiB are read again only if their size or time differs from when they were
    sealed, and any file only once a process unless it changes.
    """
    if not path.exists():
        return False
    try:
        entries = read_json(seal_path(path))
        if mismatch(entries, _SEAL) is not None:
            return False
        parts = _parts(path)
        stamps = {name: _stamp(file) for name, file in parts.items()}
        if _intact.get(path) == stamps:
            return True
        whole = entries.keys() == parts.keys() and all(
            _is_sealed(parts[name], stamps[name], entry) for name, entry in entries.items()
        )
    except (FileError, OSError):
        return False
    if whole:
        _intact[path] = stamps
    return whole


def _parts(path: Path) -> dict[str, Path]:
    """Return the files of a folder by their paths in it, or the file itself."""
    if not path.is_dir():
        return {"": path}
    files = sorted(file for file in path.rglob("*") if not file.is_dir())
    return {file.relative_to(path).as_posix(): file for file in files}


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def _is_sealed(path: Path, stamp: dict[str, int], entry: dict[str, Any]) -> bool:
    if stamp["bytes"] != entry["bytes"]:
        return False
    if stamp["bytes"] > _ALWAYS_READ and stamp["modified"] == entry["modified"]:
        return True
    found: bool = file_digest(path, "sha256") == entry["sha256"]
    return found


def lock_path(path: Path) -> Path:
    """Return the lock file that whoever makes ``path`` holds."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` against other processes.

    Raises:
        UserError: the folder cannot be written.
    """
    from filelock import FileLock

    _make_folder(path.parent)
    lock = FileLock(lock_path(path))
    try:
        lock.acquire()
    except OSError as error:
        if is_unwritable(error):
            raise unwritable(path.parent, error) from None
        raise
    try:
        yield
    finally:
        lock.release()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None


def is_unwritable(error: OSError) -> bool:
    """Return whether a folder cannot be written: full, read-only, not the user's."""
    return error.errno in _UNWRITABLE


def unwritable(folder: Path, error: OSError) -> UserError:
    """Return what to tell the user when ``folder`` cannot be written."""
    return UserError(
        f"cannot write to {folder}: {error.strerror}; mend that, or choose another folder (the "
        "cache is where NTDH_CACHE says)"
    )
