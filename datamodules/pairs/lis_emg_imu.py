"""LIS EMG-IMU: the alphabet of the Italian Sign Language, 30 times each, by an armband.

Pacifici et al., Data in Brief 33 (2020) 106455. Published layout: ``Dataset/<letter>/<guid>.json``
with ``timestamp`` (day/month/year/time), ``emg.data``, 400 samples of 8 muscles at 200 Hz, and
``imu.data``, 400 objects of ``gyroscope`` (3), ``acceleration`` (3) and ``orientation`` (4). Three
of the 780 original files were looked at; the publisher's readme describes them all alike.

The last third of each letter by time is for testing: there is one signer, and no published split.
"""

from __future__ import annotations

import json
import string
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.listing import visible
from ntdh_bench.files.reading import reading
from ntdh_bench.files.text import read_json

from .arrays import TEST, TRAIN, PairedArrays
from .layouts import Floats, inner, latent, shown, waves
from .published import published_set

_LETTERS = tuple(string.ascii_uppercase)
_TIME = "%d/%m/%y/%H:%M:%S"
_SAMPLES, _MUSCLES = 400, 8
_SENSORS = {"gyroscope": 3, "acceleration": 3, "orientation": 4}
_STEP = 10  # samples that become one: 20 Hz
_LARGEST = 1e6
_MAX_BYTES = 1 << 20
_REMEDY = "expected Dataset/<letter>/*.json as published by airtlab"


class _Sign(NamedTuple):
    time: datetime
    emg: NDArray[np.float32]
    imu: NDArray[np.float32]


def read(folder: Path) -> PairedArrays:
    """Read all files, by letter and name.

    Ten samples become one: the mean of the absolute EMG, float32 (N, 40, 8), and the mean of the
    gyroscope, acceleration and orientation, float32 (N, 40, 10).

    Raises:
        FileError: a letter has no files, or one is damaged.
    """
    folder = inner(folder, "Dataset")
    signs: list[_Sign] = []
    target, split = [], []
    for label, letter in enumerate(_LETTERS):
        paths = visible(folder / letter, "*.json")
        if len(paths) < 3:
            raise FileError(f"{folder / letter}: {len(paths)} .json files; {_REMEDY}")
        own = [_read_sign(path) for path in paths]
        signs += own
        target += [label] * len(own)
        split.append(_last_third([sign.time for sign in own]))
    arrays = {
        "emg": np.stack([sign.emg for sign in signs]),
        "imu": np.stack([sign.imu for sign in signs]),
    }
    return PairedArrays(arrays, np.array(target), np.concatenate(split))


def _last_third(times: list[datetime]) -> NDArray[np.int8]:
    split = np.full(len(times), TRAIN, np.int8)
    order = sorted(range(len(times)), key=times.__getitem__)
    split[order[-(len(times) // 3) :]] = TEST
    return split


def _read_sign(path: Path) -> _Sign:
    value = read_json(path, _MAX_BYTES, _REMEDY)
    with reading(path, "a sign of the data set", _REMEDY):
        time = datetime.strptime(value["timestamp"], _TIME)
        emg = _numbers(value["emg"]["data"], _MUSCLES)
        imu = [_numbers([row[name] for row in value["imu"]["data"]], side)
               for name, side in _SENSORS.items()]  # fmt: skip
        return _Sign(time, _means(np.abs(emg)), _means(np.concatenate(imu, axis=1)))


def _numbers(rows: Any, side: int) -> Floats:
    """Return float64 (400, side); whatever else it is raises something."""
    array = np.array(rows)
    if array.shape != (_SAMPLES, side) or array.dtype.kind not in "if":
        raise ValueError("not the numbers of a sign")
    values = array.astype(np.float64)
    if not (np.abs(values) <= _LARGEST).all():
        raise ValueError("no armband measures this")
    return values


def _means(values: Floats) -> NDArray[np.float32]:
    means = values.reshape(_SAMPLES // _STEP, _STEP, values.shape[1]).mean(1)
    return np.asarray(means.astype(np.float32))


# -- simulated files -----------------------------------------------------------------------------

_PER_LETTER = 6


def write_simulated(folder: Path, seed: int) -> None:
    """Write 156 signs, six a letter: muscles that tense, and an arm that turns and moves."""
    target = np.repeat(np.arange(len(_LETTERS)), _PER_LETTER)
    hidden = latent(target, 10, 0.5, seed)
    tension = shown(hidden, (_MUSCLES, 3), 0.4, seed + 1)
    motion = shown(hidden, (10, 3), 0.5, seed + 2)
    random = np.random.default_rng(seed + 3)
    for row, label in enumerate(target):
        emg = np.exp(2 + 0.5 * tension[row] @ waves(3, _SAMPLES)) * random.normal(
            size=(_MUSCLES, _SAMPLES)
        )
        imu = motion[row] @ waves(3, _SAMPLES) + 0.2 * random.normal(size=(10, _SAMPLES))
        time = datetime(2020, 6, 26, 20) + timedelta(minutes=row)
        content = {
            "timestamp": time.strftime(_TIME),
            "duration": 2000,
            "emg": {"frequency": 200, "data": emg.clip(-128, 127).astype(int).T.tolist()},
            "imu": {"frequency": 200, "data": _of_sensors(imu.T.round(3))},
        }
        place = folder / "Dataset" / _LETTERS[label]
        place.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid5(uuid.NAMESPACE_OID, str(row))  # of any seed: it replaces those before
        (place / f"{name}.json").write_text(json.dumps(content))


def _of_sensors(imu: Floats) -> list[dict[str, list[float]]]:
    ends = np.cumsum(list(_SENSORS.values())).tolist()
    parts = {
        name: slice(end - _SENSORS[name], end) for name, end in zip(_SENSORS, ends, strict=True)
    }
    return [{name: row[part] for name, part in parts.items()} for row in imu.tolist()]


LIS = published_set(
    name="lis_emg_imu",
    title="muscles and motion, the signed alphabet",
    modalities=("emg", "imu"),
    class_names=_LETTERS,
    samples=780,
    licence="freely released for research and education (Pacifici et al. 2020)",
    how_to_get="Dataset of airtlab on github (doi 10.1016/j.dib.2020.106455)",
    read=read,
    write=write_simulated,
    page_urls=(
        "https://github.com/airtlab/An-EMG-and-IMU-Dataset-for-the-Italian-Sign-Language-Alphabet",
    ),
)
