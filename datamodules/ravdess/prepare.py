"""Getting the published files of RAVDESS, preparing what is there, and checking it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ntdh_bench.cache import default_cache_dir
from ntdh_bench.datasets import FileCheck, State, is_simulated, refuse_simulated
from ntdh_bench.downloads import download, md5_fault, writable
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json
from ntdh_bench.notices import notice
from ntdh_bench.progress import progress_bar

from .layout import (
    ENDINGS,
    FOLDER,
    MODALITIES,
    SILENT_ACTOR,
    ClipFile,
    ClipKind,
    Listing,
    channels,
    dataset_folder,
    expected_names,
    find_clips,
    home,
    how_to_get,
)
from .names import ACTORS, SONG, SPEECH, ClipKey, ClipName
from .settings import Preparation
from .store import Store, StoreKind, decoded, prepared, recipe

#: Zenodo's records: speech and song (Livingstone and Russo 2018), and their facial landmarks.
CLIPS_RECORD, TRACKING_RECORD = "1188976", "3255102"
_API = "https://zenodo.org/api/records/"
_MB = 1_000_000
_MAX_ZIP = 3000 * _MB
_MAX_RECORD = 4 * _MB


def _is_md5(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch("md5:[0-9a-f]{32}", value))


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("https://zenodo.org/")


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


_REMOTE = {"key": str, "size": _is_size, "checksum": _is_md5, "links": {"self": _is_address}}
_RECORD = {"files": [_REMOTE]}
_NAMED = 3  # missing clips that a note names if there are more
_PAIRS: tuple[tuple[StoreKind, StoreKind], ...] = (("audio", "video"), ("speech", "tracking"))


def file_urls() -> list[str]:
    """Return the addresses of the records that say where the files are."""
    return [_API + record for record in (CLIPS_RECORD, TRACKING_RECORD)]


def prepare(
    root: Path,
    from_folder: Path | None = None,
    *,
    jobs: int | None = None,
    tolerance: int = 0,
    **settings: Any,
) -> Iterator[str]:
    """Download the published files that are missing, and decode what is there into the cache.

    The zips are checked against the MD5 of Zenodo's record and stay zipped in ``root/ravdess``.
    Stores are made of audio, video and tracking, whichever there are; those there stay.

    Args:
        root: data root.
        from_folder: read the files where they are, here, instead of downloading them.
        jobs: threads; default: one per core.
        tolerance: files that may be damaged or misnamed.
        settings: of :class:`.settings.Preparation`.

    Yields:
        What was done, a line at a time; at the end every file that is damaged or misnamed.

    Raises:
        UserError: a file cannot be got, there are no clips, more files than ``tolerance`` are
            damaged or misnamed, a setting is out of range, or ``root`` holds simulated files.
    """
    preparation = Preparation(**settings)
    preparation.check("--", jobs)
    folder = _folder(root, from_folder, preparation.songs)
    listings = {kind: find_clips(folder, kind, preparation.songs) for kind in ENDINGS}
    stores: dict[StoreKind, Store] = {}
    for kind in _kinds(listings):
        start = time.perf_counter()
        store = stores[kind] = prepared(folder, kind, default_cache_dir(), preparation, jobs)
        seconds = time.perf_counter() - start
        size = store.values.nbytes / _MB
        yield f"{kind}: {len(store):,} clips, {size:,.1f} MB, {seconds:.1f} s ({store.folder})"
    faults = _faults(listings, stores)
    if not stores:
        unusable = f" that can be used ({faults[0]})" if faults else ""
        raise UserError(f"{folder}: no clips to prepare{unusable}; {how_to_get(folder)}")
    yield from _paired(stores)
    yield from faults
    _check_tolerance(folder, len(faults), tolerance)
    if is_simulated(folder, folder):
        yield "SIMULATED files: they say nothing about the published data set"
    yield f"use it with --data.root {from_folder or root}{preparation.flags()}"


def _folder(root: Path, from_folder: Path | None, songs: bool) -> Path:
    """Return the data set's folder, its published files downloaded if none was named."""
    if from_folder is not None:
        return dataset_folder(from_folder)
    folder = home(root)
    refuse_simulated(root, folder)
    with writable(root):
        _download(folder, songs)
    return folder


def _faults(listings: Mapping[ClipKind, Listing], stores: Mapping[StoreKind, Store]) -> list[str]:
    """Return what is damaged or misnamed, each file once."""
    # What cannot even be listed, such as a web page in place of a zip, is in no store.
    listed = chain.from_iterable(listing.faults for listing in listings.values())
    undecoded = chain.from_iterable(store.faults for store in stores.values())
    return list(dict.fromkeys(chain(listed, undecoded)))


def _check_tolerance(folder: Path, faults: int, tolerance: int) -> None:
    if faults > tolerance:
        raise UserError(
            f"{folder}: {faults} files are damaged or misnamed, more than --tolerance {tolerance}, "
            "and listed above; the others are prepared: mend or remove these, or set --tolerance, "
            "and data.tolerance of runs, to skip them"
        )


def _paired(stores: Mapping[StoreKind, Store]) -> Iterator[str]:
    """Say how many clips have both modalities."""
    for first, second in _PAIRS:
        if first in stores and second in stores:
            keys = [{clip.key for clip in stores[kind].clips} for kind in (first, second)]
            yield f"{len(keys[0] & keys[1]):,} clips have both {first} and {second}"


def _kinds(listings: Mapping[ClipKind, Listing]) -> list[StoreKind]:
    """Return the stores to make; functionals of speech are the partner of tracking."""
    sources: dict[StoreKind, tuple[ClipKind, ...]] = {
        "audio": ("audio",), "video": ("video",), "tracking": ("tracking",),
        "speech": ("audio", "tracking"),
    }  # fmt: skip
    there = {kind for kind, listing in listings.items() if listing.files}
    return [kind for kind, needed in sources.items() if there.issuperset(needed)]


def published_zips(songs: bool = False) -> dict[str, list[str]]:
    """Return the names of the published zips by record."""
    clips = ["Audio_Speech_Actors_01-24.zip"]
    clips += [f"Video_Speech_Actor_{actor:02}.zip" for actor in ACTORS]
    if songs:
        singers = [actor for actor in ACTORS if actor != SILENT_ACTOR]
        clips.append("Audio_Song_Actors_01-24.zip")
        clips += [f"Video_Song_Actor_{actor:02}.zip" for actor in singers]
    return {CLIPS_RECORD: clips, TRACKING_RECORD: ["FacialTracking_Actors_01-24.zip"]}


def _download(folder: Path, songs: bool) -> None:
    """Download the zips that are neither there nor extracted."""
    for record, names in published_zips(songs).items():
        missing = [name for name in names if not (folder / name).with_suffix("").is_dir()]
        files = _record(folder, record) if missing else {}
        for name in missing:
            if name not in files:
                raise UserError(f"Zenodo's record {record} has no {name}; get it by hand")
            _get(folder / name, files[name])


def _record(folder: Path, record: str) -> dict[str, Any]:
    """Return the files of a record by name."""

    def check(path: Path) -> str | None:
        try:
            _parse_record(path)
        except UserError as error:
            return str(error)
        return None

    # A record never changes: with its list at hand, a later call needs no network.
    path = folder / f".zenodo-{record}.json"
    if path.exists() and check(path) is not None:
        notice(f"{path} is damaged: downloaded anew")
        path.unlink()
    return _parse_record(download([_API + record], path, max_bytes=_MAX_RECORD, check=check))


def _parse_record(path: Path) -> dict[str, Any]:
    record = read_json(path, _MAX_RECORD)
    if (wrong := mismatch(record, _RECORD)) is not None:
        raise FileError(f"{path}: not the record's list of files ({wrong}); get it again")
    return {entry["key"]: entry for entry in record["files"]}


def _get(path: Path, remote: Mapping[str, Any]) -> None:
    """Download a file of the record, as :data:`_REMOTE` has it."""
    size, md5 = remote["size"], remote["checksum"].removeprefix("md5:")
    if path.exists():
        if (found := path.stat().st_size) != size:
            raise UserError(f"{path}: {found} bytes, expected {size}; delete it and try again")
        return
    if size > _MAX_ZIP:
        raise UserError(f"{path.name}: {size} bytes announced, expected at most {_MAX_ZIP}")
    check = partial(md5_fault, expected=md5)
    download([remote["links"]["self"]], path, max_bytes=size, check=check)


def verify(root: Path) -> list[FileCheck]:
    """Compare what is there with the published set, actor by actor, decoding every clip.

    Speech and its videos are expected; songs and tracking are checked where there are any. Of
    simulated files, those of one kind are compared with those of the other.
    """
    try:
        folder = dataset_folder(root)
    except UserError as error:
        return [FileCheck(root / FOLDER, "missing", str(error))]
    listings = {kind: find_clips(folder, kind, songs=True) for kind in ENDINGS}
    expected = set(expected_names(songs=True))
    if is_simulated(folder, root):
        expected = {key for listing in listings.values() for key in listing.files}
    checks: list[FileCheck] = []
    for kind, listing in listings.items():
        checks += [FileCheck(folder, "corrupt", fault) for fault in listing.faults]
        damaged = _damaged(listing, kind)
        for keys, there in channels(listing, kind, expected):
            checks += _check_channel(folder, kind, keys, there, damaged)
    return checks + _check_pairs(folder, listings["audio"], listings["video"])


def _damaged(listing: Listing, kind: ClipKind) -> dict[ClipKey, str]:
    """Return what is wrong with the clips that cannot be decoded."""
    files = list(listing.files.values())
    found = {}
    with progress_bar(f"ravdess: {kind}", len(files)) as update:
        entries = decoded(files, recipe(kind), None)
        for key, (fact, _) in zip(listing.files, entries, strict=True):
            if fact.fault is not None:
                found[key] = fact.fault
            update(advance=1)
    return found


def _check_channel(
    folder: Path,
    kind: ClipKind,
    expected: set[ClipKey],
    there: dict[ClipKey, ClipFile],
    damaged: dict[ClipKey, str],
) -> list[FileCheck]:
    """Check speech or songs: one line per actor, or one for all if there is nothing."""
    if not there:
        folders = {_published_folder(kind, key).parts[0] for key in expected}
        name = min(folders) if len(folders) == 1 else f"{min(folders)[:-2]}NN"
        note = f"none of {len(expected):,} clips; get them with `data prepare ravdess`"
        return [FileCheck(folder / f"{name}[.zip]", "missing", note)]
    checks = []
    for actor in sorted({key[-1] for key in expected}):
        keys = sorted(key for key in expected if key[-1] == actor)
        found = sorted(key for key in there if key[-1] == actor)
        path = folder / _published_folder(kind, keys[0])
        broken = [damaged[key] for key in found if key in damaged]
        missing = [key for key in keys if key not in there]
        notes = [f"{len(found)} of {len(keys)} clips"]
        if found and not broken:
            notes[0] += ", all decoded"
        if missing and found:
            notes.append(f"missing {_listed(missing, kind)}")
        notes += broken
        state: State = "ok" if not missing else "incomplete" if found else "missing"
        checks.append(FileCheck(path, "corrupt" if broken else state, "; ".join(notes)))
    return checks


def _published_folder(kind: ClipKind, key: ClipKey) -> Path:
    channel, actor = {SPEECH: "Speech", SONG: "Song"}[key[0]], f"{key[-1]:02}"
    if kind == "video":
        return Path(f"Video_{channel}_Actor_{actor}")
    name = f"Audio_{channel}" if kind == "audio" else "FacialTracking"
    return Path(f"{name}_Actors_01-24", f"Actor_{actor}")


def _listed(keys: Sequence[ClipKey], kind: ClipKind) -> str:
    """Name the files of the clips; of many, the first three."""
    names = [f"{ClipName(MODALITIES[kind][0], *key)}{ENDINGS[kind]}" for key in keys]
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"


def _check_pairs(folder: Path, audio: Listing, video: Listing) -> list[FileCheck]:
    """Say which clips have a wav or an mp4 only, where there are both kinds."""
    if not audio.files or not video.files:
        return []
    sides: tuple[tuple[ClipKind, ClipKind, Listing, Listing], ...] = (
        ("audio", "video", audio, video), ("video", "audio", video, audio),
    )  # fmt: skip
    notes = [
        f"{len(alone):,} clips without {missing}: {_listed(alone, kind)}"
        for kind, missing, one, other in sides
        if (alone := sorted(one.files.keys() - other.files.keys()))
    ]
    if notes:
        return [FileCheck(folder, "incomplete", "; ".join(notes))]
    both = f"{len(audio.files):,} clips have both audio and video"
    return [FileCheck(folder, "ok", both)]
