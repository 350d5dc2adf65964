"""Readers of paired sets, which trust no file, against the libraries that do."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from ntdh_bench.datamodules.pairs import (
    av_mnist,
    avletters,
    bdgp,
    houston_hsi_lidar,
    lis_emg_imu,
    seglearn_watch,
    sp_sw_har,
    utd_mhad,
    wiki,
)
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


def _utd_mhad(folder: Path) -> Loaded:
    found = []
    for path in sorted((folder / "Skeleton").iterdir()):
        stem = path.name.removesuffix("_skeleton.mat")
        joints = scipy.io.loadmat(path)["d_skel"].transpose(2, 0, 1)
        felt = scipy.io.loadmat(folder / "Inertial" / f"{stem}_inertial.mat")["d_iner"]
        depth = scipy.io.loadmat(folder / "Depth" / f"{stem}_depth.mat")["d_depth"].astype(float)
        moved = np.abs(np.diff(depth, axis=2)).clip(max=300).sum(2)
        squares = moved.reshape(30, 8, 40, 8).mean((1, 3))
        bones = (joints - joints[:, 3:4]).reshape(len(joints), 60)
        found.append((_interpolated(bones, 32), _interpolated(felt, 64), squares / squares.max()))
    return tuple(np.stack(part) for part in zip(*found, strict=True))


def _sp_sw_har(folder: Path) -> Loaded:
    windows: tuple[list[NDArray[np.floating]], ...] = ([], [])
    for path in sorted(folder.glob("DATA/*/*_sp.csv")):
        tables = [_table(path), _table(path.with_name(path.name.replace("_sp", "_sw")))]
        start = max(times[0] for times, _, _ in tables)
        end = min(times[-1] for times, _, _ in tables)
        for first in np.arange(start, end - 999, 500):
            times, _, labels = tables[0]
            inside = labels[(times >= first) & (times < first + 1000)]
            if np.unique(inside, return_counts=True)[1].max() < 0.8 * len(inside):
                continue
            grid = np.linspace(first, first + 1000, 32)
            for found, (times, motion, _) in zip(windows, tables, strict=True):
                found.append(np.stack([np.interp(grid, times, axis) for axis in motion.T], 1))
    return tuple(np.stack(found) for found in windows)


def _table(path: Path) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.str_]]:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    numbers = np.array([[float(cell) for cell in row[:7]] for row in rows])
    return numbers[:, 6], numbers[:, :6], np.array([row[7] for row in rows])


def _seglearn(folder: Path) -> Loaded:
    path = folder / "seglearn" / "data" / "watch_dataset.npy"
    series = np.load(path, allow_pickle=True).item()["X"]
    motion = np.concatenate([values.reshape(-1, 100, 6) for values in series])
    return motion[..., :3], motion[..., 3:]


def _av_mnist(folder: Path) -> Loaded:
    names = sorted((folder / "recordings").glob("*.wav"))
    spectra = []
    for path in names:
        audio, rate = librosa.load(path, sr=None)
        mel = librosa.feature.melspectrogram(y=audio, sr=rate, n_fft=256, hop_length=64, n_mels=32)
        spectra.append(_interpolated(librosa.power_to_db(mel, ref=np.max).T, 32).T)
    digits = np.empty((len(names), 28, 28))
    speakers = [path.name.split("_")[1] for path in names]
    for prefix, tested in (("train", False), ("t10k", True)):
        content = [
            gzip.decompress((folder / "mnist" / f"{prefix}-{kind}-ubyte.gz").read_bytes())
            for kind in ("images-idx3", "labels-idx1")
        ]
        images = np.frombuffer(content[0], np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(content[1], np.uint8, offset=8)
        rows = {digit: iter(np.flatnonzero(labels == digit)) for digit in range(10)}
        for place, path in enumerate(names):
            if (speakers[place] in ("eva", "finn")) is tested:
                digits[place] = images[next(rows[int(path.name[0])])]
    return np.stack(spectra), digits


@pytest.mark.parametrize(
    ("info", "load"),
    [
        (av_mnist.AV_MNIST, _av_mnist),
        (seglearn_watch.SEGLEARN_WATCH, _seglearn),
        (sp_sw_har.SP_SW_HAR, _sp_sw_har),
        (utd_mhad.UTD_MHAD, _utd_mhad),
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
