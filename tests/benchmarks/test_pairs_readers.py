"""Readers of paired sets, which trust no file, against the libraries that do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from ntdh_bench.datamodules.pairs import avletters, bdgp, houston_hsi_lidar, lis_emg_imu, wiki
from ntdh_bench.datamodules.pairs.published import PublishedSet
from tests.helpers import seconds_per_sample

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

Loaded = tuple[NDArray[np.floating], ...]


def _avletters(folder: Path) -> Loaded:
    lips, speech = [], []
    for path in sorted((folder / "Lips").iterdir()):
        mat = scipy.io.loadmat(path)
        vid = mat["vid"].reshape(60, 80, -1, order="F").astype(float)
        small = vid.reshape(30, 2, 40, 2, -1).mean((1, 3)).transpose(2, 0, 1) / 255
        lips.append(_interpolated(small, 12))
        htk = folder / "Audio" / "mfcc" / "Clean" / path.name.replace("-lips.mat", ".mfcc")
        speech.append(_interpolated(np.fromfile(htk, ">f4", offset=12).reshape(-1, 26), 24))
    return np.stack(lips), np.stack(speech)


def _interpolated(series: NDArray[np.floating], length: int) -> NDArray[np.floating]:
    flat = series.reshape(len(series), -1)
    times = np.linspace(0, len(series) - 1, length)
    columns = [np.interp(times, np.arange(len(series)), column) for column in flat.T]
    return np.stack(columns, 1).reshape(length, *series.shape[1:])


def _lis(folder: Path) -> Loaded:
    emg, imu = [], []
    for path in sorted(folder.glob("Dataset/*/*.json")):
        value = json.loads(path.read_text())
        emg.append(np.abs(value["emg"]["data"]).reshape(40, 10, 8).mean(1))
        rows = [
            row["gyroscope"] + row["acceleration"] + row["orientation"]
            for row in value["imu"]["data"]
        ]
        imu.append(np.array(rows).reshape(40, 10, 10).mean(1))
    return np.stack(emg), np.stack(imu)


def _wiki(folder: Path) -> Loaded:
    mat = scipy.io.loadmat(folder / "raw_features.mat")
    return tuple(np.concatenate([mat[f"{kind}_tr"], mat[f"{kind}_te"]]) for kind in "IT")


def _bdgp(folder: Path) -> Loaded:
    mat = scipy.io.loadmat(folder / "BDGP.mat")
    return mat["X1"] / np.linalg.norm(mat["X1"], axis=1, keepdims=True), mat["X2"]


def _houston(folder: Path) -> Loaded:
    names = ("HSI_TrSet", "LiDAR_TrSet")
    return tuple(scipy.io.loadmat(folder / "HSI_LiDAR_FC" / f"{name}.mat")[name] for name in names)


@pytest.mark.parametrize(
    ("info", "load"),
    [
        (avletters.AVLETTERS, _avletters),
        (lis_emg_imu.LIS, _lis),
        (wiki.WIKI, _wiki),
        (bdgp.BDGP, _bdgp),
        (houston_hsi_lidar.HOUSTON, _houston),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_reader_against_libraries(
    info: PublishedSet, load: Callable[[Path], Loaded], tmp_path: Path
) -> None:
    info.write(tmp_path, 0)
    arrays = info.read(tmp_path)
    for name, values in zip(info.modalities, load(tmp_path), strict=True):
        np.testing.assert_allclose(arrays.modalities[name], values, rtol=1e-3, atol=1e-5)
    ours = seconds_per_sample(lambda: len(info.read(tmp_path)), 3)
    usual = seconds_per_sample(lambda: len(load(tmp_path)[0]), 3)
    print(
        f"\n{info.name}: {1 / ours:,.0f} samples/s; with scipy.io or json, nothing checked: "
        f"{1 / usual:,.0f} samples/s: {usual / ours:.2f}x"
    )
