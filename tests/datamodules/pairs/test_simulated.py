"""What holds of the simulated files of every set: same seed, same files; learnable; not solved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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
from ntdh_bench.datamodules.pairs.arrays import PairedArrays
from ntdh_bench.datamodules.pairs.published import PublishedSet
from tests.typed import some

SETS = (
    av_mnist.AV_MNIST, avletters.AVLETTERS, bdgp.BDGP, houston_hsi_lidar.HOUSTON, lis_emg_imu.LIS,
    seglearn_watch.SEGLEARN_WATCH, sp_sw_har.SP_SW_HAR, utd_mhad.UTD_MHAD, wiki.WIKI,
)  # fmt: skip


def _accuracy(values: NDArray[np.floating], arrays: PairedArrays) -> float:
    """Test accuracy of ridge regression on the classes, in its dual form."""
    train = some(arrays.split) == 0
    flat = values.reshape(len(values), -1).astype(np.float64)[:, :: max(1, values[0].size // 2000)]
    flat = (flat - flat[train].mean(0)) / (flat[train].std(0) + 1e-9)
    inner = flat @ flat[train].T / flat.shape[1]
    classes = np.eye(arrays.num_classes)[arrays.target[train]]
    weights = np.linalg.solve(inner[train] + 0.1 * np.eye(train.sum()), classes)
    guess = (inner[~train] @ weights).argmax(1)
    return float((guess == arrays.target[~train]).mean())


@pytest.mark.parametrize("info", SETS, ids=lambda info: info.name)
def test_simulated_files(info: PublishedSet, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        info.write(tmp_path / name, seed)
    first, again, other = (_contents(tmp_path / name) for name in "abc")
    assert first == again
    assert first != other
    arrays = info.read(tmp_path / "a")
    assert arrays.fault() is None
    assert arrays.num_classes == len(info.class_names)
    assert set(arrays.modalities) == set(info.modalities)
    for part in (0, 1):
        present = arrays.target[some(arrays.split) == part]
        assert set(present.tolist()) == set(range(arrays.num_classes))
    for name, values in arrays.modalities.items():
        assert 2 / arrays.num_classes < _accuracy(values, arrays) < 0.97, name


def _contents(folder: Path) -> set[tuple[str, bytes]]:
    """Return all files without the text that MATLAB files begin with, which holds the time."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {(path.stem if path.suffix == ".mat" else "", path.read_bytes()[116:]) for path in files}
