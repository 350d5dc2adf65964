"""What ``ntdh-bench data`` knows of a data set, and how simulated files are told from real ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ntdh_bench.errors import UserError
from ntdh_bench.plugins import load, registered
from ntdh_bench.suggestions import did_you_mean

#: Lies in every folder of generated files, and makes their source "simulated" wherever they go.
MARKER = "SIMULATED.json"

State = Literal["ok", "missing", "incomplete", "corrupt"]


class Presence(NamedTuple):
    """Whether the files of a data set are there.

    Attributes:
        state: "real" is as published, as far as a glance can tell.
        lacking: what is missing of it, a few words.
    """

    state: Literal["real", "simulated", "incomplete", "missing", "not needed"]
    lacking: str | None = None


@dataclass(frozen=True)
class FileCheck:
    """What ``verify`` found about one file or folder.

    Attributes:
        path: the file or folder.
        state: "incomplete" is a folder that can be used, but is not the published one.
        note: what is wrong or what was checked, one line.
    """

    path: Path
    state: State
    note: str

    @classmethod
    def failed(cls, path: Path, state: State, error: UserError) -> FileCheck:
        """Return what an error says of ``path``, which need not be named twice."""
        return cls(path, state, str(error).removeprefix(str(path)).lstrip(": "))


@dataclass(frozen=True)
class Option:
    """An option of ``data prepare`` that only some data sets have.

    Attributes:
        flag: as on the command line; without its dashes, the argument of ``prepare``.
        help: one line.
        default: what ``prepare`` gets without it; False makes it a switch.
        type: of its value.
        choices: what it may be; empty for any.
    """

    flag: str
    help: str
    default: Any
    type: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()

    @property
    def argument(self) -> str:
        """The argument of ``prepare``."""
        return self.flag.lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class DatasetInfo:
    """One entry of the data catalogue, loaded from the entry-point group ``ntdh_bench.datasets``.

    Attributes:
        name: as on the command line.
        title: one line.
        modalities: teacher's and student's, or those to choose from.
        folders: names of folders or files under the data root, empty if none are needed.
        licence: terms of the files, one line.
        how_to_get: one line.
        prepare: ``(root, from_folder, **options)`` gets the published files, or makes what is
            derived from them; yields what it did, a line at a time. None if there is nothing to do.
        options: of ``prepare``.
        lacking: ``root`` -> what a glance at the folders shows to be missing of the published
            files, a few words; None if nothing is. It opens no file and takes no second.
        verify: ``root`` -> what was found, file by file. Of ``pairs``: a file, and the names of its
            arrays of targets, splits and groups.
        sample: ``(root, seed)`` writes the simulated files.
        either_way: whether any modality may teach any other.
        file_urls: returns the addresses of the published files, all mirrors, as far as they have
            any that are open to everybody.
        page_urls: web pages where the files are found by hand.
    """

    name: str
    title: str
    modalities: tuple[str, ...]
    folders: tuple[str, ...]
    licence: str
    how_to_get: str
    prepare: Callable[..., Iterable[str]] | None = None
    lacking: Callable[[Path], str | None] | None = None
    verify: Callable[..., list[FileCheck]] | None = None
    sample: Callable[[Path, int], None] | None = None
    options: tuple[Option, ...] = ()
    either_way: bool = False
    file_urls: Callable[[], Sequence[str]] = tuple
    page_urls: tuple[str, ...] = ()


def dataset_names() -> set[str]:
    """Return the names of the known data sets, without importing them."""
    return set(registered("ntdh_bench.datasets"))


def catalogue() -> list[DatasetInfo]:
    """Return the known data sets, those of installed plug-ins included, in order of name."""
    return [_load(entry) for entry in registered("ntdh_bench.datasets").values()]


def find_dataset(name: str) -> DatasetInfo:
    """Return the data set called ``name``.

    Raises:
        UserError: there is none; the message names those there are.
    """
    known = {info.name: info for info in catalogue()}
    if name not in known:
        hint = did_you_mean(name, known)
        raise UserError(f"unknown data set {name!r}: {hint}choose one of {', '.join(known)}")
    return known[name]


def _load(entry: EntryPoint) -> DatasetInfo:
    info = load(entry)
    if not isinstance(info, DatasetInfo):
        raise UserError(
            f"the entry point {entry.value} gives no DatasetInfo: mend or remove its package"
        )
    return info


def state_of(info: DatasetInfo, root: Path) -> Presence:
    """Return what a glance at the folders of a data set tells; ``verify`` looks into the files."""
    if not info.folders:
        return Presence("not needed")
    folders = [root / name for name in info.folders]
    if any(is_simulated(folder, root) for folder in folders):
        return Presence("simulated")
    if not any(folder.exists() for folder in folders):
        return Presence("missing")
    try:
        lacking = info.lacking(root) if info.lacking else None
    except UserError:  # one set that cannot be read hides no other
        return Presence("incomplete", "cannot be read: see verify")
    return Presence("incomplete", lacking) if lacking else Presence("real")


def data_root(root: str | Path | None) -> Path:
    """Return ``root``, else ``$NTDH_DATA``, else ``data``."""
    return Path(root or os.environ.get("NTDH_DATA") or "data").expanduser()


def write_marker(folder: Path, facts: dict[str, Any]) -> None:
    """Mark ``folder`` as generated; ``facts`` (plain values) say how.

    Raises:
        UserError: the folder cannot be written.
    """
    text = json.dumps({"source": "simulated", **facts}, indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text(text)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; name another --root") from None


def is_simulated(folder: Path, root: Path) -> bool:
    """Return whether ``folder``, or one above it up to ``root``, is marked as generated."""
    folder, root = folder.absolute(), root.absolute()
    inside = [path for path in (folder, *folder.parents) if path.is_relative_to(root)]
    return any((path / MARKER).is_file() for path in inside or [folder])


def refuse_simulated(root: Path, *folders: Path) -> None:
    """Raise a UserError if one of the folders below ``root`` holds generated files."""
    for folder in folders:
        if is_simulated(folder, root):
            raise UserError(f"{folder} holds simulated data: name another --root for the real one")


def begin_simulated(
    root: Path, folders: Sequence[str | Path], inside: Sequence[str | Path] = (), **facts: Any
) -> None:
    """Mark folders as generated before any file is written: none may ever look real.

    Args:
        root: data root.
        folders: in it; must be empty, absent or generated.
        inside: folders below these that get a marker of their own.
        facts: plain values that say how the files are made.

    Raises:
        UserError: a folder may hold real data, or cannot be written.
    """
    for folder in folders:
        _refuse_real(root / folder)
    for folder in (*folders, *inside):
        write_marker(root / folder, {"generator": "ntdh-bench", **facts})


def _refuse_real(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: name another --root for the simulated data")
    if any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UserError(
            f"{folder} is not empty and has no {MARKER}, so it may hold real data: name another "
            "--root for the simulated data"
        )
