"""Getting the published files of MNIST and BSDS500, and checking what is there."""

from __future__ import annotations

import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ntdh_bench.cache import file_digest, write_atomic
from ntdh_bench.datasets import FileCheck, is_simulated
from ntdh_bench.downloads import download, extract, progress_bar, writable
from ntdh_bench.errors import UserError

from .idx import read_images, read_labels
from .layout import (
    ARCHIVE_FOLDER,
    IDX_COUNT,
    IDX_FOLDER,
    IDX_MD5,
    IDX_PREFIX,
    PHOTO_COUNT,
    PHOTO_FOLDER,
    UNPACKED_MD5,
    idx_file,
    jpegs,
)
from .mnist_m import archive_files, read_image

#: torchvision's mirrors of MNIST.
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
#: The publisher's archive, and a mirror repository in the same layout.
BSDS500_URLS = (
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",
    "https://codeload.github.com/BIDS/BSDS500/tar.gz/refs/heads/master",
)
_MB = 1_000_000


def prepare(root: Path, from_folder: Path | None = None) -> list[str]:
    """Put the published files of MNIST and BSDS500 below ``root``; what is there already stays.

    The MNIST files are checked against their published MD5. No checksum of BSDS500 is published:
    its archive is checked by gzip's own, and the photographs by their number and by decoding them.

    Args:
        root: data root.
        from_folder: take the files from here (in any sub-folder) instead of downloading them.

    Returns:
        What was done, in a line.

    Raises:
        UserError: a file cannot be got, is wrong, or ``root`` holds simulated files.
    """
    for folder in (root / IDX_FOLDER, root / PHOTO_FOLDER):
        if is_simulated(folder, root):
            raise UserError(f"{folder} holds simulated data: name another --root for the real one")
    if from_folder is not None and not from_folder.is_dir():
        raise UserError(f"--from {from_folder}: no such folder")
    with writable(root):
        for name, md5 in IDX_MD5.items():
            _get_idx(root / IDX_FOLDER / name, md5, from_folder)
        _get_photographs(root, from_folder)
    return [f"complete in {root}"]


def _get_idx(path: Path, md5: str, from_folder: Path | None) -> None:
    def check(candidate: Path) -> str | None:
        found = file_digest(candidate)
        return None if found == md5 else f"MD5 is {found}, expected {md5}"

    if path.exists():
        if wrong := check(path):
            raise UserError(f"{path}: {wrong}; delete it and try again")
        return
    if from_folder is None:
        urls = [mirror + path.name for mirror in MNIST_MIRRORS]
        with progress_bar(path.name) as progress:
            download(urls, path, max_bytes=20 * _MB, check=check, progress=progress)
        return
    copy = next(iter(sorted(from_folder.rglob(path.name))), None)
    if copy is None:
        raise UserError(f"--from {from_folder}: no {path.name} in it or its sub-folders")
    if wrong := check(copy):
        raise UserError(f"{copy}: {wrong}; fetch it again")
    with write_atomic(path) as temporary:
        shutil.copyfile(copy, temporary)


def _get_photographs(root: Path, from_folder: Path | None) -> None:
    folder = root / PHOTO_FOLDER
    if _missing_photographs(folder) is None:
        return
    if from_folder is None:
        archive = root / "bsds500" / "BSR_bsds500.tgz"
        with progress_bar(archive.name) as progress:
            download(
                BSDS500_URLS,
                archive,
                max_bytes=200 * _MB,
                check=_archive_fault,
                progress=progress,
            )
        unpack_photographs(archive, folder)
        archive.unlink()
    else:
        _copy_photographs(from_folder, folder)
    wrong = _missing_photographs(folder) or next(_broken_photographs(folder), None)
    if wrong:
        raise UserError(
            f"{wrong}; get all of BSDS500 (without --from it is downloaded; with it, put "
            "BSR_bsds500.tgz there)"
        )


def _archive_fault(path: Path) -> str | None:
    """Return what is wrong with a downloaded BSDS500 archive, read to its end, or None."""
    try:
        with tarfile.open(path, "r|gz") as tar:
            names = [member.name for member in tar if _photograph_of(member.name)]
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        return f"a broken archive ({error})"
    expected = sum(PHOTO_COUNT.values())
    return None if len(names) == expected else f"{len(names)} photographs, expected {expected}"


def _photograph_of(member: str) -> Path | None:
    """Return "<split>/<name>.jpg" if an archive member is a photograph."""
    parts = PurePosixPath(member).parts
    inside = len(parts) >= 3 and parts[-3] == "images" and parts[-2] in PHOTO_COUNT
    return Path(*parts[-2:]) if inside and re.fullmatch(r"\w+\.jpg", parts[-1]) else None


def unpack_photographs(archive: Path, folder: Path) -> None:
    """Unpack ``images/{train,test,val}/*.jpg`` of a BSDS500 archive into ``folder``.

    Raises:
        UserError: the archive is broken or not what it should be.
    """

    def choose(member: str) -> Path | None:
        photograph = _photograph_of(member)
        return folder / photograph if photograph else None

    extract(archive, choose, max_files=500, max_bytes=2 * _MB, max_total=2000 * _MB)


def _copy_photographs(from_folder: Path, folder: Path) -> None:
    archive = next(iter(sorted(from_folder.rglob("BSR_bsds500.tgz"))), None)
    if archive is not None:
        unpack_photographs(archive, folder)
        return
    for split in PHOTO_COUNT:
        for photograph in sorted(from_folder.rglob(f"images/{split}/*.jpg")):
            with write_atomic(folder / split / photograph.name) as temporary:
                shutil.copyfile(photograph, temporary)


def _missing_photographs(folder: Path) -> str | None:
    """Return what is missing of the photographs that MNIST-M needs, or None."""
    for split in ("train", "test"):
        found, expected = len(jpegs(folder / split)), PHOTO_COUNT[split]
        if found != expected:
            return f"{folder / split}: {found} photographs, expected {expected}"
    return None


def _broken_photographs(folder: Path) -> Iterator[str]:
    for split in PHOTO_COUNT:
        for path in jpegs(folder / split):
            try:
                read_image(path)
            except UserError as error:
                yield str(error)


def verify(root: Path) -> list[FileCheck]:
    """Check the files of MNIST, BSDS500 and (if there) the MNIST-M archive, one by one."""
    checks = [_check_idx(root, split, kind) for split in IDX_COUNT for kind in ("images", "labels")]
    checks += [_check_photographs(root, split) for split in ("train", "test")]
    checks += [_check_archive(root, split) for split in IDX_COUNT if _has_archive(root)]
    return checks


def _check_idx(root: Path, split: str, kind: str) -> FileCheck:
    try:
        path = idx_file(root, split, kind)
    except UserError:
        name = f"{IDX_PREFIX[split]}-{kind}-idx*-ubyte[.gz]"
        return FileCheck(root / IDX_FOLDER / name, "missing", "get it with `data prepare mnist`")
    source = "simulated" if is_simulated(path.parent, root) else "real"
    try:
        count = len(read_images(path) if kind == "images" else read_labels(path))
    except UserError as error:
        return FileCheck(path, "corrupt", str(error).removeprefix(f"{path}: "), source)
    if kind == "labels" and count != (images := _image_count(root, split, count)):
        return FileCheck(path, "corrupt", f"{count} labels, but {images} images", source)
    if source == "simulated":
        return FileCheck(path, "ok", f"{count} {kind}", source)
    expected = IDX_MD5.get(path.name) or UNPACKED_MD5[path.name]
    if file_digest(path) != expected:
        return FileCheck(path, "corrupt", f"MD5 is not the published {expected}", source)
    return FileCheck(path, "ok", f"{count} {kind}, MD5 as published", source)


def _image_count(root: Path, split: str, unknown: int) -> int:
    """Return the number of images, or ``unknown`` if they cannot be read (reported elsewhere)."""
    try:
        return len(read_images(idx_file(root, split, "images")))
    except UserError:
        return unknown


def _check_photographs(root: Path, split: str) -> FileCheck:
    folder = root / PHOTO_FOLDER / split
    source = "simulated" if is_simulated(folder, root) else "real"
    paths = jpegs(folder)
    if not paths:
        return FileCheck(folder, "missing", "no *.jpg; get it with `data prepare mnist`", source)
    for path in paths:
        try:
            read_image(path)
        except UserError as error:
            return FileCheck(path, "corrupt", str(error).removeprefix(f"{path}: "), source)
    expected = PHOTO_COUNT[split]
    if source == "real" and len(paths) != expected:
        note = f"{len(paths)} of the {expected} photographs, all decoded"
        return FileCheck(folder, "incomplete", note, source)
    return FileCheck(folder, "ok", f"{len(paths)} photographs, all decoded", source)


def _has_archive(root: Path) -> bool:
    return (root / ARCHIVE_FOLDER).is_dir()


def _check_archive(root: Path, split: str) -> FileCheck:
    """Check the labels against MNIST's, and that every image decodes."""
    labels_file = root / ARCHIVE_FOLDER / f"mnist_m_{split}_labels.txt"
    source = "simulated" if is_simulated(labels_file.parent, root) else "real"
    try:
        listed = archive_files(root, split)
        labels = read_labels(idx_file(root, split, "labels"))[: len(listed)]
        if [label for _, label in listed] != labels.tolist():
            raise UserError(f"{labels_file}: labels differ from MNIST's: not pairs")
        for path, _ in listed:
            read_image(path)
    except UserError as error:
        return FileCheck(labels_file, "corrupt", str(error).partition(";")[0], source)
    note = f"{len(listed)} images decoded, labels agree with MNIST's"
    return FileCheck(labels_file.parent / f"mnist_m_{split}", "ok", note, source)
