from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntdh_bench.datamodules.pairs.arrays import (
    PairedArrays,
    array_names,
    read_arrays,
    write_arrays,
)
from ntdh_bench.errors import FileError

FIRST = np.arange(12, dtype=np.float32).reshape(6, 2)
SECOND = np.arange(36, dtype=np.float16).reshape(6, 3, 2)
TARGET = np.array([0, 1, 2, 0, 1, 2])


def save(path: Path, **arrays: Any) -> Path:
    given = {"a": FIRST, "b": SECOND, "target": TARGET, **arrays}
    np.savez(path, **{name: array for name, array in given.items() if array is not None})
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    split, group = np.array([0, 0, 0, 1, 1, 2], np.int8), np.array([1, 1, 2, 2, 3, 3])
    write_arrays(path, PairedArrays({"a": FIRST, "b": SECOND}, TARGET, split, group))
    arrays = read_arrays(path)
    assert {name: array.dtype for name, array in arrays.modalities.items()} == {
        "a": np.float32, "b": np.float16,
    }  # fmt: skip
    for found, expected in [
        (arrays.modalities["a"], FIRST), (arrays.modalities["b"], SECOND),
        (arrays.target, TARGET), (arrays.split, split), (arrays.group, group),
    ]:  # fmt: skip
        np.testing.assert_array_equal(found, expected)
    assert (len(arrays), arrays.num_classes, arrays.class_names) == (6, 3, ("0", "1", "2"))


def test_labels_splits_and_groups_may_be_words(tmp_path: Path) -> None:
    path = save(
        tmp_path / "x.npz",
        target=None,
        label=np.array(["dog", "cat", "dog", "cat", "cow", "cow"]),
        part=np.array(["train", "train", "test", "test", "val", "train"]),
        who=np.array(["x", "y", "x", "y", "z", "z"]),
    )
    arrays = read_arrays(path, ("b", "a"), "label", "part", "who")
    assert arrays.class_names == ("cat", "cow", "dog")
    assert arrays.target.tolist() == [2, 0, 2, 0, 1, 1]
    assert arrays.split is not None
    assert arrays.group is not None
    assert arrays.split.tolist() == [0, 0, 1, 1, 2, 0]
    assert arrays.group.tolist() == [0, 1, 0, 1, 2, 2]


def test_numbers_of_classes_may_have_gaps(tmp_path: Path) -> None:
    arrays = read_arrays(save(tmp_path / "x.npz", target=TARGET * 10 - 5), ("a",))
    assert arrays.target.tolist() == TARGET.tolist()
    assert arrays.class_names == ("-5", "5", "15")


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", b=np.full(6, np.nan), c=np.array([None] * 6, object))
    assert list(read_arrays(path, ("a",)).modalities) == ["a"]
    assert array_names(path) == ["a", "b", "target", "c"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target": None}, "no array 'target'; it has a, b"),
        ({"a": None}, "no array 'a'; it has b, target"),
        ({"a": FIRST[:4]}, r"'a' has the shape \(4, 2\) for 6 targets"),
        ({"a": np.float32(1)}, r"'a' has the shape \(\) for 6 targets"),
        ({"a": FIRST[:, :0]}, "'a' is empty"),
        ({"a": FIRST * np.nan}, "a holds values that are not finite"),
        ({"a": FIRST.astype(np.float64) * 1e30}, "'a' holds values that are not finite, or beyond"),
        ({"a": np.array(["x"] * 6)}, "a is <U1"),
        ({"a": np.array([{}] * 6, object)}, r"damaged, or not a \.npz of plain arrays"),
        ({"target": TARGET.astype(float)}, "target is float64"),
        ({"target": TARGET[:, None]}, r"target is int64 \(6, 1\)"),
        ({"target": TARGET * 0}, "1 classes, expected 2 to 10,000"),
        ({"split": np.array([0, 1, 2, 3, 0, 0])}, "'split' holds 3, expected 0"),
        ({"split": np.array([0, 1, 2, 258, 0, 0])}, "'split' holds 127, expected 0"),
        ({"split": np.array(["train"] * 5 + ["dev"])}, "a split is 'dev', expected train"),
        ({"group": np.arange(5)}, r"'group' has the shape \(5,\) for 6 targets"),
    ],
)
def test_faults_are_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    path = save(tmp_path / "x.npz", **changes)
    with pytest.raises(FileError, match=says) as told:
        read_arrays(path, ("a", "b"))
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["target", "split", "group"])
def test_labels_are_no_inputs(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "x.npz", **{name: TARGET % 3})
    with pytest.raises(FileError, match=f"'{name}' is to be a modality, and classes, splits"):
        read_arrays(path, ("a", name))
    assert list(read_arrays(path, ("a",)).modalities) == ["a"]


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", "longdouble"])
def test_numbers_are_those_of_this_machine(tmp_path: Path, dtype: str) -> None:
    found = read_arrays(save(tmp_path / "x.npz", a=FIRST.astype(dtype)), ("a",)).modalities["a"]
    assert found.dtype.isnative
    assert found.dtype.itemsize <= 8
    np.testing.assert_array_equal(found, FIRST)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"x\.npz is missing; expected a \.npz with an array"):
        read_arrays(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and nothing")
    with pytest.raises(FileError, match=r"x\.npz: damaged, or not a \.npz"):
        read_arrays(tmp_path / "x.npz")


def test_nothing_unsound_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the targets are not 0, 1, 2, \.\.\. without gaps"):
        write_arrays(tmp_path / "x.npz", PairedArrays({"a": FIRST}, TARGET * 2))
    assert list(tmp_path.iterdir()) == []
