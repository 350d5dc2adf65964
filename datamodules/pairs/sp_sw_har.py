"""SP-SW-HAR: five activities of 23 people with a smartphone and a smartwatch.

Matey-Sanz et al., Dataset of inertial measurements of smartphones and smartwatches for human
activity recognition, Data in Brief 51 (2023) 109809. Published layout: two files an execution of
a sequence of activities, ``DATA/s<subject>/s<subject>_<execution>_sp.csv`` of the phone and
``..._sw.csv`` of the watch, at about 100 Hz on a common clock: accelerometer (m/s^2) and gyroscope
(rad/s) of three axes each, the time in ms and the activity.

Subjects 4, 8, 12, 16 and 20 are for testing: there is no published split.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.listing import visible
from ntdh_bench.files.reading import reading
from ntdh_bench.files.text import read_text

from .arrays import TEST, TRAIN, PairedArrays
from .layouts import Floats, check_classes, inner, latent, shown, tracked
from .published import published_set

_ACTIVITIES = ("SEATED", "STANDING_UP", "WALKING", "TURNING", "SITTING_DOWN")
_COLUMNS = "x_acc,y_acc,z_acc,x_gyro,y_gyro,z_gyro,timestamp,label"
_AXES = 6
_ROW = np.dtype([("motion", "f8", _AXES), ("time", "f8"), ("label", "U16")])
_NAME = re.compile(r"s(\d\d)_\d\d_sp\.csv")
_TESTED = (4, 8, 12, 16, 20)
_WINDOW, _STEP = 1000, 500  # ms
_LENGTH = 32
_PURITY = 0.8
_LATEST, _LONGEST = 1e14, 3_600_000  # ms
_LARGEST = 1e6
_MAX_BYTES = 1 << 24
_REMEDY = "expected DATA/s*/s*_{sp,sw}.csv of the SP-SW-HAR dataset"


class _Recording(NamedTuple):
    motion: Floats  # (n, 6)
    time: Floats  # (n,), never falls
    activity: NDArray[np.int64]  # (n,)


class _Windows(NamedTuple):
    phone: NDArray[np.float32]  # (n, 32, 6)
    watch: NDArray[np.float32]
    activity: NDArray[np.int64]


def read(folder: Path) -> PairedArrays:
    """Cut all executions into windows of 1 s every 0.5 s, by name and time.

    Windows begin where both devices have. In each, both are interpolated linearly at 32 times, the
    first and the last included: float32 (N, 32, 6). A window has the most frequent activity of the
    phone's samples in it; where that is less than 80 % of them, it is left out.

    Raises:
        FileError: a file is missing or damaged, or an activity has no windows for training or
            testing.
    """
    folder = inner(folder, "DATA")
    paths = [path for sub in visible(folder, "s*") for path in visible(sub, "*_sp.csv")]
    subjects, found = [], []
    for path in tracked("SP-SW-HAR", paths):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise FileError(f"{path} is not called like s01_01_sp.csv; {_REMEDY}")
        found.append(_windows(path))
        subjects += [int(match[1])] * len(found[-1].activity)
    if not found:
        raise FileError(f"{folder}: no recordings in it; {_REMEDY}")
    phone, watch, activity = (np.concatenate(parts) for parts in zip(*found, strict=True))
    group = np.array(subjects, np.int64)
    split = np.where(np.isin(group, _TESTED), TEST, TRAIN).astype(np.int8)
    arrays = PairedArrays({"phone": phone, "watch": watch}, activity, split, group)
    check_classes(folder, arrays, _ACTIVITIES, _REMEDY)
    return arrays


def _windows(path: Path) -> _Windows:
    """Return the windows of an execution, given the file of the phone."""
    phone = _read_recording(path)
    watch = _read_recording(path.with_name(path.name.replace("_sp", "_sw")))
    start = max(phone.time[0], watch.time[0])
    end = min(phone.time[-1], watch.time[-1])
    starts = np.arange(start, end - _WINDOW + 1, _STEP)
    bounds = np.searchsorted(phone.time, [starts, starts + _WINDOW]).T
    counts = np.array(
        [np.bincount(phone.activity[a:b], minlength=len(_ACTIVITIES)) for a, b in bounds]
    ).reshape(-1, len(_ACTIVITIES))
    most, total = counts.max(axis=1), counts.sum(axis=1)
    kept = (total > 0) & (most >= _PURITY * total)
    times = np.linspace(starts, starts + _WINDOW, _LENGTH, axis=1)[kept]
    return _Windows(_at(phone, times), _at(watch, times), counts.argmax(axis=1)[kept])


def _at(recording: _Recording, times: Floats) -> NDArray[np.float32]:
    """Return the motion at times (n, 32), interpolated: (n, 32, 6)."""
    channels = [np.interp(times, recording.time, values) for values in recording.motion.T]
    return np.stack(channels, axis=-1).astype(np.float32)


def _read_recording(path: Path) -> _Recording:
    header, _, text = read_text(path, _MAX_BYTES, _REMEDY).partition("\n")
    if header.strip() != _COLUMNS or not text.strip():
        raise FileError(f"{path}: no samples below the names of columns, x_acc to label; {_REMEDY}")
    with reading(path, "a recording", _REMEDY):
        table = np.loadtxt(io.StringIO(text), _ROW, delimiter=",", comments=None, ndmin=1)
    motion, time = table["motion"], table["time"]
    # False of NaN as well.
    if not ((np.abs(motion) <= _LARGEST).all() and (np.abs(time) <= _LATEST).all()):
        raise FileError(f"{path}: values that no sensor gives; {_REMEDY}")
    if (np.diff(time) < 0).any() or time[-1] - time[0] > _LONGEST:
        raise FileError(f"{path}: times that go back, or over more than an hour; {_REMEDY}")
    is_activity = table["label"][:, None] == np.array(_ACTIVITIES)
    if not is_activity.any(axis=1).all():
        raise FileError(f"{path}: labels other than {', '.join(_ACTIVITIES)}; {_REMEDY}")
    return _Recording(motion, time, is_activity.argmax(axis=1))


# -- simulated files -----------------------------------------------------------------------------

_SUBJECTS, _EXECUTIONS = 10, 2
_COURSE = (0, 1, 2, 3, 2, 3, 4, 0)
_SECONDS = 1.8  # of an activity


def write_simulated(folder: Path, seed: int) -> None:
    """Write 20 executions of ten subjects: phone and watch sway, each activity in its own way."""
    names = [
        f"s{subject:02}_{number:02}"
        for subject in range(1, _SUBJECTS + 1)
        for number in range(1, _EXECUTIONS + 1)
    ]
    hidden = latent(np.tile(_COURSE, len(names)), 6, 0.7, seed)
    for device, noise in (("sp", 1.0), ("sw", 0.5)):
        sway = shown(hidden, (_AXES, 3), noise, seed + ord(device[1]))
        courses = sway.reshape(len(names), len(_COURSE), _AXES, 3)
        for row, name in enumerate(names):
            random = np.random.default_rng([seed, row, ord(device[1])])
            path = folder / "DATA" / name[:3] / f"{name}_{device}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_recording(courses[row], random))


def _recording(sway: Floats, random: np.random.Generator) -> str:
    """Return the file of a course (activities, 6, 3): rest, and a sine and cosine of 1.6 Hz."""
    count = round(100 * _SECONDS * len(_COURSE))
    time = np.sort(1_657_533_977_800 + 10 * np.arange(count) + random.integers(0, 8, count))
    turn = 2 * np.pi * 1.6 * (time - time[0]) / 1000
    number = np.arange(count) * len(_COURSE) // count
    basis = np.stack([np.ones(count), np.sin(turn), np.cos(turn)], axis=1)
    motion = (sway[number] * basis[:, None]).sum(-1) + 0.8 * random.normal(size=(count, _AXES))
    rows = [
        f"{','.join(f'{value:.6f}' for value in values)},{moment},{_ACTIVITIES[_COURSE[step]]}"
        for values, moment, step in zip(motion, time, number, strict=True)
    ]
    return "\n".join([_COLUMNS, *rows, ""])


SP_SW_HAR = published_set(
    name="sp_sw_har",
    title="phone and watch, five activities",
    modalities=("phone", "watch"),
    class_names=_ACTIVITIES,
    samples=2971,
    licence="CC BY 4.0 (Matey-Sanz et al. 2023)",
    how_to_get="clone github.com/GeoTecINIT/sp-sw-har-dataset (doi 10.5281/zenodo.8398688)",
    read=read,
    write=write_simulated,
    page_urls=("https://github.com/GeoTecINIT/sp-sw-har-dataset",),
)
