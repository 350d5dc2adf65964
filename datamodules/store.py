"""The cache: samples prepared once in plain arrays, mapped into memory when they are read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ntdh_bench.cache import build_once, digest, remove, say_anew
from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import checked_size, read_bytes, reading
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json
from ntdh_bench.notices import notice
from ntdh_bench.progress import progress_bar

_META, _LOG = "meta.json", "done.jsonl"
_MAX_META = 1 << 24


def _is_type(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[|<>][biuf][1248]", value) is not None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 40


_ENTRY = (str, {None, _is_count}, str, lambda fact: True)
_SCHEMA = {
    "digest": str,
    "kinds": {str: (_is_type, [{None, _is_count}])},
    "entries": [_ENTRY],
}

#: The arrays of one sample by kind.
Sample = Mapping[str, NDArray[Any]]
#: Type and shape of one sample's array, by kind. A first length of None differs from sample to
#: sample, and is the same in all such kinds of a sample: their rows.
Kinds = Mapping[str, tuple[DTypeLike, Sequence[int | None]]]
#: Makes the samples from a position on, in order: the arrays, and a plain value that is kept with
#: them. None stands for one that cannot be had.
Make = Callable[[int], Iterable[tuple[Sample | None, Any]]]


class Entry(NamedTuple):
    """What is known of a sample: a line of the log of a build.

    Attributes:
        name: of the sample.
        rows: that it has in the kinds whose length differs; None if it has no arrays at all.
        sha256: of its arrays, one after the other; empty if it has none.
        fact: what came with them.
    """

    name: str
    rows: int | None
    sha256: str
    fact: Any


class _Kind(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    @property
    def ragged(self) -> bool:
        return self.shape[:1] == (None,)

    def of(self, rows: int) -> tuple[int, ...]:
        """Return the shape of a sample with so many rows."""
        return tuple(rows if length is None else length for length in self.shape)

    def size(self, rows: int) -> int:
        """Return the bytes of a sample with so many rows."""
        return math.prod(self.of(rows)) * self.dtype.itemsize


class Arrays:
    """N samples of several kinds, one file per kind; nothing is read before it is asked for.

    ``arrays[kind]`` is a read-only memory map ``(N, *shape)``, or of the rows of all samples, of
    which sample i has those from ``starts[i]`` to ``starts[i + 1]``.

    Args:
        folder: where :meth:`stored` wrote them.

    Raises:
        FileError: a file is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        meta = read_json(folder / _META, _MAX_META, self._anew)
        self._require(mismatch(meta, _SCHEMA))
        #: of the content of all arrays, 16 hex digits
        self.digest: str = meta["digest"]
        #: of the samples, and of those that could not be had
        self.entries = [Entry(*entry) for entry in meta["entries"]]
        kept = [(entry.name, entry.rows) for entry in self.entries if entry.rows is not None]
        #: of the samples, in order
        self.names: list[str] = [name for name, _ in kept]
        self.starts: list[int] = list(accumulate((rows for _, rows in kept), initial=0))
        #: of the maps
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, np.dtype[Any]] = {}
        for name, (dtype, shape) in meta["kinds"].items():
            kind = _Kind(np.dtype(dtype), tuple(shape))
            whole = kind.of(self.starts[-1]) if kind.ragged else (len(kept), *kind.of(0))
            self.shapes[name], self._types[name] = whole, kind.dtype
            expected = math.prod(whole) * kind.dtype.itemsize
            if checked_size(folder / name, 1 << 62, self._anew) != expected:
                raise FileError(f"{folder / name}: not the {expected} bytes it had; {self._anew}")

    @classmethod
    def stored(
        cls: type[Stored],
        path: Path,
        names: Sequence[str],
        kinds: Kinds,
        make: Make,
        title: str,
        header: str | None = None,
    ) -> Stored:
        """Return the samples in the folder ``path``, made and written there the first time.

        The folder appears when it is whole. Other processes wait for the first one. A build that
        was stopped goes on where it was; one that a broken file stops begins anew, since the file
        has to be replaced. What is damaged or was written by an earlier version is made anew.

        Args:
            path: its name has to change with every input and parameter: see :func:`files_key`.
            names: of the samples, in order.
            kinds: type and shape of the arrays of a sample.
            make: makes the samples.
            title: what a progress bar says.
            header: begins what the digest is of; default: names the kinds and how many samples.

        Raises:
            UserError: ``make`` raises it, or the cache cannot be written.
            ValueError: ``make`` gave an array of another type or shape.
        """
        plan = {
            kind: _Kind(np.dtype(dtype), tuple(shape)) for kind, (dtype, shape) in kinds.items()
        }
        layout = {kind: (dtype.str, shape) for kind, (dtype, shape) in plan.items()}
        build = partial(
            _build,
            path=path,
            names=names,
            plan=plan,
            make=make,
            title=title,
            header=json.dumps([len(names), layout]) if header is None else header,
        )
        build_once(path, build)
        try:
            return cls(path)
        except FileError:
            say_anew(path)
            return cls(build_once(path, build, anew=True))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, kind: str) -> NDArray[Any]:
        return self._maps[kind]

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes map the files themselves instead of being sent their content.
        return type(self), (self.folder,)

    @cached_property
    def _maps(self) -> dict[str, NDArray[Any]]:
        return {
            # An empty file cannot be mapped.
            kind: np.memmap(self.folder / kind, self._types[kind], "r", shape=shape)
            if math.prod(shape)
            else np.empty(shape, self._types[kind])
            for kind, shape in self.shapes.items()
        }

    @property
    def _anew(self) -> str:
        return f"delete {self.folder}, and it will be made anew"

    def _require(self, wrong: str | None) -> None:
        """Raise a FileError if there is anything wrong."""
        if wrong is not None:
            raise FileError(f"{self.folder / _META}: {wrong} is not what was written; {self._anew}")


Stored = TypeVar("Stored", bound=Arrays)


def files_key(folder: Path, files: Iterable[Path], **parameters: Any) -> str:
    """Identify ``files`` by name below ``folder``, size and time: 16 hex digits.

    Reading all of them at every start is too slow. What identifies the *data* is the digest of
    their content (:attr:`Arrays.digest`), taken while they are prepared.

    Args:
        folder: above them.
        files: which exist.
        parameters: plain values that change what is made of the files.

    Raises:
        FileError: a file cannot be read.
    """
    found = []
    for path in files:
        with reading(path, "a file"):
            stat = path.stat()
        found.append((path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns))
    return digest({"files": found, **parameters})


def _build(
    target: Path,
    *,
    path: Path,
    names: Sequence[str],
    plan: Mapping[str, _Kind],
    make: Make,
    title: str,
    header: str,
) -> None:
    """Make sample after sample in a folder that outlives a kill, then rename it to ``target``."""
    partly = path.with_name(f".{path.name}.partial")
    try:
        with ExitStack() as stack:
            writer = _Writer(partly, names, plan, header, stack)
            left = names[len(writer.done) :]
            update = stack.enter_context(progress_bar(title, len(names), done=len(writer.done)))
            for name, (sample, fact) in zip(left, make(len(writer.done)), strict=True):
                writer.add(name, sample, fact)
                update(advance=1)
            writer.finish()
    except FileError:
        remove(partly)
        raise
    partly.replace(target)


class _Writer:
    """Appends samples to the files of a folder, from where an earlier build of it ended.

    A sample is written before its line in the log: what has a line is whole, and what comes after
    is dropped.

    Args:
        folder: of the build; what is no build of these kinds is removed, and said.
        names: of all samples, in order.
        plan: kinds of their arrays.
        header: begins what the digest is of.
        stack: closes the files.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        plan: Mapping[str, _Kind],
        header: str,
        stack: ExitStack,
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.done: list[Entry] = []
        self.content = hashlib.sha256(header.encode())
        if folder.is_symlink() or (folder.exists() and not self._is_sound()):
            say_anew(folder)
            remove(folder)
        folder.mkdir(exist_ok=True)
        self._files = {kind: stack.enter_context((folder / kind).open("a+b")) for kind in plan}
        self._resume(names)
        self._log = stack.enter_context((folder / _LOG).open("w", encoding="utf-8"))
        self._log.writelines(json.dumps(entry) + "\n" for entry in self.done)

    def _is_sound(self) -> bool:
        """Return whether the folder has nothing but the files of a build."""
        most = {**dict.fromkeys(self.plan, 1 << 62), _LOG: _MAX_META, _META: _MAX_META}
        return self.folder.is_dir() and all(
            path.is_file()
            and not path.is_symlink()
            and path.stat().st_size <= most.get(path.name, -1)
            for path in self.folder.iterdir()
        )

    def _resume(self, names: Sequence[str]) -> None:
        """Take over what the log has, up to the first line or sample that is not as it was."""
        log = self.folder / _LOG
        # A kill may have cut the last line.
        lines = read_bytes(log, _MAX_META).split(b"\n")[:-1] if log.exists() else []
        for file in self._files.values():
            file.seek(0)
        for line, name in zip(lines, names, strict=False):
            entry = _parsed(line)
            if entry is None or entry.name != name:
                break
            data = [] if entry.rows is None else self._read(entry.rows)
            if _sha256(data) != entry.sha256:
                break
            self._take(entry, data)
        rows = [entry.rows for entry in self.done if entry.rows is not None]
        for kind, file in self._files.items():
            file.truncate(sum(self.plan[kind].size(count) for count in rows))
        if len(self.done) < len(lines):
            notice(f"{self.folder} is damaged from {len(self.done)} on: made anew from there")

    def _read(self, rows: int) -> list[bytes]:
        """Return the next sample of so many rows, or what is left of it."""
        sizes = [kind.size(rows) for kind in self.plan.values()]
        files = self._files.values()
        most = max(os.fstat(file.fileno()).st_size for file in files)
        return [file.read(min(size, most)) for file, size in zip(files, sizes, strict=True)]

    def _take(self, entry: Entry, data: Iterable[bytes]) -> None:
        self.done.append(entry)
        for part in data:
            self.content.update(part)

    def add(self, name: str, sample: Sample | None, fact: Any) -> None:
        """Write the next sample, and its line in the log."""
        rows, data = (None, []) if sample is None else self._bytes(sample)
        for file, part in zip(self._files.values(), data, strict=False):
            file.write(part)
            file.flush()
        entry = Entry(name, rows, _sha256(data), fact)
        self._log.write(json.dumps(entry) + "\n")
        self._log.flush()
        self._take(entry, data)

    def _bytes(self, sample: Sample) -> tuple[int, list[bytes]]:
        """Return the rows of a sample, and its arrays as they are written."""
        rows = next((len(sample[name]) for name, kind in self.plan.items() if kind.ragged), 0)
        for name, kind in self.plan.items():
            array, shape = sample[name], kind.of(rows)
            if array.dtype != kind.dtype or array.shape != shape:
                raise ValueError(
                    f"{name} of sample {len(self.done)} is {array.dtype} {array.shape}, "
                    f"declared as {kind.dtype} {shape}"
                )
        return rows, [sample[name].tobytes() for name in self.plan]

    def finish(self) -> None:
        """Write what :class:`Arrays` reads first; the log is not needed any more."""
        meta = {
            "digest": self.content.hexdigest()[:16],
            "kinds": {name: (kind.dtype.str, kind.shape) for name, kind in self.plan.items()},
            "entries": self.done,
        }
        (self.folder / _META).write_text(json.dumps(meta), encoding="utf-8")
        (self.folder / _LOG).unlink()


def _parsed(line: bytes) -> Entry | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return Entry(*values) if mismatch(values, _ENTRY) is None else None


def _sha256(data: Iterable[bytes]) -> str:
    content = hashlib.sha256()
    for part in data:
        content.update(part)
    return content.hexdigest()
