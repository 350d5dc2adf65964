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
from pathlib import Path
from typing import Any

from ntdh_bench.errors import UserError

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC)


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
    """Return the hexadecimal digest of a file's content."""
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
        if error.errno in _UNWRITABLE:
            raise _unwritable(path.parent, error) from None
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def build_once(path: Path, build: Callable[[Path], None]) -> Path:
    """Return ``path``, first built by ``build(temporary_path)`` if it does not exist.

    Processes that ask for the same path wait for the first one, and then use what it built.

    Raises:
        UserError: the folder cannot be written.
    """
    if path.exists():
        return path
    with locked(path):
        if not path.exists():
            with write_atomic(path) as temporary:
                build(temporary)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` against other processes.

    Raises:
        UserError: the folder cannot be written.
    """
    from filelock import FileLock

    _make_folder(path.parent)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire()
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise _unwritable(path.parent, error) from None
        raise
    try:
        yield
    finally:
        lock.release()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to {folder}: {error.strerror}; choose a folder that can be written (the "
        "cache is where NTDH_CACHE says)"
    )
