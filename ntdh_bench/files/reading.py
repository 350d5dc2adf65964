"""What all openers share: errors in one form, and sizes before content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ntdh_bench.errors import FileError, UserError

AGAIN = "get it again"


@contextmanager
def reading(path: Path, what: str, remedy: str = AGAIN) -> Iterator[None]:
    """Turn whatever a damaged file leads a library to raise inside the block into a FileError.

    Libraries put pieces of the file into their messages: only the type of theirs is shown.

    Args:
        path: the file.
        what: it should be, such as "a PNG image".
        remedy: what to do.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise FileError(f"{path} is missing; {remedy}") from None
    except Exception as error:  # libraries raise whatever a damaged file leads them to
        if isinstance(error, OSError) and error.errno is not None:
            raise FileError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
        raise FileError(
            f"{path}: damaged, or not {what} ({type(error).__name__}); {remedy}"
        ) from None


def checked_size(path: Path, max_bytes: int, remedy: str = AGAIN) -> int:
    """Return the size of a regular file in bytes.

    Raises:
        FileError: it is missing, no regular file, or larger than ``max_bytes``.
    """
    with reading(path, "a file", remedy):
        size = path.stat().st_size
        if not path.is_file():
            raise FileError(f"{path} is no regular file; {remedy}")
    if size > max_bytes:
        raise FileError(f"{path}: {size} bytes, expected at most {max_bytes}; {remedy}")
    return size


def read_bytes(path: Path, max_bytes: int, remedy: str = AGAIN) -> bytes:
    """Return the content of a regular file of at most ``max_bytes``.

    Raises:
        FileError: it is missing, cannot be read, or is larger.
    """
    size = checked_size(path, max_bytes, remedy)
    with reading(path, "a file", remedy), path.open("rb") as file:
        return file.read(size)  # memory is taken for all that is asked for
