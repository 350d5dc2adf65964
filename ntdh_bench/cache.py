"""Derived files: where they go, how they are named, and how they are written whole or not at all."""

from __future__ import annotations

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


@contextmanager
def write_atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (file or folder), renamed to it if the block succeeds.

    Raises:
        UserError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except PermissionError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a writable folder") from None
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
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        with lock:
            if not path.exists():
                with write_atomic(path) as temporary:
                    build(temporary)
    except PermissionError as error:
        raise UserError(
            f"cannot write the cache {path.parent}: {error.strerror}; set NTDH_CACHE to a folder "
            "that can be written"
        ) from None
    return path
