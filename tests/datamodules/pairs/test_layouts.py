from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ntdh_bench.datamodules.pairs.layouts import (
    classes_of,
    drawn_split,
    inner,
    measured,
    read_matrix,
    resampled,
)
from ntdh_bench.errors import FileError


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_resampling_is_linear(count: int) -> None:
    series = np.random.default_rng(0).normal(size=(count, 2, 3))
    found = resampled(series, 12)
    times = np.linspace(0, count - 1, 12)
    for row, column in np.ndindex(2, 3):
        expected = np.interp(times, np.arange(count), series[:, row, column])
        np.testing.assert_allclose(found[:, row, column], expected, atol=1e-12)
    np.testing.assert_array_equal(resampled(series, count), series)


def test_a_drawn_split_takes_its_share_of_each_class() -> None:
    target = np.random.default_rng(0).integers(0, 4, 500)
    split = drawn_split(target)
    assert split.dtype == np.int8
    for label in range(4):
        rows = split[target == label]
        assert rows.sum() == round(0.3 * len(rows))
    np.testing.assert_array_equal(split, drawn_split(target.copy()))


def test_classes_count_from_0_or_1() -> None:
    labels = np.array([[2.0], [3], [1], [2]])
    for first in (0, 1):
        found = classes_of(Path("x"), labels - 1 + first, 3, "get it")
        assert found.dtype == np.int64
        assert found.tolist() == [1, 2, 0, 1]
    for wrong in (labels + 1, labels * 2 - 1, np.array([]), np.array([0.0, 0.5, 1])):
        with pytest.raises(FileError, match="x: the labels are not 3 classes from 0 or 1; get it"):
            classes_of(Path("x"), wrong, 3, "get it")


def test_a_matrix_is_asked_for_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"a": np.eye(3), "b": np.full((2, 3), 1e31)})
    np.testing.assert_array_equal(read_matrix(path, "a", 3, "get it"), np.eye(3))
    with pytest.raises(FileError, match=r"a is \(3, 3\), expected \(N, 4\); get it"):
        read_matrix(path, "a", 4, "get it")
    with pytest.raises(FileError, match="no variable c; get it"):
        read_matrix(path, "c", 3, "get it")
    with pytest.raises(FileError, match="beyond 1e30"):
        read_matrix(path, "b", 3, "get it")
    with pytest.raises(FileError, match="not finite"):
        measured(path, np.array([np.nan]), "get it")


def test_an_inner_folder_may_be_named_itself(tmp_path: Path) -> None:
    assert inner(tmp_path, "Dataset") == tmp_path
    (tmp_path / "Dataset").mkdir()
    assert inner(tmp_path, "Dataset") == tmp_path / "Dataset"
    assert inner(tmp_path / "Dataset", "Dataset") == tmp_path / "Dataset"
