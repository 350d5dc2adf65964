"""Linking and projecting the published files of SemanticKITTI, and checking what is there."""

from __future__ import annotations

from pathlib import Path

from ntdh_bench.cache import default_cache_dir
from ntdh_bench.datasets import FileCheck, State, is_simulated, refuse_simulated
from ntdh_bench.downloads import writable
from ntdh_bench.errors import UserError
from ntdh_bench.files.listing import below

from .layout import (
    CALIBRATION,
    DENSE_FOLDER,
    HOW_TO_GET,
    KINDS,
    SEQUENCE_LENGTH,
    file_names,
    present_sequences,
    require_sequences,
    sequence_folder,
    sequences_folder,
)
from .reader import image_size, read_calibration, read_classes, scan_length
from .store import prepared


def prepare(root: Path, from_folder: Path | None = None) -> list[str]:
    """Project the published sequences below ``root`` once into the cache.

    Nothing is downloaded: the publishers ask for a registration. With ``from_folder`` the folders
    found in it are linked below ``root`` first (the archives may have been unpacked apart from each
    other); what is there already stays, except for links to other folders.

    Returns:
        What was done, in a line.

    Raises:
        UserError: ``root`` holds simulated data, a sequence of 00-10 is missing, or a file is
            missing or broken; it names all of these, and the other sequences have been prepared.
    """
    refuse_simulated(root, root / "semantickitti")
    if from_folder is not None:
        with writable(root):
            _link(from_folder.resolve(), root / "semantickitti" / "sequences")
    folder = sequences_folder(root)
    faults = []
    for number in present_sequences(folder):
        if number in SEQUENCE_LENGTH:
            try:
                prepared(folder, [number], default_cache_dir())
            except UserError as error:
                faults.append(str(error))
    try:
        require_sequences(folder, SEQUENCE_LENGTH)
    except UserError as error:
        faults.append(str(error))
    if faults:
        raise UserError(" / ".join(faults))
    return [f"complete in {root}, projected into the cache"]


def _link(source: Path, target: Path) -> None:
    """Link what each sequence has in ``source`` below ``target``; what is no link there stays."""
    found: dict[Path, Path] = {}
    for path in below(source, "sequences/*/*"):
        found.setdefault(Path(*path.parts[-2:]), path)
    for number in SEQUENCE_LENGTH:
        for name in (*KINDS, DENSE_FOLDER, CALIBRATION):
            link = sequence_folder(target, number) / name
            place = found.get(link.relative_to(target))
            if place is None or (link.exists() and not link.is_symlink()):
                continue
            if not (link.exists() and link.samefile(place)):
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(place.resolve())


def verify(root: Path) -> list[FileCheck]:
    """Check every sequence: counts, sizes that agree, calibration, labels in the learning map."""
    try:
        folder = sequences_folder(root)
    except UserError:
        missing = root / "semantickitti" / "sequences"
        return [FileCheck(missing, "missing", f"{HOW_TO_GET} below {missing}")]
    there = present_sequences(folder)
    # Generated sequences are shorter, and fewer.
    expected = {} if is_simulated(folder, root) else SEQUENCE_LENGTH
    numbers = sorted({*there, *expected})
    return [check for n in numbers for check in _check_sequence(folder, n, expected.get(n))]


def _check_sequence(folder: Path, number: int, published: int | None) -> list[FileCheck]:
    sequence = sequence_folder(folder, number)
    if not sequence.is_dir():
        return [FileCheck(sequence, "missing", HOW_TO_GET)]
    checks = [_check_folder(sequence, kind, published) for kind in KINDS]
    return [*checks, _check_calibration(sequence / CALIBRATION)]


def _check_folder(sequence: Path, kind: str, published: int | None) -> FileCheck:
    names, scans = file_names(sequence, kind), file_names(sequence, "velodyne")
    path = sequence / kind
    if not names:
        return FileCheck(path, "missing", f"no *{KINDS[kind]}; {HOW_TO_GET}")
    for name in names:
        file = path / (name + KINDS[kind])
        try:
            _check_file(file, kind, path / (names[0] + KINDS[kind]))
        except UserError as error:
            return FileCheck.failed(file, "corrupt", error)
    if published not in (None, len(names)):
        note = f"{len(names)} of the {published} files published, all sound"
        return FileCheck(path, "incomplete", note)
    if names != scans:
        note = f"{len(names)} files, but {len(scans)} scans, or other names"
        return FileCheck(path, "incomplete", note)
    return FileCheck(path, "ok", f"{len(names)} files, sizes agree")


def _check_file(path: Path, kind: str, first: Path) -> None:
    """Raise a UserError if a file is broken, or an image of another size than the first one."""
    if kind == "image_2":
        expected, found = image_size(first), image_size(path)
        if found != expected:
            raise UserError(
                f"{path}: {found[1]}x{found[0]}, but the sequence's first image has "
                f"{expected[1]}x{expected[0]}"
            )
        return
    count = scan_length(path.parents[1] / "velodyne" / f"{path.stem}.bin")
    if kind == "labels":
        read_classes(path, count)


def _check_calibration(path: Path) -> FileCheck:
    try:
        read_calibration(path)
    except UserError as error:
        state: State = "corrupt" if path.is_file() else "missing"
        return FileCheck.failed(path, state, error)
    return FileCheck(path, "ok", "P2 and Tr")
