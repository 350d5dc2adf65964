from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ntdh_bench.errors import LONGEST, FileError
from ntdh_bench.files.mat5 import read_mat5, read_mat5_arrays
from tests.typed import some

VALUES = {
    "trainNdxs": np.arange(1, 12, dtype=np.float64)[:, None],
    "small": np.array([[3]], dtype=np.uint8),
    "matrix": np.arange(6, dtype=np.int16).reshape(2, 3),
    "volume": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "text": "words",
    "cells": np.array([["a", 1.0]], dtype=object),
    "complex": np.array([[1 + 2j]]),
    "broken": np.array([[np.nan]]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_numbers_are_what_scipy_reads(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, VALUES, do_compression=compressed)
    expected = scipy.io.loadmat(path)
    for name in ("trainNdxs", "small", "matrix", "volume"):
        found = some(read_mat5(path, name))
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, expected[name])
    assert read_mat5(path, "other") is None
    for name in ("text", "cells", "complex", "broken"):
        with pytest.raises(FileError, match=f"{name} is"):
            read_mat5(path, name)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, VALUES)
    whole = path.read_bytes()
    chance = random.Random(0)
    refused = []
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
        try:
            read_mat5(path, "trainNdxs")
        except FileError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert max(map(len, refused)) <= LONGEST


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"x": np.zeros((3000, 3000))}, do_compression=True)
    with pytest.raises(FileError, match="damaged"):
        read_mat5(path, "x")


@pytest.mark.parametrize("compressed", [False, True])
def test_all_arrays_of_numbers_are_found(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "x.mat"
    cells = np.empty((2, 2), object)
    cells[0, 0], cells[0, 1] = np.eye(3), np.arange(4, dtype=np.uint8)[:, None]
    cells[1, 0], cells[1, 1] = "words", np.array([[1 + 2j]])
    scipy.io.savemat(path, {"a": cells, **VALUES}, do_compression=compressed)
    found = read_mat5_arrays(path, 1 << 20)
    whole = ("trainNdxs", "small", "matrix", "volume")
    inner = [np.eye(3), cells[0, 1], np.array([[1.0]])]  # the last one is of VALUES["cells"]
    expected = [inner[0], inner[1], *(VALUES[name] for name in whole), inner[2], VALUES["broken"]]
    assert len(found) == len(expected)
    for array, value in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, value)


def test_bombs_in_all_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"x": np.zeros((3000, 3000))}, do_compression=True)
    with pytest.raises(FileError, match="damaged"):
        read_mat5_arrays(path, 1 << 24)
    assert read_mat5_arrays(path, 1 << 27)[0].shape == (3000, 3000)


def test_small_bombs_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    zeros = {f"x{number}": np.zeros((300, 300)) for number in range(3)}
    scipy.io.savemat(path, zeros, do_compression=True)
    with pytest.raises(FileError, match="more than 2000000 bytes of arrays"):
        read_mat5_arrays(path, 2_000_000)
    assert len(read_mat5_arrays(path, 3_000_000)) == 3
