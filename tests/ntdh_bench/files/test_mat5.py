from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ntdh_bench.errors import LONGEST, FileError
from ntdh_bench.files.mat5 import read_mat5
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
