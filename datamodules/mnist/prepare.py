"""Getting the published files of MNIST and BSDS500, and checking what is there."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from ntdh_bench.cache import file_digest, write_atomic
from ntdh_bench.datasets import FileCheck, State, is_simulated, refuse_simulated
from ntdh_bench.downloads import download, extract, md5_fault, opened_tar, writable
from ntdh_bench.errors import UserError
from ntdh_bench.files.listing import below, is_shadow

from .idx import read_images, read_labels
from .layout import (
    ARCHIVE_COUNT,
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

#: Mirrors of MNIST: PyTorch's and TensorFlow's; its author's page gives none of the files any more.
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
#: The publisher's archive, and a mirror repository in the same layout.
BSDS500_URLS = (
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",
    "https://codeload.github.com/BIDS/BSDS500/tar.gz/refs/heads/master",
)
_ARCHIVE = "BSR_bsds500.tgz"
_MB = 1_000_000
_MAX_UNPACKED = 2000 * _MB
_GET_ALL = f"get all of BSDS500 (without --from it is downloaded; with it, put {_ARCHIVE} there)"


def file_urls() -> list[str]:
    """Return the addresses of the files that :func:`prepare` downloads."""
    return [mirror + name for mirror in MNIST_MIRRORS for name in IDX_MD5] + [*BSDS500_URLS]


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
    refuse_simulated(root, root / IDX_FOLDER, root / PHOTO_FOLDER)
    with writable(root):
        for name, md5 in IDX_MD5.items():
            _get_idx(root / IDX_FOLDER / name, md5, from_folder)
        _get_photographs(root, from_folder)
    return [f"complete in {root}"]


def _get_idx(path: Path, md5: str, from_folder: Path | None) -> None:
    check = partial(md5_fault, expected=md5)
    if path.exists():
        if wrong := check(path):
            raise UserError(f"{path}: {wrong}; delete it and try again")
        return
    if from_folder is None:
        urls = [mirror + path.name for mirror in MNIST_MIRRORS]
        download(urls, path, max_bytes=20 * _MB, check=check)
        return
    copies = sorted(below(from_folder, path.name))
    if not copies:
        raise UserError(f"--from {from_folder}: no {path.name} in it or its sub-folders")
    sound = next((copy for copy in copies if check(copy) is None), None)
    if sound is None:
        raise UserError(f"{copies[0]}: {check(copies[0])}; fetch it again")
    with write_atomic(path) as temporary:
        shutil.copyfile(sound, temporary)


def _get_photographs(root: Path, from_folder: Path | None) -> None:
    folder = root / PHOTO_FOLDER
    if _missing_photographs(folder) is None:
        return
    if from_folder is None:
        archive: Path | None = download(
            BSDS500_URLS,
            root / "bsds500" / _ARCHIVE,
            max_bytes=200 * _MB,
            check=_archive_fault,
        )
    else:
        archive = next(iter(sorted(below(from_folder, _ARCHIVE))), None)
    if archive is None:
        assert from_folder is not None
        _place(_complete_folder(from_folder), folder)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".unpacked-") as unpacked:
        unpack_photographs(archive, Path(unpacked))
        if wrong := _fault(Path(unpacked)):
            raise UserError(f"{archive}: {wrong.removeprefix(unpacked + '/')}; {_GET_ALL}")
        _place(Path(unpacked), folder)
    if from_folder is None:
        archive.unlink()


def _archive_fault(path: Path) -> str | None:
    """Return what is wrong with a downloaded BSDS500 archive, read to its end, or None."""
    try:
        with opened_tar(path, _MAX_UNPACKED) as tar:
            found = sum(_photograph_of(member.name) is not None for member in tar)
    except UserError as error:
        return str(error)
    expected = sum(PHOTO_COUNT.values())
    return None if found == expected else f"{found} photographs, expected {expected}"


def _photograph_of(member: str) -> Path | None:
    """Return "<split>/<name>.jpg" if an archive member is a photograph."""
    parts = PurePosixPath(member).parts
    inside = len(parts) >= 3 and parts[-3] == "images" and parts[-2] in PHOTO_COUNT
    if not inside or is_shadow(PurePosixPath(member)):
        return None
    return Path(*parts[-2:]) if re.fullmatch(r"\w+\.jpg", parts[-1]) else None


def unpack_photographs(archive: Path, folder: Path) -> None:
    """Unpack ``images/{train,test,val}/*.jpg`` of a BSDS500 archive into ``folder``.

    Raises:
        UserError: the archive is broken or not what it should be.
    """

    def choose(member: str) -> Path | None:
        photograph = _photograph_of(member)
        return folder / photograph if photograph else None

    extract(archive, choose, max_files=500, max_bytes=2 * _MB, max_total=_MAX_UNPACKED)


def _complete_folder(from_folder: Path) -> Path:
    """Return the first folder ``images`` below that holds all photographs and nothing else."""
    splits = (path.parent for path in below(from_folder, "images/train/*.jpg"))
    folders = sorted({split.parent for split in splits})
    faults = [_fault(folder) for folder in folders]
    for folder, wrong in zip(folders, faults, strict=True):
        if wrong is None:
            return folder
    raise UserError(f"{faults[0] if faults else f'--from {from_folder}: no BSDS500'}; {_GET_ALL}")


def _place(source: Path, folder: Path) -> None:
    """Copy checked photographs; what else is there is moved to ``others``, where none is read."""
    for split in PHOTO_COUNT:
        photographs = jpegs(source / split)
        names = {path.name for path in photographs}
        strays = [path for path in jpegs(folder / split) if path.name not in names]
        for stray in strays if photographs else []:
            (folder / split / "others").mkdir(exist_ok=True)
            stray.replace(folder / split / "others" / stray.name)
        for photograph in photographs:
            with write_atomic(folder / split / photograph.name) as temporary:
                shutil.copyfile(photograph, temporary)


def _fault(folder: Path) -> str | None:
    """Return what is wrong with a folder of photographs, or None."""
    if wrong := _missing_photographs(folder):
        return wrong
    for path in (path for split in PHOTO_COUNT for path in jpegs(folder / split)):
        try:
            read_image(path)
        except UserError as error:
            return str(error)
    return None


def _missing_photographs(folder: Path) -> str | None:
    """Return what is missing of the photographs that MNIST-M needs, or None."""
    for split in ("train", "test"):
        found, expected = len(jpegs(folder / split)), PHOTO_COUNT[split]
        if found != expected:
            return f"{folder / split}: {found} photographs, expected {expected}"
    return None


def verify(root: Path) -> list[FileCheck]:
    """Check the files of MNIST, BSDS500 and (if there) the MNIST-M archive, one by one.

    Photographs are not needed where there is the archive.
    """
    checks = [_check_idx(root, split, kind) for split in IDX_COUNT for kind in ("images", "labels")]
    archive = (root / ARCHIVE_FOLDER).is_dir()
    if not archive or (root / PHOTO_FOLDER).is_dir():
        checks += [_check_photographs(root, split) for split in ("train", "test")]
    if archive:
        checks += [_check_archive(root, split) for split in IDX_COUNT]
    return checks


def _check_idx(root: Path, split: str, kind: str) -> FileCheck:
    try:
        path = idx_file(root, split, kind)
    except UserError:
        name = f"{IDX_PREFIX[split]}-{kind}-idx*-ubyte[.gz]"
        return FileCheck(root / IDX_FOLDER / name, "missing", "get it with `data prepare mnist`")
    try:
        count = len(read_images(path) if kind == "images" else read_labels(path))
    except UserError as error:
        return FileCheck.failed(path, "corrupt", error)
    if kind == "labels" and count != (images := _image_count(root, split, count)):
        return FileCheck(path, "corrupt", f"{count} labels, but {images} images")
    if is_simulated(path.parent, root):
        return FileCheck(path, "ok", f"{count} {kind}")
    expected = IDX_MD5.get(path.name) or UNPACKED_MD5[path.name]
    if file_digest(path) != expected:
        return FileCheck(path, "corrupt", f"MD5 is not the published {expected}")
    return FileCheck(path, "ok", f"{count} {kind}, MD5 as published")


def _image_count(root: Path, split: str, unknown: int) -> int:
    """Return the number of images, or ``unknown`` if they cannot be read (reported elsewhere)."""
    try:
        return len(read_images(idx_file(root, split, "images")))
    except UserError:
        return unknown


def _check_photographs(root: Path, split: str) -> FileCheck:
    folder = root / PHOTO_FOLDER / split
    paths = jpegs(folder)
    if not paths:
        return FileCheck(folder, "missing", "no *.jpg; get it with `data prepare mnist`")
    for path in paths:
        try:
            read_image(path)
        except UserError as error:
            return FileCheck.failed(path, "corrupt", error)
    expected = PHOTO_COUNT[split]
    if len(paths) != expected and not is_simulated(folder, root):
        note = f"{len(paths)} of the {expected} photographs, all decoded"
        return FileCheck(folder, "incomplete", note)
    return FileCheck(folder, "ok", f"{len(paths)} photographs, all decoded")


def _check_archive(root: Path, split: str) -> FileCheck:
    """Check the labels against MNIST's, and that every image decodes."""
    labels_file = root / ARCHIVE_FOLDER / f"mnist_m_{split}_labels.txt"
    folder = labels_file.with_name(f"mnist_m_{split}")
    try:
        listed = archive_files(root, split)
        labels = read_labels(idx_file(root, split, "labels"))[: len(listed)]
        if [label for _, label in listed] != labels.tolist():
            raise UserError(f"{labels_file}: labels differ from MNIST's: not pairs")
        for path, _ in listed:
            read_image(path, "PNG")
    except UserError as error:
        state: State = "corrupt" if labels_file.is_file() else "missing"
        return FileCheck.failed(labels_file, state, error)
    note = "images decoded, labels agree with MNIST's"
    if len(listed) != (published := ARCHIVE_COUNT[split]) and not is_simulated(folder, root):
        return FileCheck(folder, "incomplete", f"{len(listed)} of {published} {note}")
    return FileCheck(folder, "ok", f"{len(listed)} {note}")
