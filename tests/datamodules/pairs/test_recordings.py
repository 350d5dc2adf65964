"""AVLetters and LIS EMG-IMU: series of many files."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from ntdh_bench.datamodules.pairs import avletters, lis_emg_imu
from ntdh_bench.datamodules.pairs.arrays import read_arrays
from ntdh_bench.errors import FileError
from tests.datamodules.pairs.layouts import (
    LETTERS,
    sign,
    write_avletters,
    write_htk,
    write_lips,
    write_lis,
)
from tests.typed import some

# -- AVLetters -----------------------------------------------------------------------------------


def test_avletters_are_read_as_published(data_root: Path, tmp_path: Path) -> None:
    expected = read_arrays(data_root / "pairs" / "avletters.npz")
    rows = [row for row in range(len(expected)) if row % 10 in (0, 9)]
    write_avletters(tmp_path, expected, rows)
    found = avletters.read(tmp_path)
    for name, array in expected.modalities.items():
        np.testing.assert_array_equal(found.modalities[name], array[rows])
        assert found.modalities[name].dtype == array.dtype
    np.testing.assert_array_equal(found.target, expected.target[rows])
    np.testing.assert_array_equal(some(found.split), some(expected.split)[rows])
    np.testing.assert_array_equal(some(found.group), some(expected.group)[rows] // 9)


def test_published_frames_are_means_of_whole_pixels(data_root: Path) -> None:
    """First and last frames are multiples of 1 / (4 * 255), as halving says; others are between."""
    lips = read_arrays(data_root / "pairs" / "avletters.npz").modalities["lips"]
    steps = 4 * 255 * lips[:, [0, 5, -1]].astype(np.float64)
    apart = np.abs(steps - np.round(steps)).mean((0, 2, 3))
    assert max(apart[0], apart[2]) < 0.09
    assert apart[1] > 0.2


def _letters(folder: Path, repetitions: tuple[int, ...] = (1,)) -> np.ndarray:
    """Write a clip of three frames a letter; returns the frames of the first."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (3, 60, 80))
    for letter in LETTERS:
        for repetition in repetitions:
            stem = f"{letter}{repetition}_Anya"
            write_lips(folder / "Lips" / f"{stem}-lips.mat", frames)
            speech = random.normal(size=(6, 26))
            write_htk(folder / "Audio" / "mfcc" / "Clean" / f"{stem}.mfcc", speech)
    return frames


def test_lips_are_halved_and_resampled(tmp_path: Path) -> None:
    frames = _letters(tmp_path, (3, 1))
    found = avletters.read(tmp_path)
    assert some(found.split)[:4].tolist() == [0, 1, 0, 1]  # by repetition, whatever was written
    small = np.zeros((3, 30, 40))
    for y, x in np.ndindex(30, 40):
        square = frames[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        small[:, y, x] = square.mean((1, 2)) / 255
    lips = found.modalities["lips"][0]
    for frame, time in enumerate(np.linspace(0, 2, 12)):
        before, part = min(int(time), 1), time - min(int(time), 1)
        expected = (1 - part) * small[before] + part * small[before + 1]
        np.testing.assert_allclose(lips[frame], expected, atol=5e-4)


def test_avletters_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="Lips: no clips of the letter A; expected Lips"):
        avletters.read(tmp_path)
    frames = _letters(tmp_path)
    lips, speech = tmp_path / "Lips", tmp_path / "Audio" / "mfcc" / "Clean"
    (speech / "C1_Anya.mfcc").unlink()
    with pytest.raises(FileError, match=r"C1_Anya\.mfcc is missing; expected Lips"):
        avletters.read(tmp_path)
    (lips / "B1-lips.mat").touch()
    with pytest.raises(FileError, match=r"B1-lips\.mat is not called like A1_Anya-lips\.mat"):
        avletters.read(tmp_path)
    (lips / "B1-lips.mat").unlink()
    (lips / ".DS_Store").touch()  # the published folder has one
    columns = frames.reshape(3, -1).T
    for values, message in (
        ({"vid": columns}, "no variable siz"),
        ({"vid": columns[1:], "siz": [[60, 80, 3]]}, r"vid is \(4799, 3\), expected \(4800, T\)"),
        ({"vid": columns, "siz": [[80, 60, 3]]}, "not 3 frames of 60x80"),
        ({"vid": columns + 1, "siz": [[60, 80, 3]]}, "grey values 0 to 255"),
    ):
        scipy.io.savemat(lips / "A1_Anya-lips.mat", values)
        with pytest.raises(FileError, match=message):
            avletters.read(tmp_path)


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        (np.zeros((4, 13)), 6),  # no differences
        (np.zeros((0, 26)), 6),
        (np.zeros((4, 26)), 6 | 0o2000),  # compressed
        (np.full((4, 26), np.nan), 6),
    ],
)
def test_other_htk_files_are_refused(tmp_path: Path, frames: np.ndarray, kind: int) -> None:
    path = tmp_path / "A1_Anya.mfcc"
    write_htk(path, frames, kind)
    with pytest.raises(FileError, match=r"not an HTK file of plain frames|not finite"):
        avletters._read_htk(path)


# -- LIS EMG-IMU ---------------------------------------------------------------------------------


def test_lis_is_read_as_published(data_root: Path, tmp_path: Path) -> None:
    expected = read_arrays(data_root / "pairs" / "lis_emg_imu.npz")
    split = some(expected.split)
    rows = []
    for label in range(26):
        own = np.flatnonzero(expected.target == label)
        assert split[own].sum() == 10  # a third
        rows += sorted([*own[split[own] == 0][:2], *own[split[own] == 1][:1]])
    write_lis(tmp_path, expected, rows)
    found = lis_emg_imu.read(tmp_path)
    for name, array in expected.modalities.items():
        np.testing.assert_array_equal(found.modalities[name], array[rows])
        assert found.modalities[name].dtype == array.dtype
    np.testing.assert_array_equal(found.target, expected.target[rows])
    np.testing.assert_array_equal(some(found.split), split[rows])


def _sign(time: datetime = datetime(2020, 6, 26)) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return sign(random.integers(0, 9, (40, 8)), random.normal(size=(40, 10)), time)


def test_ten_samples_become_one(tmp_path: Path) -> None:
    value, path = _sign(), tmp_path / "x.json"
    emg = np.random.default_rng(1).integers(-50, 50, (400, 8))
    value["emg"]["data"] = emg.tolist()
    path.write_text(json.dumps(value))
    found = lis_emg_imu._read_sign(path)
    assert found.time == datetime(2020, 6, 26)
    np.testing.assert_allclose(found.emg[3], np.abs(emg[30:40]).mean(0), rtol=1e-6)
    motion = value["imu"]["data"][50]
    parts = motion["gyroscope"] + motion["acceleration"] + motion["orientation"]
    np.testing.assert_allclose(found.imu[5], parts, rtol=1e-6)


def test_the_last_third_by_time_is_tested() -> None:
    """Days come first in written times: as text, 1 July would come before 26 June."""
    times = [datetime(2020, 7, 1), *(datetime(2020, 6, 26) + timedelta(hours=h) for h in range(5))]
    assert lis_emg_imu._last_third(times).tolist() == [1, 0, 0, 0, 0, 1]
    assert lis_emg_imu._last_third(times[1:] + times[:1]).tolist() == [0, 0, 0, 0, 1, 1]


def test_lis_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"A: 0 \.json files; expected Dataset"):
        lis_emg_imu.read(tmp_path)
    path = tmp_path / "x.json"
    for change in (
        lambda v: v.pop("timestamp"),
        lambda v: v.update(timestamp="2020-06-26"),
        lambda v: v["emg"]["data"].pop(),
        lambda v: v["emg"]["data"].__setitem__(0, [True] * 7),
        lambda v: v["emg"].update(data=[["1"] * 8] * 400),
        lambda v: v["imu"]["data"][7].pop("orientation"),
        lambda v: v["imu"]["data"][7].update(gyroscope=[1e7, 0, 0]),
        lambda v: v.update(imu=[]),
    ):
        value = _sign()
        change(value)
        path.write_text(json.dumps(value))
        with pytest.raises(FileError, match=r"x\.json: damaged, or not a sign of the data set"):
            lis_emg_imu._read_sign(path)
