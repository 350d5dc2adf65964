"""Published data sets that become one ``.npz`` of paired arrays. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.datasets import (
    DatasetInfo,
    FileCheck,
    begin_simulated,
    is_simulated,
    refuse_simulated,
)
from ntdh_bench.errors import FileError, UserError

from .arrays import SPLITS, TEST, TRAIN, VAL, PairedArrays, read_arrays, shown_name, write_arrays

#: Folder below the data root that holds the ``.npz`` of all sets.
FOLDER = "pairs"

Read = Callable[[Path], PairedArrays]
Write = Callable[[Path, int], None]


@dataclass(frozen=True, kw_only=True)
class PublishedSet(DatasetInfo):
    """An entry of the data catalogue whose modalities lie in ``<root>/pairs/<name>.npz``.

    Attributes:
        class_names: in the order of the targets.
        images: modalities whose arrays ``(N, H, W)`` are images, not series.
        read: from a folder in the published layout to its arrays.
        write: ``(folder, seed)`` writes small simulated files in that layout.
        samples: as many as the published files have; 0: any number.
    """

    class_names: tuple[str, ...]
    read: Read
    write: Write
    images: tuple[str, ...] = ()
    samples: int = 0


def npz_of(root: Path, name: str) -> Path:
    """Return where the ``.npz`` of a set is below a data root."""
    return root / FOLDER / f"{name}.npz"


def published_set(
    name: str,
    title: str,
    modalities: tuple[str, ...],
    class_names: tuple[str, ...],
    licence: str,
    how_to_get: str,
    read: Read,
    write: Write,
    images: tuple[str, ...] = (),
    samples: int = 0,
    fetch: Callable[[Path], None] | None = None,
    file_urls: tuple[str, ...] = (),
    page_urls: tuple[str, ...] = (),
) -> PublishedSet:
    """Return the catalogue's entry of a set, see :class:`PublishedSet`.

    Args:
        name: of the set and of its ``.npz``.
        title: one line.
        modalities: names of the arrays; the first two are teacher and student by default.
        class_names: in the order of the targets.
        licence: terms of the files, one line.
        how_to_get: where the published files are, a few words.
        read: from a folder in the published layout to its arrays.
        write: ``(folder, seed)`` writes small simulated files in that layout.
        images: modalities whose arrays ``(N, H, W)`` are images, not series.
        samples: as many as the published files have; 0: any number.
        fetch: downloads the published files into a folder; None: they are fetched by hand.
        file_urls: from which ``fetch`` downloads.
        page_urls: web pages where the files are found by hand.
    """
    way = f"{how_to_get}, then data prepare {name}{'' if fetch else ' --from FOLDER'}"
    return PublishedSet(
        name=name,
        title=title,
        modalities=modalities,
        folders=(f"{FOLDER}/{name}.npz",),
        licence=licence,
        how_to_get=way,
        prepare=partial(
            _prepare, name=name, how_to_get=way, read=read, samples=samples, fetch=fetch
        ),
        verify=partial(_verify, name=name, how_to_get=way, samples=samples),
        sample=partial(write_simulated, name=name, read=read, write=write),
        either_way=True,
        file_urls=lambda: file_urls,
        page_urls=page_urls,
        class_names=class_names,
        read=read,
        write=write,
        images=images,
        samples=samples,
    )


def write_simulated(root: Path, seed: int, *, name: str, read: Read, write: Write) -> None:
    """Write simulated files to ``<root>/<name>``, and what the reader makes of them.

    Raises:
        UserError: a folder may hold real data, or cannot be written.
    """
    begin_simulated(root, [name, FOLDER], seed=seed)
    write(root / name, seed)
    write_arrays(npz_of(root, name), read(root / name))


def _prepare(
    root: Path,
    from_folder: Path | None,
    *,
    name: str,
    how_to_get: str,
    read: Read,
    samples: int,
    fetch: Callable[[Path], None] | None,
) -> list[str]:
    """Make the ``.npz`` of a set of its published files, taken from a folder or downloaded."""
    path = npz_of(root, name)
    refuse_simulated(root, path)
    if from_folder is not None:
        _refuse_generated(from_folder)
        arrays = read(from_folder)
    elif fetch is None:
        raise UserError(f"{name} is not downloaded by this command: {how_to_get}")
    else:
        with TemporaryDirectory() as folder:
            fetch(Path(folder))
            arrays = read(Path(folder))
    done = f"{len(arrays):,} samples in {path}"
    if path.exists():
        _require_same(path, arrays)
        done = f"{done}, as they were there already"
    else:
        write_arrays(path, arrays)
    return [done, *_lacking(arrays, samples)]


def _lacking(arrays: PairedArrays, samples: int) -> list[str]:
    """Return what tells arrays from the whole published set, where there is something."""
    if samples in (0, len(arrays)):
        return []
    return [f"not the published set, which has {samples:,} samples, not {len(arrays):,}"]


def _refuse_generated(folder: Path) -> None:
    """Raise a UserError if a folder, or one above it, is generated."""
    if is_simulated(folder, Path(folder.absolute().anchor)):
        raise UserError(f"--from {folder}: simulated data: name the folder of the published files")


def _require_same(path: Path, arrays: PairedArrays) -> None:
    """Raise a UserError if a ``.npz`` holds something else: it may be all that there is of it."""
    there = read_arrays(path)
    pairs = [(getattr(there, name), getattr(arrays, name)) for name in ("target", "split", "group")]
    names = {*there.modalities, *arrays.modalities}
    pairs += [(there.modalities.get(name), arrays.modalities.get(name)) for name in names]
    if not all(_equal(*pair) for pair in pairs):
        raise UserError(f"{path} is there and holds other arrays: move it away, then prepare again")


def _equal(first: NDArray[Any] | None, second: NDArray[Any] | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.dtype == second.dtype and np.array_equal(first, second)


def _verify(root: Path, *, name: str, how_to_get: str, samples: int) -> list[FileCheck]:
    path = npz_of(root, name)
    if not path.exists():
        return [FileCheck(path, "missing", how_to_get)]
    return verify_file(path, samples=0 if is_simulated(path, root) else samples)


def verify_file(
    path: Path,
    target: str = "target",
    split: str = "split",
    group: str = "group",
    samples: int = 0,
) -> list[FileCheck]:
    """Return what is found in a ``.npz`` of paired arrays: one line an array, and its splits.

    Args:
        path: the file.
        target: name of its array of classes.
        split: of the splits.
        group: of the groups.
        samples: as many as there should be; 0: any number.
    """
    try:
        arrays = read_arrays(path, None, target, split, group)
    except FileError as error:
        return [FileCheck.failed(path, "corrupt", error)]
    notes = [
        f"{shown_name(name)}: {array.dtype} {array.shape}"
        for name, array in arrays.modalities.items()
    ] + [_parts(arrays)]
    checks = [FileCheck(path, "ok", note) for note in notes]
    doubts = _lacking(arrays, samples) + _doubts(arrays)
    return checks + [FileCheck(path, "incomplete", note) for note in doubts]


def _parts(arrays: PairedArrays) -> str:
    classes = f"{arrays.num_classes} classes"
    groups = "no groups" if arrays.group is None else f"{len(np.unique(arrays.group))} groups"
    if arrays.split is None:
        return f"{len(arrays):,} samples, {classes}, {groups}, no split"
    sizes = Counter(arrays.split.tolist())
    parts = [f"{sizes[part]:,} {name}" for name, part in SPLITS.items() if sizes[part]]
    return f"{', '.join(parts)}, {classes}, {groups}"


def _doubts(arrays: PairedArrays) -> list[str]:
    """Return what makes the arrays less than a sound benchmark."""
    doubts = [
        f"{shown_name(name)}: all samples are equal"
        for name, array in arrays.modalities.items()
        if (array == array[:1]).all()
    ]
    if len(arrays.modalities) < 2:
        doubts.append("one modality, expected two or more")
    if arrays.split is None:
        return doubts
    for name in ("train", "test"):
        present = np.unique(arrays.target[arrays.split == SPLITS[name]])
        if len(present) < arrays.num_classes:
            doubts.append(f"{arrays.num_classes - len(present)} classes have no {name} samples")
    if copies := _copies(arrays):
        doubts.append(f"{copies:,} test samples are training samples as well")
    return doubts


def _copies(arrays: PairedArrays) -> int:
    """Return how many test samples equal a training sample in all modalities."""
    rows = [
        b"".join(array[row].tobytes() for array in arrays.modalities.values())
        for row in range(len(arrays))
    ]
    parts: dict[int, list[bytes]] = {TRAIN: [], TEST: [], VAL: []}
    for row, part in zip(rows, [] if arrays.split is None else arrays.split.tolist(), strict=True):
        parts[part].append(row)
    known = set(parts[TRAIN])
    return sum(row in known for row in parts[TEST])
