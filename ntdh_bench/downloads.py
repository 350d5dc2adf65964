"""Downloads that resume and arrive whole, and archives unpacked without trusting them."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ntdh_bench import __version__
from ntdh_bench.cache import file_digest, write_atomic
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.reading import checked_size, reading
from ntdh_bench.progress import Update, progress_bar

_BLOCK = 1 << 18
_EXPANSION, _HEADROOM = 3, 1 << 26  # of an archive of what is compressed already
_AGAIN = "delete it and try again"
_WEB_PAGE = "a web page came instead of the file"
_TIMEOUT = 30.0
_ATTEMPTS = 4  # with each mirror
_PAUSE = 1.0  # seconds before the second attempt; doubled every time
_BROKEN = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors
#: Says what is wrong with a file, or None.
Check: TypeAlias = Callable[[Path], str | None]
#: Downloads from an address what a file still lacks.
Fetch: TypeAlias = Callable[[str, Path], None]


def download(
    urls: Sequence[str],
    path: Path,
    *,
    max_bytes: int,
    check: Check,
) -> Path:
    """Download the first of ``urls`` that works to ``path``; does nothing if that exists.

    A broken connection is resumed (HTTP Range), also by a later call; ``path`` appears only when
    the file is whole and ``check`` accepts it.

    Args:
        urls: mirrors of one file, http or https, in order of preference.
        path: where it goes.
        max_bytes: more than that is refused.
        check: returns what is wrong with the file at the given path, or None.

    Raises:
        UserError: no mirror gave a file that passes, or the folder cannot be written.
    """
    if path.exists():
        return path
    from filelock import FileLock

    lock = path.with_name(f".{path.name}.lock")
    with writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock):
                if not path.exists():
                    with progress_bar(path.name, in_bytes=True) as update:
                        fetch = partial(_continue, max_bytes=max_bytes, update=update)
                        _from_mirrors(urls, path, check, fetch)
        finally:
            lock.unlink(missing_ok=True)
    return path


def md5_fault(path: Path, expected: str) -> str | None:
    """Return what is wrong with the MD5 of a file, or None."""
    found = file_digest(path)
    return None if found == expected else f"MD5 is {found}, expected {expected}"


def _from_mirrors(urls: Sequence[str], path: Path, check: Check, fetch: Fetch) -> None:
    failures = []
    for url in urls:
        # One part file per address: bytes of two mirrors are never mixed.
        name = hashlib.sha256(url.encode()).hexdigest()[:8]
        part = path.with_name(f".{path.name}.{name}.part")
        wrong = _from_mirror(url, part, check, fetch)
        if wrong is None:
            part.replace(path)
            return
        failures.append(f"{url}: {wrong}")
    raise UserError(
        f"cannot download {path.name}: {'; '.join(failures)}; check the network and try again "
        "(it resumes), or fetch it by hand and use --from FOLDER"
    )


def _from_mirror(url: str, part: Path, check: Check, fetch: Fetch) -> str | None:
    """Fill ``part`` from one mirror; return what went wrong, or None."""
    wrong: str | None = None
    # What was there from an earlier call may have been the broken part.
    for _ in range(2 if part.exists() else 1):
        if (wrong := _tried(lambda: fetch(url, part))) is not None:
            return wrong
        if (wrong := check(part)) is None:
            return None
        if _is_web_page(part):
            wrong = _WEB_PAGE
        part.unlink()
    return wrong


def _tried(ask: Callable[[], None]) -> str | None:
    """Ask a server, again after a pause if that may help; return what went wrong, or None."""
    wrong = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            ask()
        except urllib.error.HTTPError as error:
            wrong = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 416, 429):
                return wrong
        except _BROKEN as error:
            wrong = f"{type(error).__name__}: {error}"
        else:
            return None
    return wrong


def url_fault(url: str, *, page: bool = False) -> str | None:
    """Return what is wrong with an address, of which the first byte is asked, or None.

    Args:
        url: http or https.
        page: whether a web page is expected there; of a file it is a fault.
    """
    types = []

    def ask() -> None:
        # Not HEAD, which some servers refuse where they give the file.
        with _opened(url, "bytes=0-0") as response:
            types.append(response.headers.get_content_type())

    wrong = _tried(ask)
    return _WEB_PAGE if wrong is None and not page and "text/html" in types else wrong


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1 << 10).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def _continue(url: str, part: Path, max_bytes: int, update: Update) -> None:
    """Download what ``part`` still lacks of ``url``.

    Raises:
        OSError: the connection broke, or the server sent too much or too little.
    """
    have = part.stat().st_size if part.exists() else 0
    try:
        response = _opened(url, f"bytes={have}-" if have else None)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing after what we have: complete, or too long
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(have):
                return
            part.unlink()
        raise
    with response:
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status != 206 or not resumed:
            have = 0
        length = response.headers.get("Content-Length")
        total_bytes = have + int(length) if length and length.isdecimal() else None
        if (total_bytes or 0) > max_bytes:
            raise OSError(f"{total_bytes} bytes announced, expected at most {max_bytes}")
        with part.open("ab" if have else "wb") as file:
            while block := response.read(_BLOCK):
                have += len(block)
                if have > max_bytes:
                    raise OSError(f"more than the expected {max_bytes} bytes")
                file.write(block)
                update(completed=have, total=total_bytes)
    if total_bytes is not None and have < total_bytes:
        raise OSError(f"the connection broke after {have} of {total_bytes} bytes")


def _opened(url: str, wanted: str | None) -> http.client.HTTPResponse:
    """Ask for an address, or for the range of its bytes that is wanted."""
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: only http and https addresses are downloaded")
    request = urllib.request.Request(url, headers={"User-Agent": f"ntdh-bench/{__version__}"})
    if wanted:
        request.add_header("Range", wanted)
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    return response


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses inside the block into a UserError."""
    try:
        yield
    except OSError as error:  # what breaks on the network is dealt with further in
        raise UserError(
            f"cannot write to {folder}: {error.strerror} ({error.filename}); name a folder that "
            "can be written with --root"
        ) from None


def extract(
    archive: Path,
    choose: Callable[[str], Path | None],
    *,
    max_files: int,
    max_bytes: int,
    max_total: int,
) -> list[Path]:
    """Unpack chosen regular files of a ``.tar.gz``; links, devices and other names are passed by.

    The archive decides nothing about where files go: ``choose`` maps a member's name to a path,
    or to None. Each file appears whole. An archive may expand to three times its size and 64 MiB.

    Args:
        archive: the file.
        choose: where a member goes, by its name in the archive.
        max_files: most files to write.
        max_bytes: largest file to write.
        max_total: most bytes of the archive unpacked, headers included.

    Returns:
        The paths written.

    Raises:
        UserError: the archive is broken, or exceeds a limit.
    """
    written: list[Path] = []
    with opened_tar(archive, max_total) as tar:
        for member in tar:
            target = choose(member.name) if member.isreg() else None
            if target is None:
                continue
            if member.size > max_bytes:
                raise FileError(
                    f"{archive}: {target.name} has {member.size} bytes in it, expected at most "
                    f"{max_bytes}; {_AGAIN}"
                )
            if len(written) == max_files:
                raise FileError(f"{archive}: more than the {max_files} files expected; {_AGAIN}")
            content = tar.extractfile(member)
            assert content is not None  # regular files have one
            with write_atomic(target) as temporary, temporary.open("wb") as file:
                shutil.copyfileobj(content, file)
            written.append(target)
    return written


@contextmanager
def opened_tar(archive: Path, max_total: int) -> Iterator[tarfile.TarFile]:
    """Open a ``.tar.gz`` as a stream of members; what is wrong with it becomes a FileError.

    Args:
        archive: the file.
        max_total: most bytes that are read of it unpacked; at most three times its size and 64 MiB,
            since photographs are compressed already.
    """
    size = checked_size(archive, max_total, _AGAIN)
    limit = min(max_total, _EXPANSION * size + _HEADROOM)
    with (
        reading(archive, "a .tar.gz", _AGAIN),
        gzip.open(archive, "rb") as unpacked,
        tarfile.open(mode="r|", fileobj=_Limited(unpacked, archive, limit)) as tar,
    ):
        yield tar


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than ``limit`` bytes, whatever asks for them."""

    def __init__(self, stream: gzip.GzipFile, path: Path, limit: int) -> None:
        super().__init__()
        self._stream, self._path, self._left = stream, path, limit

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes (tarfile always says how many)."""
        block = self._stream.read(min(size, self._left + 1))
        self._left -= len(block)
        if self._left < 0:
            raise FileError(f"{self._path}: expands to more than is expected of it; {_AGAIN}")
        return block
