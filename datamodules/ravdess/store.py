"""Prepared clips: decoded once into one memory-mapped array per kind."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.cache import build_once, digest
from ntdh_bench.errors import FileError, UserError, one_line
from ntdh_bench.files.arrays import Spec, map_npy
from ntdh_bench.files.reading import read_bytes
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json
from ntdh_bench.notices import notice
from ntdh_bench.progress import progress_bar

from . import media
from .layout import ClipFile, ClipKind, find_clips, how_to_get
from .names import ClipName
from .settings import DEFAULTS, Backend, Preparation

StoreKind = Literal["audio", "video", "tracking", "speech"]

_SOURCE: dict[StoreKind, ClipKind] = {
    "audio": "audio", "video": "video", "tracking": "tracking", "speech": "audio",
}  # fmt: skip
# Published wavs have 1 MB at most, videos 8 MB, tables 1 MB.
_MAX_BYTES: dict[ClipKind, int] = {"audio": 1 << 25, "video": 1 << 26, "tracking": 1 << 22}


def _is_name(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(ClipName.parse(value))
    except UserError:
        return False


_INDEX_SCHEMA = {"names": [_is_name], "broken": [_is_name], "faults": [str], "digest": str}

_BATCH = 16  # clips that torchaudio gets at once: 30 s each, the most there can be, take 250 MB
_VALUES, _INDEX, _LOG = "values.npy", "index.json", "done.jsonl"
_MAX_INDEX = 1 << 24
_REBUILT = "delete its folder, and it will be made anew"


@dataclass(frozen=True)
class Store:
    """The prepared clips of one kind.

    Attributes:
        names: of the clips, in order of their keys.
        values: one row per name, mapped copy-on-write: the file never changes.
        digest: of the clips' content and of how it was prepared; the same wherever they lie.
        faults: files that could not be listed or decoded and why, one line each.
        broken: those of them whose name is right.
        path: the folder with the files.
    """

    names: tuple[ClipName, ...]
    values: NDArray[Any]
    digest: str
    faults: tuple[str, ...]
    broken: tuple[ClipName, ...]
    path: Path


@dataclass(frozen=True)
class Recipe:
    """How a clip becomes a row: what a store depends on beside the clips.

    Attributes:
        kind: of the store.
        backend: of "audio".
        shape: of a row.
    """

    kind: StoreKind
    backend: Backend
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows."""
        return np.dtype(np.uint8 if self.kind == "video" else np.float32)

    @property
    def row_bytes(self) -> int:
        """Of a row."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def batched(self) -> bool:
        """Whether ``decode`` leaves the MFCCs to ``finish``."""
        return self.backend == "torchaudio"

    def decode(self, content: bytes) -> NDArray[Any]:
        """Return the row of a file's content; samples if ``batched``.

        Raises:
            UserError: the content is broken.
        """
        if self.kind == "video":
            return media.frames(content, self.shape[0], *self.shape[2:])
        if self.kind == "tracking":
            return media.action_units(content)
        if self.kind == "speech":
            return media.functionals(content)
        return media.samples(content) if self.batched else media.mfcc(content)

    def finish(self, decoded: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Return the rows of what ``decode`` gave."""
        return media.mfcc_batch(decoded) if self.batched and decoded else decoded


def recipe(kind: StoreKind, settings: Preparation = DEFAULTS) -> Recipe:
    """Return how a kind is prepared; what the kind does not depend on is left out."""
    shapes: dict[StoreKind, tuple[int, ...]] = {
        "audio": (media.COEFFICIENTS, media.LENGTH),
        "video": (settings.frames, 3, settings.image_height, settings.image_width),
        "tracking": (len(media.ACTION_UNITS),),
        "speech": (media.FUNCTIONALS,),
    }
    backend = settings.backend if kind == "audio" else DEFAULTS.backend
    return Recipe(kind, backend, shapes[kind])


def prepared(
    folder: Path,
    kind: StoreKind,
    cache_dir: Path,
    settings: Preparation = DEFAULTS,
    jobs: int | None = None,
) -> Store:
    """Return the prepared clips of a kind, decoded into the cache the first time.

    A build that was killed goes on where it stopped; other processes wait for it. One thread per
    core decodes: the decoders run outside of Python's lock, and threads share what they load.

    Args:
        folder: from ``dataset_folder``.
        kind: "audio" float32 (N, 40, 256): MFCCs, zeros after the end; "video" uint8
            (N, frames, 3, height, width): RGB; "tracking" float32 (N, 35): action units averaged;
            "speech" float32 (N, 160): functionals of the MFCCs.
        cache_dir: the store goes below ``ravdess`` in it.
        settings: within their limits.
        jobs: threads; default: one per core.

    Raises:
        UserError: there are no clips, none can be decoded, a file cannot be read, or the cache
            cannot be written.
    """
    plan = recipe(kind, settings)
    listing = find_clips(folder, _SOURCE[kind], settings.songs)
    clips = list(listing.files.values())
    if not clips:
        unusable = f" ({listing.faults[0]})" if listing.faults else ""
        raise UserError(f"{folder}: no {_SOURCE[kind]} clips{unusable}; {how_to_get(folder)}")
    inputs = [[clip.location, clip.size, clip.modified] for clip in clips]
    key = digest({"recipe": asdict(plan), "clips": inputs, "version": 2})
    path = cache_dir / "ravdess" / f"{kind}-{key}"
    build_once(path, lambda target: _build(target, path, clips, plan, jobs))
    store = _open(path, plan)
    return replace(store, faults=(*listing.faults, *store.faults))


def _open(path: Path, plan: Recipe) -> Store:
    index = read_json(path / _INDEX, _MAX_INDEX, _REBUILT)
    if (wrong := mismatch(index, _INDEX_SCHEMA)) is not None:
        raise FileError(f"{path / _INDEX}: {wrong} is not as it was written; {_REBUILT}")
    names, broken = (tuple(map(ClipName.parse, index[key])) for key in ("names", "broken"))
    spec = Spec(plan.dtype.kind, (len(names), *plan.shape), plan.dtype.itemsize)
    values = map_npy(path / _VALUES, spec, _REBUILT)
    return Store(names, values, index["digest"], tuple(index["faults"]), broken, path)


class Done(NamedTuple):
    """A clip that was dealt with: a line of the log.

    Attributes:
        name: of the clip.
        sha256: of its content; empty if that could not be read.
        fault: what is wrong with it, or None.
        row: SHA-256 of its row, empty if it has none.
    """

    name: str
    sha256: str
    fault: str | None
    row: str = ""


def _build(target: Path, path: Path, clips: list[ClipFile], plan: Recipe, jobs: int | None) -> None:
    """Decode clip after clip into a folder that outlives a kill, then rename it to ``target``.

    Args:
        target: the new folder.
        path: the store that it becomes.
        clips: its files.
        plan: what to make of them.
        jobs: threads.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.mkdir(exist_ok=True)
    done = _decode_all(partial, clips, plan, jobs)
    good = [entry for entry in done if entry.fault is None]
    faults = [entry.fault for entry in done if entry.fault is not None]
    if not good:
        raise UserError(f"no clip can be decoded: {faults[0]}")
    index = {
        "names": [entry.name for entry in good],
        "digest": digest({"recipe": asdict(plan), "clips": [entry[:2] for entry in good]}),
        "faults": faults,
        "broken": [entry.name for entry in done if entry.fault is not None],
    }
    with (partial / _INDEX).open("w") as file:
        json.dump(index, file)
        file.flush()
        os.fsync(file.fileno())
    (partial / _LOG).unlink()
    partial.replace(target)


def _decode_all(partial: Path, clips: list[ClipFile], plan: Recipe, jobs: int | None) -> list[Done]:
    """Append rows to the array and lines to the log, in order, from where they end.

    A row is written before its line: what has a line is whole, and what comes after is dropped.
    """
    values = partial / _VALUES
    values.touch()
    with values.open("r+b") as rows:
        start = _write_header(rows, plan, len(clips))
        done = _resumed(partial / _LOG, rows, clips, plan)
        good = sum(entry.fault is None for entry in done)
        rows.truncate(rows.seek(start + good * plan.row_bytes))
        todo = _rows(clips[len(done) :], plan, jobs)
        with (partial / _LOG).open("w") as log:
            log.writelines(json.dumps(entry) + "\n" for entry in done)
            with progress_bar(f"ravdess: {plan.kind}", len(clips), done=len(done)) as update:
                for entry, row in todo:
                    if row is not None:
                        content = np.ascontiguousarray(row, plan.dtype).tobytes()
                        rows.write(content)
                        rows.flush()
                        entry = entry._replace(row=hashlib.sha256(content).hexdigest())
                        good += 1
                    log.write(json.dumps(entry) + "\n")
                    log.flush()
                    done.append(entry)
                    update(advance=1)
        rows.seek(0)
        _write_header(rows, plan, good)
        rows.flush()
        os.fsync(rows.fileno())
    return done


def _resumed(path: Path, rows: BinaryIO, clips: list[ClipFile], plan: Recipe) -> list[Done]:
    """Return what an earlier build logged, up to the first line or row that is not as it was.

    Args:
        path: of the log.
        rows: the file of the array, at its first row.
        clips: which were to be decoded, in order.
        plan: what was to be made of them.
    """
    if not path.exists():
        return []
    lines = read_bytes(path, _MAX_INDEX, _REBUILT).split(b"\n")[:-1]  # a kill may have cut the last
    done: list[Done] = []
    for line, clip in zip(lines, clips, strict=False):
        entry = _parsed(line)
        if entry is None or entry.name != str(clip.name):
            break
        if entry.fault is None:
            row = rows.read(plan.row_bytes)
            if hashlib.sha256(row).hexdigest() != entry.row:
                break
        done.append(entry)
    if len(done) < len(lines):
        notice(f"{path.parent} is damaged from clip {len(done)} on: decoded anew from there")
    return done


def _parsed(line: bytes) -> Done | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return Done(*values) if mismatch(values, (str, str, {str, None}, str)) is None else None


def _write_header(file: BinaryIO, plan: Recipe, count: int) -> int:
    """Write the header of a .npy, which has the same length for every count; return that."""
    header = {
        "descr": np.lib.format.dtype_to_descr(plan.dtype),
        "fortran_order": False,
        "shape": (count, *plan.shape),
    }
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _rows(
    clips: list[ClipFile], plan: Recipe, jobs: int | None
) -> Iterator[tuple[Done, NDArray[Any] | None]]:
    """Yield the clips' entries and rows in order; rows of broken clips are None."""
    waiting = decoded(clips, plan, jobs)
    while batch := list(islice(waiting, _BATCH if plan.batched else 1)):
        rows = iter(plan.finish([values for _, values in batch if values is not None]))
        for entry, values in batch:
            yield entry, None if values is None else next(rows)


def decoded(
    clips: Sequence[ClipFile], plan: Recipe, jobs: int | None
) -> Iterator[tuple[Done, NDArray[Any] | None]]:
    """Decode in threads, few clips ahead of the one that is yielded.

    Args:
        clips: what to decode, in this order.
        plan: how.
        jobs: threads; None for one per core.

    Yields:
        What there is to say of a clip, and what was decoded: None if there is a fault.

    Raises:
        UserError: a file cannot be read now: no fault of its content, so it ends here.
    """
    jobs = jobs or os.cpu_count() or 1
    if jobs == 1:
        yield from (_decode(clip, plan) for clip in clips)
        return
    waiting: deque[Future[tuple[Done, NDArray[Any] | None]]] = deque()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="ravdess")
    try:
        for clip in clips:
            waiting.append(pool.submit(_decode, clip, plan))
            if len(waiting) > 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(clip: ClipFile, plan: Recipe) -> tuple[Done, NDArray[Any] | None]:
    name = str(clip.name)
    try:
        content = clip.read(_MAX_BYTES[_SOURCE[plan.kind]])
    except UserError as error:
        return Done(name, "", one_line(str(error))), None
    except OSError as error:
        raise UserError(f"{clip}: cannot be read ({error.strerror}); mend it and go on") from None
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        return Done(name, sha256, None), plan.decode(content)
    except UserError as error:
        return Done(name, sha256, one_line(f"{clip}: {error}")), None
