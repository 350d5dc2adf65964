from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntdh_bench.errors import FileError
from ntdh_bench.pictures.file import FILE, Pictures, read_pictures, write_pictures
from tests.ntdh_bench.pictures.made import made_pictures


def test_what_was_written_is_read(tmp_path: Path) -> None:
    pictures = made_pictures()
    write_pictures(tmp_path, pictures)
    found = read_pictures(tmp_path)
    assert found.classes == pictures.classes
    for name in ("confusion", "prediction", "confidence", "inputs"):
        values, wanted = getattr(found, name), getattr(pictures, name)
        assert values.keys() == wanted.keys()
        for key in values:
            assert values[key].dtype == wanted[key].dtype
            np.testing.assert_array_equal(values[key], wanted[key])
    for name in ("ncjsd", "dropped", "target", "kept", "divergence"):
        np.testing.assert_array_equal(getattr(found, name), getattr(pictures, name))
    assert found.dropped_map is None


def test_a_run_that_says_nothing_leaves_a_file_that_is_read(tmp_path: Path) -> None:
    write_pictures(tmp_path, Pictures(("a", "b")))
    found = read_pictures(tmp_path)
    assert found.samples() == 0
    assert not found.confusion


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher_confusion": np.zeros((2, 2), np.int64)}, "not of 3 classes"),
        ({"teacher_confusion": np.full((3, 3), -1, np.int64)}, "not of 3 classes"),
        ({"ncjsd": np.zeros(2)}, "ncjsd is not of 3 classes"),
        ({"ncjsd": np.full(3, np.nan)}, "not finite"),
        ({"target": np.zeros(5, np.int16)}, "not of 5 samples"),
        ({"target": np.full(2, 3, np.int16)}, "not in [-1, 3)"),
        ({"target": np.zeros((2, 4, 4), np.int16)}, "differ in shape"),
        ({"input_teacher": np.zeros((2, 2000, 3, 3), np.uint8)}, "at most 1024"),
        ({"input_teacher": np.zeros((2, 8), np.float32)}, "neither an image nor lines"),
        ({"kept": np.ones(2, np.bool_)}, "not of the same features"),
        ({"kept": np.ones(0, np.bool_), "divergence": np.zeros(0)}, "holds nothing"),
        ({"input_teacher": np.zeros((2, 0, 5), np.uint8)}, "holds nothing"),
        ({"input_teacher": np.zeros((2, 3, 0), np.float32)}, "holds nothing"),
        ({"input_x": np.array(1.0)}, "a single number"),
        ({"dropped_map": np.zeros((2, 4, 4), np.bool_)}, "not of the target's shape"),
        ({"classes": np.full(3, 1 << 30, np.uint32).view("U1")}, "not text in Unicode"),
        ({"teacher_prediction": np.array(["x", "y"])}, "expected kind i"),
        ({"classes": np.array([1, 2, 3])}, "expected kind U"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(
    tmp_path: Path, changes: Mapping[str, Any], said: str
) -> None:
    write_pictures(tmp_path, made_pictures())
    with np.load(tmp_path / FILE) as arrays:
        changed = {**arrays, **changes}
    np.savez(tmp_path / FILE, **changed)
    with pytest.raises(FileError) as refused:
        read_pictures(tmp_path)
    assert said in str(refused.value)
    assert "run it again" in str(refused.value)


def test_dropped_rows_are_those_of_a_student(tmp_path: Path) -> None:
    pictures = made_pictures()
    pictures.dropped = np.zeros(3, np.int64)
    del pictures.confusion["student"]
    write_pictures(tmp_path, pictures)
    with pytest.raises(FileError, match="dropped of no student"):
        read_pictures(tmp_path)


def test_no_pickle_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / FILE, classes=np.array(["a", {}], dtype=object))
    with pytest.raises(FileError, match="damaged, or not"):
        read_pictures(tmp_path)
