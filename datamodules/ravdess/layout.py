"""Where the files of RAVDESS lie: zipped as published, extracted, nested or flat."""

from __future__ import annotations

import errno
import itertools
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

from ntdh_bench.errors import UserError, one_line
from ntdh_bench.files.archives import open_zip, read_member
from ntdh_bench.files.listing import below, is_shadow, visible
from ntdh_bench.files.reading import checked_size

from .names import ACTORS, EMOTIONS, SONG, SPEECH, ClipKey, ClipName

#: What a file holds: ``.wav``, ``.mp4``, ``.csv``.
ClipKind = Literal["audio", "video", "tracking"]

FOLDER = "ravdess"
FEATURES = "features"
ENDINGS: dict[ClipKind, str] = {"audio": ".wav", "video": ".mp4", "tracking": ".csv"}
#: Modalities a file of a kind may have, the preferred one first.
MODALITIES: dict[ClipKind, tuple[int, ...]] = {"audio": (3,), "video": (1, 2), "tracking": (1, 2)}
SILENT_ACTOR = 18  # who sings no songs

_PUBLISHED = re.compile(
    r"((?P<kind>audio|video)_(?P<channel>speech|song)_actors?_\d\d(-\d\d)?"
    r"|(?P<tracking>facialtracking)_actors_\d\d-\d\d"
    r"|actor_\d\d)(?P<zip>\.zip)?",
    re.IGNORECASE | re.ASCII,
)
_LIKE_A_NAME = re.compile(r"[\d-]+", re.ASCII)
_MAX_ZIP = 1 << 36
_MAX_MEMBERS = 20_000  # the largest published zip has 2,452


@dataclass(frozen=True)
class ClipFile:
    """One file of one clip, in a folder or in a zip.

    Attributes:
        stem: of its name, which may be wrong.
        location: path below the data set's folder, through the zip if it is in one.
        path: the file, or the zip it is in.
        member: its name in the zip; None if it is a file of its own.
        size: in bytes, unpacked.
        modified: time of the last change of ``path``, nanoseconds.
    """

    stem: str
    location: str
    path: Path
    member: str | None
    size: int
    modified: int

    @cached_property
    def name(self) -> ClipName:
        """Its seven fields.

        Raises:
            UserError: it is misnamed.
        """
        return ClipName.parse(self.stem)

    def __str__(self) -> str:
        """Return where it lies."""
        return self.location

    def read(self, limit: int) -> bytes:
        """Return the content.

        Raises:
            UserError: it has more than ``limit`` bytes, or the zip is damaged there.
            OSError: the file cannot be read now.
        """
        if self.size > limit:
            raise UserError(f"{self}: {self.size} bytes, expected at most {limit}; remove it")
        if self.member is None:
            with self.path.open("rb") as file:
                content = file.read(self.size + 1)
        else:
            content = self._unpacked(self.member, limit)
        if len(content) != self.size:
            raise UserError(f"{self}: {len(content)} bytes, expected {self.size}; get it again")
        return content

    def _unpacked(self, member: str, limit: int) -> bytes:
        try:
            archive = _archive(self.path, self.modified)
            return bytes(read_member(archive, archive.getinfo(member), limit))
        except Exception as error:  # zipfile raises whatever a damaged zip leads it to
            number = error.errno if isinstance(error, OSError) else None
            if number not in (None, errno.EINVAL):  # EINVAL is of a wrong offset
                raise
            reason = type(error).__name__
            raise UserError(f"{self}: damaged in the zip ({reason}); get it again") from None


@dataclass(frozen=True)
class Listing:
    """The files of one kind.

    Attributes:
        files: one per clip, in order of the key.
        faults: what cannot be used and why, one line each.
    """

    files: dict[ClipKey, ClipFile]
    faults: tuple[str, ...]


def dataset_folder(root: Path) -> Path:
    """Return the folder of RAVDESS: ``root/ravdess``, or ``root`` itself if it holds the files.

    Raises:
        UserError: there is neither; the message says what was expected and how to get it.
    """
    folder = home(root)
    if not folder.is_dir():
        raise UserError(f"RAVDESS is missing: no {folder}; {how_to_get(folder)}")
    return folder


def home(root: Path) -> Path:
    """Return where the data set's folder is or will be: ``root`` if it holds the files."""
    if not (root / FOLDER).is_dir() and any(map(_is_published, visible(root))):
        return root
    return root / FOLDER


def how_to_get(folder: Path) -> str:
    """Return what is expected in the data set's folder and how to get it, in one line."""
    root = folder.parent if folder.name == FOLDER else folder
    return (
        f"expected {folder}/Audio_Speech_Actors_01-24[.zip] and Video_Speech_Actor_NN[.zip] "
        "with Actor_NN/MM-VV-EE-II-SS-RR-AA.{wav,mp4}; get them with `ntdh-bench data prepare "
        f"ravdess --root {root}`, or use `--data.source simulated`"
    )


def _is_published(path: Path) -> bool:
    return bool(
        _PUBLISHED.fullmatch(path.name)
        or path.name == FEATURES
        or (path.suffix.lower() in ENDINGS.values() and _LIKE_A_NAME.fullmatch(path.stem))
    )


def find_clips(folder: Path, kind: ClipKind, songs: bool = False) -> Listing:
    """List the files of one kind: in published folders and zips, in ``Actor_NN``, or flat.

    Faults are a misnamed file, a modality that does not go with the ending, speech among songs or
    the other way round, a clip that is there twice with different sizes, and a zip that cannot be
    read or names files outside of itself. Where a clip has a file with sound (modality 01) and one
    without (02), the former is taken; a file of its own is preferred to one in a zip.

    Args:
        folder: from ``dataset_folder``.
        kind: of the files.
        songs: the songs as well.
    """
    faults: list[str] = []
    files: dict[ClipKey, ClipFile] = {}
    containers = (path for path in visible(folder) if _PUBLISHED.fullmatch(path.name))
    for container in sorted(containers, key=lambda path: (path.is_file(), path.name)):
        match = _PUBLISHED.fullmatch(container.name)
        assert match is not None
        held = "tracking" if match["tracking"] else (match["kind"] or kind).lower()
        if held != kind:
            continue
        channel = {"speech": SPEECH, "song": SONG}.get((match["channel"] or "").lower())
        if container.is_dir():
            found = _walk(container, folder, kind, faults)
        elif match["zip"]:
            found = _members(container, folder, kind, faults)
        else:
            continue
        for file in found:
            _enter(file, kind, channel, files, faults)
    for file in _regular(visible(folder), folder, kind, faults):
        if _LIKE_A_NAME.fullmatch(file.stem):  # others beside the published folders are not ours
            _enter(file, kind, None, files, faults)
    wanted = (SPEECH, SONG) if songs else (SPEECH,)
    return Listing(
        {key: files[key] for key in sorted(files) if key[0] in wanted}, tuple(map(one_line, faults))
    )


def _walk(container: Path, folder: Path, kind: ClipKind, faults: list[str]) -> Iterator[ClipFile]:
    def unreadable(error: OSError) -> None:
        faults.append(f"{error.filename}: cannot be read ({error.strerror})")

    return _regular(below(container, unreadable=unreadable), folder, kind, faults)


def _regular(
    paths: Iterable[Path], folder: Path, kind: ClipKind, faults: list[str]
) -> Iterator[ClipFile]:
    for path in paths:
        if not _right_ending(path, kind):
            continue
        location = path.relative_to(folder).as_posix()
        try:
            status = path.stat()
        except OSError as error:  # a link to nowhere, as git-annex leaves them
            faults.append(f"{location}: cannot be read ({error.strerror}); get it again")
            continue
        if stat.S_ISREG(status.st_mode):
            yield ClipFile(path.stem, location, path, None, status.st_size, status.st_mtime_ns)


def _members(
    container: Path, folder: Path, kind: ClipKind, faults: list[str]
) -> Iterator[ClipFile]:
    location = container.relative_to(folder).as_posix()
    try:
        checked_size(container, _MAX_ZIP)
        modified = container.stat().st_mtime_ns
        members = _archive(container, modified).infolist()
    except UserError as error:
        faults.append(f"{location}{str(error).removeprefix(str(container))}")
        return
    for member in sorted(members, key=lambda member: member.filename):
        inside = PurePosixPath(member.filename)
        if member.is_dir() or not _right_ending(inside, kind):
            continue
        if inside.is_absolute() or ".." in inside.parts or re.search(r"[\\:]", member.filename):
            faults.append(f"{location}: {member.filename!r} is a path out of the zip; not read")
            continue
        yield ClipFile(
            inside.stem, f"{location}/{inside}", container, member.filename, member.file_size,
            modified,
        )  # fmt: skip


def _right_ending(path: Path | PurePosixPath, kind: ClipKind) -> bool:
    return path.suffix.lower() == ENDINGS[kind] and not is_shadow(path)


def _enter(
    file: ClipFile,
    kind: ClipKind,
    channel: int | None,
    files: dict[ClipKey, ClipFile],
    faults: list[str],
) -> None:
    """Add a file to ``files``, or what is wrong with it to ``faults``."""
    try:
        name = file.name
    except UserError as error:
        faults.append(f"{file}: {error}")
        return
    if name.modality not in MODALITIES[kind]:
        faults.append(
            f"{file}: modality {name.modality:02}, expected "
            f"{' or '.join(f'{modality:02}' for modality in MODALITIES[kind])} for {kind}"
        )
        return
    if channel is not None and name.channel != channel and kind != "tracking":
        faults.append(f"{file}: channel {name.channel:02}, expected {channel:02} in this folder")
        return
    earlier = files.get(name.key)
    if earlier is None or name.modality < earlier.name.modality:
        files[name.key] = file
    elif name.modality == earlier.name.modality and file.size != earlier.size:
        faults.append(
            f"{file}: {file.size} bytes, but {earlier} has {earlier.size}: the same clip twice; "
            "remove the wrong one"
        )


@lru_cache(maxsize=64)  # all published zips stay open: clips are read in an order that mixes actors
def _archive(path: Path, modified: int) -> zipfile.ZipFile:
    return open_zip(path, _MAX_MEMBERS)


def expected_names(songs: bool = False) -> tuple[ClipKey, ...]:
    """Return the keys of the published clips in order: 1,440 of speech, and 1,012 songs.

    Neutral has no strong intensity; songs have the first six emotions, and actor 18 none.
    """
    keys: list[ClipKey] = []
    for channel in (SPEECH, SONG) if songs else (SPEECH,):
        emotions = range(1, len(EMOTIONS) + 1) if channel == SPEECH else range(1, 7)
        for emotion, intensity, statement, repetition, actor in itertools.product(
            emotions, (1, 2), (1, 2), (1, 2), ACTORS
        ):
            strong_neutral = emotion == 1 and intensity == 2
            if not strong_neutral and not (channel == SONG and actor == SILENT_ACTOR):
                keys.append((channel, emotion, intensity, statement, repetition, actor))
    return tuple(keys)


def channels(
    listing: Listing, kind: ClipKind, expected: Iterable[ClipKey]
) -> list[tuple[set[ClipKey], dict[ClipKey, ClipFile]]]:
    """Return what should be there of speech and of songs, and what is.

    Speech and its videos should be there; songs and tracking need not be there at all.
    """
    found = []
    for channel in (SPEECH, SONG):
        there = {key: file for key, file in listing.files.items() if key[0] == channel}
        if there or (channel == SPEECH and kind != "tracking"):
            found.append(({key for key in expected if key[0] == channel}, there))
    return found
