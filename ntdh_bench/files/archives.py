"""Zip archives: what they say of themselves is checked before it is believed."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import AGAIN, checked_size, reading

_BLOCK = 1 << 18
_MAX_DEFLATE = 1032  # no deflate stream expands further (zlib's technical details)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1


def open_zip(
    path: Path, max_members: int, what: str = "a zip", remedy: str = AGAIN
) -> zipfile.ZipFile:
    """Open a zip whose members are neither encrypted nor packed by rare methods, nor too many.

    Args:
        path: the file.
        max_members: most members it may have.
        what: it should be.
        remedy: what to do.

    Raises:
        FileError: it is missing, damaged, or of another kind.
    """
    size = checked_size(path, 1 << 62, remedy)
    with reading(path, what, remedy):
        archive = zipfile.ZipFile(path)
        try:
            members = archive.infolist()
            if len(members) > max_members:
                raise FileError(
                    f"{path}: {len(members)} members, expected at most {max_members}; {remedy}"
                )
            for member in members:
                if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
                    raise FileError(
                        f"{path}: members that are encrypted or packed by another method than "
                        f"deflate; {remedy}"
                    )
                packed = member.compress_size
                stored = member.compress_type == zipfile.ZIP_STORED
                most = packed * (1 if stored else _MAX_DEFLATE)
                if not 0 <= packed <= size or not 0 <= member.file_size <= most:
                    raise FileError(f"{path}: sizes in its directory that cannot be; {remedy}")
        except BaseException:
            archive.close()
            raise
    return archive


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> bytearray:
    """Return the content of a member; memory grows with what is there, not with what is promised.

    Raises:
        ValueError: it is larger than ``max_bytes`` or than its directory says, or smaller.
        Exception: what zipfile raises for a damaged one; see :func:`~.reading.reading`.
    """
    if member.file_size > max_bytes:
        raise ValueError(f"more than {max_bytes} bytes")
    content = bytearray()
    with archive.open(member) as file:
        while block := file.read(_BLOCK):
            content += block
            if len(content) > member.file_size:
                break
    if len(content) != member.file_size:
        raise ValueError("not of the size its directory says")
    return content
