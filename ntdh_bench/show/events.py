"""The curves in a run's TensorBoard log, read without TensorBoard's own tools, which trust it."""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import read_bytes, reading

_STAGES = ("", "teacher", "retrained", "reference")  # see runs.trainers
_MAX_BYTES = 1 << 26  # of a file
_MAX_FILES = 20
_MAX_POINTS = 5000  # of a curve, at most: each later one is left out
_HEADER, _FOOTER = 12, 4  # bytes around an event: its length and checksums
_REMEDY = "TensorBoard writes it"


class LoggedCurve(NamedTuple):
    """A logged number over the optimiser's steps.

    Attributes:
        steps: in rising order.
        values: at each of them, finite.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


def read_curves(folder: Path) -> dict[str, LoggedCurve]:
    """Return what a run logged over its steps, by tag such as ``teacher/train/loss``.

    A teacher's log is in a folder of its own, or has the prefix already where a logger was given.

    Args:
        folder: of the run; it may have no log.

    Raises:
        FileError: a log is too large, or no log of TensorBoard.
    """
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for stage in _STAGES:
        logs = sorted((folder / stage / "tensorboard").glob("events.out.tfevents.*"))
        for path in logs[:_MAX_FILES]:
            for step, tag, value in _scalars(path):
                points = found[f"{stage}/{tag}" if stage else tag]
                if math.isfinite(value) and len(points) < _MAX_POINTS:
                    points[step] = value
    return {
        tag: LoggedCurve(tuple(points), tuple(points.values()))
        for tag, points in ((tag, dict(sorted(found[tag].items()))) for tag in sorted(found))
        if points
    }


def _scalars(path: Path) -> Iterator[tuple[int, str, float]]:
    from tensorboard.compat.proto.event_pb2 import Event

    content = read_bytes(path, _MAX_BYTES, _REMEDY)
    with reading(path, "a log of TensorBoard", _REMEDY):
        for record in _records(content, path):
            event: Any = Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    yield event.step, value.tag, value.simple_value
                elif value.HasField("tensor") and len(value.tensor.float_val) == 1:
                    yield event.step, value.tag, value.tensor.float_val[0]


def _records(content: bytes, path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file; one that a kill cut short ends it."""
    start = 0
    while start + _HEADER <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        end = start + _HEADER + length
        if end + _FOOTER > len(content):
            if start == 0:
                raise FileError(f"{path}: no log of TensorBoard; {_REMEDY}")
            return
        yield content[start + _HEADER : end]
        start = end + _FOOTER
