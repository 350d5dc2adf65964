from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from ntdh_bench.datamodules.nyuv2.matfile import LabelledMat, read_class_map, read_split
from ntdh_bench.errors import UserError
from tests.datamodules.nyuv2.files import SIZE, SPLIT, class_map, pair


def test_reads_what_was_published(mat: Path) -> None:
    source = LabelledMat(mat)
    assert source.size == SIZE
    assert source.split == SPLIT
    for index in range(1, 6):
        for found, expected in zip(source.read(index), pair(index), strict=True):
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
    names = ["nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"]
    assert source.files([1, 2]) == [mat / name for name in names]


def replace(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("depths", None), r"no variable 'depths'; fetch"),
        (replace("labels", np.zeros((5, 16, 12), "f4")), r"labels is float32 .* unsigned integers"),
        (replace("depths", np.zeros((5, 12, 16), "f4")), r"depths is float32 \(5, 12, 16\)"),
        (replace("depths", np.zeros((4, 16, 12), "f4")), r"depths .* \(N, width, height\), sizes"),
        (replace("images", np.zeros((5, 16, 12, 3), "u1")), r"images is uint8 \(5, 16, 12, 3\)"),
        (replace("images", np.zeros((5, 3, 16, 12), "u2")), r"images is uint16"),
        (replace("images", h5py.ExternalLink("x.h5", "images")), r"no variable 'images'"),
        (replace("images", h5py.SoftLink("/labels")), r"no variable 'images'"),
    ],
)
def test_variables(mat: Path, change: Callable[[h5py.File], None], message: str) -> None:
    with h5py.File(mat / "nyu_depth_v2_labeled.mat", "r+") as file:
        change(file)
    with pytest.raises(UserError, match=r"nyu_depth_v2_labeled\.mat: " + message):
        LabelledMat(mat)


def test_huge_variables_are_not_read(mat: Path) -> None:
    with h5py.File(mat / "nyu_depth_v2_labeled.mat", "r+") as file:
        del file["images"]
        file.create_dataset("images", (5, 3, 1 << 16, 1 << 16), "u1", chunks=(1, 1, 64, 64))
    with pytest.raises(UserError, match="images is uint8"):
        LabelledMat(mat)


def test_other_storage(mat: Path) -> None:
    (mat / "secret").write_bytes(bytes(5 * 16 * 12 * 2))
    with h5py.File(mat / "nyu_depth_v2_labeled.mat", "r+") as file:
        del file["labels"]
        outside = [(str(mat / "secret"), 0, 5 * 16 * 12 * 2)]
        file.create_dataset("labels", (5, 16, 12), "u2", external=outside)
    with pytest.raises(UserError, match="no variable 'labels'"):
        LabelledMat(mat)


def test_a_raw_class_above_894(mat: Path) -> None:
    with h5py.File(mat / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["labels"][2, 0, 0] = 895
    with pytest.raises(UserError, match=r"labeled\.mat: a label above 894 in pair 3"):
        LabelledMat(mat).read(3)


def test_damaged_data(mat: Path) -> None:
    path = mat / "nyu_depth_v2_labeled.mat"
    with h5py.File(path) as file:
        first = file["depths"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(first.byte_offset)
        raw.write(bytes(first.size))
    with pytest.raises(UserError, match=r"labeled\.mat: damaged, .* whose pair 1 can be read"):
        LabelledMat(mat).read(1)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_not_hdf5(mat: Path, content: bytes) -> None:
    (mat / "nyu_depth_v2_labeled.mat").write_bytes(content)
    with pytest.raises(UserError, match=r"labeled\.mat: damaged, or not a MATLAB 7\.3"):
        LabelledMat(mat)


def test_truncated(mat: Path) -> None:
    path = mat / "nyu_depth_v2_labeled.mat"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"labeled\.mat: damaged, or not a MATLAB 7\.3"):
        LabelledMat(mat)


@pytest.mark.parametrize("name", ["nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"])
def test_a_missing_file(mat: Path, name: str) -> None:
    (mat / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing; fetch nyu_depth_v2_labeled"):
        LabelledMat(mat)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([1, 6], [2], r"index 6 of 'train' \(1 in all\) has no pair: there are 1\.\.5"),
        ([1], [0, -3], r"index 0 of 'test' \(2 in all\)"),
        ([1, 2], [3, 2], "index 2 is there twice"),
        ([1, 1], [3], "index 1 is there twice"),
        ([1.5], [3], "trainNdxs are not whole numbers"),
        ([], [3], "'train' is empty"),
        ([1] * 10_001, [3], r"trainNdxs has 10001 values, at most 10000"),
        (["one"], [3], "trainNdxs is no array of real numbers"),
    ],
)
def test_split(tmp_path: Path, train: list[Any], test: list[Any], message: str) -> None:
    path = tmp_path / "splits.mat"
    columns = {"trainNdxs": np.array(train)[:, None], "testNdxs": np.array(test)[:, None]}
    scipy.io.savemat(path, columns)
    with pytest.raises(UserError, match=r"splits\.mat: .*" + message):
        read_split(path, 5)


def test_a_split_without_a_variable(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "splits.mat", {"trainNdxs": [[1]]})
    with pytest.raises(UserError, match=r"splits\.mat: no variable 'testNdxs'"):
        read_split(tmp_path / "splits.mat", 5)


@pytest.mark.parametrize("length", [0, 100, 200])
def test_a_damaged_split(mat: Path, length: int) -> None:
    path = mat / "splits.mat"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"splits\.mat: damaged, or not a MATLAB 5 file"):
        read_split(path, 5)


def test_class_map(mat: Path) -> None:
    table = read_class_map(mat / "classMapping40.mat")
    assert table.dtype == np.uint8
    assert table[0] == 0
    assert np.array_equal(table[1:], class_map())


@pytest.mark.parametrize("classes", [np.ones(893), np.full(894, 41), np.zeros(894), np.empty(0)])
def test_a_wrong_class_map(tmp_path: Path, classes: Any) -> None:
    scipy.io.savemat(tmp_path / "classMapping40.mat", {"mapClass": classes})
    with pytest.raises(UserError, match=r"Mapping40\.mat: mapClass is not 894 numbers in 1\.\.40"):
        read_class_map(tmp_path / "classMapping40.mat")
