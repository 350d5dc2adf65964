"""Downloads that resume and arrive whole, and archives unpacked without trusting them."""

from __future__ import annotations

import hashlib
import http.client
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ntdh_bench import __version__
from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import UserError

#: Told how many bytes there are, and how many there will be if the server says so.
Progress = Callable[[int, int | None], None]

_BLOCK = 1 << 18
_TIMEOUT = 30.0
_BROKEN = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors


def download(
    urls: Sequence[str],
    path: Path,
    *,
    max_bytes: int,
    check: Callable[[Path], str | None],
    attempts: int = 4,
    pause: float = 1.0,
    progress: Progress | None = None,
) -> Path:
    """Download the first of ``urls`` that works to ``path``; does nothing if that exists.

    A broken connection is resumed (HTTP Range), also by a later call; ``path`` appears only when
    the file is whole and ``check`` accepts it.

    Args:
        urls: mirrors of one file, http or https, in order of preference.
        path: where it goes.
        max_bytes: more than that is refused.
        check: returns what is wrong with the file at the given path, or None.
        attempts: how often a mirror is tried.
        pause: seconds before the second attempt; doubled every time.
        progress: told how far it is.

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
                    _from_mirrors(urls, path, max_bytes, check, attempts, pause, progress)
        finally:
            lock.unlink(missing_ok=True)
    return path


def _from_mirrors(
    urls: Sequence[str],
    path: Path,
    max_bytes: int,
    check: Callable[[Path], str | None],
    attempts: int,
    pause: float,
    progress: Progress | None,
) -> None:
    failures = []
    for url in urls:
        # One part file per address: bytes of two mirrors are never mixed.
        name = hashlib.sha256(url.encode()).hexdigest()[:8]
        part = path.with_name(f".{path.name}.{name}.part")
        wrong = _from_mirror(url, part, max_bytes, check, attempts, pause, progress)
        if wrong is None:
            part.replace(path)
            return
        failures.append(f"{url}: {wrong}")
    raise UserError(
        f"cannot download {path.name}: {'; '.join(failures)}; check the network and try again "
        "(it resumes), or fetch it by hand and use --from FOLDER"
    )


def _from_mirror(
    url: str,
    part: Path,
    max_bytes: int,
    check: Callable[[Path], str | None],
    attempts: int,
    pause: float,
    progress: Progress | None,
) -> str | None:
    """Fill ``part`` from one mirror; return what went wrong, or None."""
    resumed = part.exists()
    wrong: str | None = "not tried"
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            _continue(url, part, max_bytes, progress)
        except urllib.error.HTTPError as error:
            wrong = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 416, 429):
                return wrong
            continue
        except _BROKEN as error:
            wrong = f"{type(error).__name__}: {error}"
            continue
        wrong = check(part)
        if wrong is None:
            return None
        part.unlink()
        if not resumed:
            return wrong
        resumed = False  # what was there from an earlier call may have been the broken part
    return wrong


def _continue(url: str, part: Path, max_bytes: int, progress: Progress | None) -> None:
    """Download what ``part`` still lacks of ``url``.

    Raises:
        OSError: the connection broke, or the server sent too much or too little.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: only http and https addresses are downloaded")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": f"ntdh-bench/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing after what we have: complete, or too long
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(have):
                return
            part.unlink()
        raise
    with response:
        if response.status != 206 or not _starts_at(response, have):
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
                if progress:
                    progress(have, total_bytes)
    if total_bytes is not None and have < total_bytes:
        raise OSError(f"the connection broke after {have} of {total_bytes} bytes")


def _starts_at(response: http.client.HTTPResponse, first: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {first}-")


@contextmanager
def progress_bar(name: str) -> Iterator[Progress]:
    """Show how far a download is, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    terminal = Console(stderr=True)
    quiet = not terminal.is_terminal
    with Bars(*columns, TransferSpeedColumn(), console=terminal, disable=quiet) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


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
    or to None. Each file appears whole.

    Args:
        archive: the file.
        choose: where a member goes, by its name in the archive.
        max_files: most files to write.
        max_bytes: largest file to write.
        max_total: most bytes to read from the unpacked archive.

    Returns:
        The paths written.

    Raises:
        UserError: the archive is broken, or exceeds a limit.
    """
    written: list[Path] = []
    seen = 0
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                seen += max(member.size, 0)
                target = choose(member.name) if member.isreg() else None
                if seen > max_total or (target and member.size > max_bytes):
                    raise UserError(
                        f"{archive}: {member.name} is larger than expected; not unpacked"
                    )
                if target is None:
                    continue
                if len(written) == max_files:
                    raise UserError(f"{archive}: more than the {max_files} files expected")
                content = tar.extractfile(member)
                assert content is not None  # regular files have one
                with write_atomic(target) as temporary, temporary.open("wb") as file:
                    _copy(content, file)
                written.append(target)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{archive}: a broken archive ({error}); delete it and try again") from None
    return written


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while block := source.read(_BLOCK):
        target.write(block)
