"""The cache: samples decoded once into plain arrays, mapped into memory when they are read."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ntdh_bench.cache import build_once, digest
from ntdh_bench.errors import FileError
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json
from ntdh_bench.progress import progress_bar

_META = "meta.json"


def _is_type(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[|<>][biu][1248]", value) is not None


def _is_side(value: Any) -> bool:
    return type(value) is int and value >= 0


_SCHEMA = {
    "digest": str,
    "names": [str],
    "kinds": {str: (_is_type, [_is_side])},
}

#: The arrays of one sample by kind.
Sample = Mapping[str, NDArray[Any]]
#: Type and shape of one sample's array, by kind.
Kinds = Mapping[str, tuple[DTypeLike, Sequence[int]]]


class Arrays:
    """N samples of several kinds, one file per kind; nothing is read before it is asked for.

    ``arrays[kind]`` is a read-only memory map ``(N, *shape)``.

    Args:
        folder: where :func:`stored` wrote them.

    Raises:
        UserError: a file has another size than was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        meta = _read_meta(folder)
        #: of the content of all arrays, 16 hex digits
        self.digest: str = meta["digest"]
        #: of the samples, in order
        self.names: list[str] = meta["names"]
        self._kinds = {
            kind: (np.dtype(name), (len(self.names), *shape))
            for kind, (name, shape) in meta["kinds"].items()
        }
        for kind, (dtype, shape) in self._kinds.items():
            expected = math.prod(shape) * dtype.itemsize
            path = folder / kind
            if not path.is_file() or path.stat().st_size != expected:
                raise FileError(f"{path}: not the {expected} bytes it had; {_anew(folder)}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, kind: str) -> NDArray[Any]:
        return self._maps[kind]

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes map the files themselves instead of being sent their content.
        return Arrays, (self.folder,)

    @cached_property
    def _maps(self) -> dict[str, NDArray[Any]]:
        return {
            # An empty file cannot be mapped.
            kind: np.memmap(self.folder / kind, dtype, "r", shape=shape)
            if math.prod(shape)
            else np.empty(shape, dtype)
            for kind, (dtype, shape) in self._kinds.items()
        }


def stored(
    path: Path,
    names: Sequence[str],
    kinds: Kinds,
    make: Callable[[int], Sample],
    title: str,
) -> Arrays:
    """Return the samples in the folder ``path``, made and written there the first time.

    The folder appears when it is whole. Other processes wait for the first one.

    Args:
        path: its name has to change with every input and parameter: see :func:`files_key`.
        names: of the samples.
        kinds: type and shape of the arrays of a sample.
        make: position of a sample -> its arrays, one of every kind.
        title: what a progress bar says.

    Raises:
        UserError: ``make`` raises it, or the cache cannot be written or is damaged.
        ValueError: ``make`` returned an array of another type or shape.
    """
    types = {kind: (np.dtype(dtype), tuple(shape)) for kind, (dtype, shape) in kinds.items()}

    def build(folder: Path) -> None:
        folder.mkdir()
        content = _write(folder, types, len(names), make, title)
        meta = {
            "digest": content,
            "names": list(names),
            "kinds": {kind: (dtype.str, shape) for kind, (dtype, shape) in types.items()},
        }
        (folder / _META).write_text(json.dumps(meta))

    return Arrays(build_once(path, build))


def files_key(folder: Path, files: Iterable[Path], **parameters: Any) -> str:
    """Identify ``files`` by name below ``folder``, size and time: 16 hex digits.

    Reading all of them at every start is too slow. What identifies the *data* is the digest of
    their content (:attr:`Arrays.digest`), taken while they are prepared.

    Args:
        folder: above them.
        files: which exist.
        parameters: plain values that change what is made of the files.
    """
    stats = [(path, path.stat()) for path in files]
    found = [
        (path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns)
        for path, stat in stats
    ]
    return digest({"files": found, **parameters})


def _write(
    folder: Path,
    types: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    count: int,
    make: Callable[[int], Sample],
    title: str,
) -> str:
    """Write one file per kind, sample after sample; return the digest of the content."""
    layout = {kind: (dtype.str, shape) for kind, (dtype, shape) in types.items()}
    content = hashlib.sha256(json.dumps([count, layout]).encode())
    handles = {kind: (folder / kind).open("wb") for kind in types}
    try:
        with progress_bar(title, count) as update:
            for position in range(count):
                sample = make(position)
                for kind, (dtype, shape) in types.items():
                    array = sample[kind]
                    if array.dtype != dtype or array.shape != shape:
                        raise ValueError(
                            f"{kind} of sample {position} is {array.dtype} {array.shape}, "
                            f"declared as {dtype} {shape}"
                        )
                    data = array.tobytes()
                    content.update(data)
                    handles[kind].write(data)
                update(advance=1)
    finally:
        for handle in handles.values():
            handle.close()
    return content.hexdigest()[:16]


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / _META
    meta: dict[str, Any] = read_json(path, remedy=_anew(folder))
    if (wrong := mismatch(meta, _SCHEMA)) is not None:
        raise FileError(f"{path}: {wrong} is not what was written; {_anew(folder)}")
    return meta


def _anew(folder: Path) -> str:
    return f"delete {folder}, and it will be made anew"
