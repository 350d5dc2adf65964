"""Prepared clips: decoded once into one memory-mapped array per kind."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.cache import digest
from ntdh_bench.errors import UserError, one_line
from ntdh_bench.files.schema import mismatch

from ..store import Arrays, Sample
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
_FACT = (str, {None, str})


def _is_clip(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(ClipName.parse(value))
    except UserError:
        return False


_BATCH = 16  # clips that torchaudio gets at once: 30 s each, the most there can be, take 250 MB


class Fact(NamedTuple):
    """What is known of a clip beside its row.

    Attributes:
        sha256: of its content; empty if that could not be read.
        fault: what is wrong with it, or None.
    """

    sha256: str
    fault: str | None


class Store(Arrays):
    """The prepared clips of one kind; ``digest`` is the same wherever they lie.

    Args:
        folder: where :func:`prepared` wrote them.

    Raises:
        FileError: a file of it is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._require(mismatch([[e.name, e.fact] for e in self.entries], [(_is_clip, _FACT)]))
        clips = [(ClipName.parse(entry.name), entry.rows is None) for entry in self.entries]
        #: in order of their keys
        self.clips = [clip for clip, broken in clips if not broken]
        #: that cannot be decoded
        self.broken = [clip for clip, broken in clips if broken]
        #: files that could not be listed or decoded and why, one line each
        self.faults = [str(entry.fact[1]) for entry in self.entries if entry.rows is None]

    @property
    def values(self) -> NDArray[Any]:
        """One row per clip, mapped."""
        return self["values"]


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
    store = Store.stored(
        cache_dir / "ravdess" / f"{kind}-{key}",
        [str(clip.name) for clip in clips],
        {"values": (plan.dtype, plan.shape)},
        lambda start: _rows(clips[start:], plan, jobs),
        f"reading RAVDESS ({kind})",
    )
    if not store.clips:
        raise UserError(f"no clip can be decoded: {store.faults[0]}")
    content = [(entry.name, entry.fact[0]) for entry in store.entries if entry.rows is not None]
    store.digest = digest({"recipe": asdict(plan), "clips": content})
    store.faults = [*listing.faults, *store.faults]
    return store


def _rows(
    clips: list[ClipFile], plan: Recipe, jobs: int | None
) -> Iterator[tuple[Sample | None, Fact]]:
    """Yield the clips' rows, None for those that are broken, and facts, in order."""
    waiting = decoded(clips, plan, jobs)
    while batch := list(islice(waiting, _BATCH if plan.batched else 1)):
        rows = iter(plan.finish([values for _, values in batch if values is not None]))
        for fact, values in batch:
            yield None if values is None else {"values": np.asarray(next(rows), plan.dtype)}, fact


def decoded(
    clips: Sequence[ClipFile], plan: Recipe, jobs: int | None
) -> Iterator[tuple[Fact, NDArray[Any] | None]]:
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
    waiting: deque[Future[tuple[Fact, NDArray[Any] | None]]] = deque()
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


def _decode(clip: ClipFile, plan: Recipe) -> tuple[Fact, NDArray[Any] | None]:
    try:
        content = clip.read(_MAX_BYTES[_SOURCE[plan.kind]])
    except UserError as error:
        return Fact("", one_line(str(error))), None
    except OSError as error:
        raise UserError(f"{clip}: cannot be read ({error.strerror}); mend it and go on") from None
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        return Fact(sha256, None), plan.decode(content)
    except UserError as error:
        return Fact(sha256, one_line(f"{clip}: {error}")), None
