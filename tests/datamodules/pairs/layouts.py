"""Arrays written back into published layouts, so that a reader must find them again."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from ntdh_bench.datamodules.pairs.arrays import PairedArrays

LETTERS = string.ascii_uppercase
SPEAKERS = ("Anya", "Bill", "Faye", "John", "Kate", "Nicola", "Stephen", "Steve", "Verity", "Yi")


def write_lips(path: Path, frames: NDArray[Any]) -> None:
    """Write grey values 0 to 255, (T, 60, 80), a column a frame."""
    vid = np.stack([frame.ravel(order="F") for frame in frames], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"vid": vid, "siz": np.array([[60.0, 80.0, len(frames)]])})


def write_htk(path: Path, frames: NDArray[Any], kind: int = 6 | 0o500) -> None:
    """Write frames (T, D) as an HTK parameter file."""
    header = np.array([len(frames), 100_000], ">i4").tobytes()
    header += np.array([4 * frames.shape[1], kind], ">u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + frames.astype(">f4").tobytes())


def write_avletters(folder: Path, arrays: PairedArrays, rows: Sequence[int]) -> None:
    """Write some clips, as many frames as the arrays have, each pixel twice in both directions."""
    for row in rows:
        repetition = row % 30 // 10 + 1
        stem = f"{LETTERS[arrays.target[row]]}{repetition}_{SPEAKERS[row % 10]}"
        lips = 255 * arrays.modalities["lips"][row].astype(np.float32)
        write_lips(folder / "Lips" / f"{stem}-lips.mat", lips.repeat(2, 1).repeat(2, 2))
        speech = arrays.modalities["mfcc"][row]
        write_htk(folder / "Audio" / "mfcc" / "Clean" / f"{stem}.mfcc", speech)


def sign(emg: NDArray[Any], imu: NDArray[Any], time: datetime) -> dict[str, Any]:
    """Return what a file of LIS EMG-IMU holds whose means are ``emg`` (40, 8), ``imu`` (40, 10)."""
    signs = np.resize([1, -1], (400, 1))
    return {
        "timestamp": time.strftime("%d/%m/%y/%H:%M:%S"),
        "duration": 2000,
        "emg": {"frequency": 200, "data": (signs * emg.repeat(10, 0)).tolist()},
        "imu": {
            "frequency": 200,
            "data": [
                {"gyroscope": row[:3], "acceleration": row[3:6], "orientation": row[6:]}
                for row in imu.repeat(10, 0).astype(float).tolist()
            ],
        },
    }


def write_lis(folder: Path, arrays: PairedArrays, rows: Sequence[int]) -> None:
    """Write some signs; those for testing are younger than those for training."""
    assert arrays.split is not None
    for row in rows:
        start = datetime(2020, 6, 28) if arrays.split[row] else datetime(2019, 7, 30)
        content = sign(
            arrays.modalities["emg"][row],
            arrays.modalities["imu"][row],
            start + timedelta(minutes=int(row)),
        )
        path = folder / "Dataset" / LETTERS[arrays.target[row]] / f"{row:06d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def write_wiki(folder: Path, arrays: PairedArrays) -> None:
    """Write ``raw_features.mat`` and both lists."""
    assert arrays.split is not None
    values = {}
    for part, name, number in (("tr", "trainset", 0), ("te", "testset", 1)):
        rows = arrays.split == number
        values[f"I_{part}"] = arrays.modalities["image"][rows].astype(np.float64)
        values[f"T_{part}"] = arrays.modalities["text"][rows].astype(np.float64)
        lines = [f"a-1\tb{label}\t{label + 1}\n" for label in arrays.target[rows]]
        (folder / f"{name}_txt_img_cat.list").write_text("".join(lines))
    scipy.io.savemat(folder / "raw_features.mat", values)


def write_houston(folder: Path, arrays: PairedArrays) -> None:
    """Write the training pixels."""
    values = {
        "HSI_TrSet": arrays.modalities["hsi"].astype(np.float64),
        "LiDAR_TrSet": arrays.modalities["lidar"].astype(np.float64),
        "TrLabel": arrays.target[:, None] + 1.0,
    }
    for name, array in values.items():
        scipy.io.savemat(folder / f"{name}.mat", {name: array})
