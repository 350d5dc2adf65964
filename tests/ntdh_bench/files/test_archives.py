from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ntdh_bench.errors import FileError
from ntdh_bench.files.archives import open_zip, read_member


def _zip(path: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_members_are_read_whole(tmp_path: Path) -> None:
    with open_zip(_zip(tmp_path / "a.zip", x=b"1" * 1000), 3) as archive:
        member = archive.getinfo("x")
        assert read_member(archive, member, 1000) == b"1" * 1000
        with pytest.raises(ValueError, match="more than 999"):
            read_member(archive, member, 999)


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    _zip(path, zipfile.ZIP_BZIP2, x=b"1" * 1000)
    with pytest.raises(FileError, match="another method"):
        open_zip(path, 3)
    content = bytearray(_zip(path, zipfile.ZIP_STORED, x=b"1234").read_bytes())
    for header, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(header) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="encrypted"):
        open_zip(path, 3)
    _zip(path, a=b"", b=b"", c=b"", d=b"")
    with pytest.raises(FileError, match="4 members, expected at most 3"):
        open_zip(path, 3)
    for damaged in (b"", b"PK", b"<html>"):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="damaged, or not a zip"):
            open_zip(path, 3)


def test_a_directory_that_promises_what_cannot_be(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", x=b"1" * 1000)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(FileError, match="cannot be"):
        open_zip(path, 3)
