"""Wiki, BDGP and Houston: vectors in MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from ntdh_bench.datamodules.pairs import bdgp, houston_hsi_lidar, wiki
from ntdh_bench.datamodules.pairs.arrays import PairedArrays, read_arrays
from ntdh_bench.errors import LONGEST, FileError
from tests.datamodules.pairs.layouts import write_houston, write_wiki
from tests.typed import some


def _equal(found: PairedArrays, expected: PairedArrays) -> None:
    assert found.modalities.keys() == expected.modalities.keys()
    for name, array in expected.modalities.items():
        np.testing.assert_array_equal(found.modalities[name], array, name)
        assert found.modalities[name].dtype == array.dtype
    np.testing.assert_array_equal(found.target, expected.target)
    np.testing.assert_array_equal(some(found.split), some(expected.split))
    assert found.group is None
    assert expected.group is None


def _published(root: Path, name: str) -> PairedArrays:
    return read_arrays(root / "pairs" / f"{name}.npz")


def test_wiki_is_read_as_published(data_root: Path, tmp_path: Path) -> None:
    expected = _published(data_root, "wiki")
    write_wiki(tmp_path, expected)
    _equal(wiki.read(tmp_path), expected)
    np.testing.assert_allclose(expected.modalities["image"].sum(1), 1, atol=1e-6)


def test_houston_is_read_as_published(data_root: Path, tmp_path: Path) -> None:
    expected = _published(data_root, "houston_hsi_lidar")
    write_houston(tmp_path, expected)
    _equal(houston_hsi_lidar.read(tmp_path), expected)  # its split as well: the rows drawn


def test_bdgp_is_read_as_published(data_root: Path, tmp_path: Path) -> None:
    expected = _published(data_root, "bdgp")
    visual, text = (expected.modalities[name] for name in ("visual", "text"))
    _write_bdgp(tmp_path, {"X1": visual, "X2": text, "Y": expected.target[None]})
    _equal(bdgp.read(tmp_path), expected)
    # The counts that the rows of length 1 are made of.
    least = np.where(visual > 0, visual, np.inf).min(1, keepdims=True)
    counts = np.round(visual / least)
    _write_bdgp(tmp_path, {"X1": counts, "X2": text, "Y": expected.target[None]})
    found = bdgp.read(tmp_path).modalities["visual"]
    np.testing.assert_array_max_ulp(found, visual, 2)


def _write_bdgp(folder: Path, values: dict[str, Any]) -> None:
    scipy.io.savemat(folder / "BDGP.mat", values, do_compression=True)


def _bdgp() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    visual = random.integers(0, 5, (20, 1750)).astype(np.float64)
    visual[3] = 0
    return visual, random.integers(0, 2, (20, 79)), np.arange(20) % 5


def test_bdgp_is_told_by_its_sides(tmp_path: Path) -> None:
    visual, text, target = _bdgp()
    length = np.linalg.norm(visual, axis=1, keepdims=True)
    expected = (visual / np.where(length > 0, length, 1)).astype(np.float32)
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = text.T.astype(np.uint8), visual.T
    for values in (
        {"X1": visual, "X2": text, "Y": target[None]},
        {"truth": target[:, None] + 1, "data": cells},
    ):
        _write_bdgp(tmp_path, values)
        found = bdgp.read(tmp_path)
        np.testing.assert_array_equal(found.modalities["visual"], expected)
        np.testing.assert_array_equal(found.modalities["text"], text.astype(np.float32))
        np.testing.assert_array_equal(found.target, target)
        assert found.fault() is None


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("X1", "no matrix of 1,750 values a sample"),
        ("X2", "no matrix of 79 values a sample"),
        ("Y", "20 rows of visual words, 20 of text, and no labels"),
    ],
)
def test_bdgp_says_what_it_lacks(tmp_path: Path, drop: str, message: str) -> None:
    values = dict(zip(("X1", "X2", "Y"), _bdgp(), strict=True))
    del values[drop]
    _write_bdgp(tmp_path, values)
    with pytest.raises(FileError, match=message):
        bdgp.read(tmp_path)


def test_bdgp_refuses_other_classes(tmp_path: Path) -> None:
    visual, text, target = _bdgp()
    _write_bdgp(tmp_path, {"X1": visual, "X2": text, "Y": target[None] % 4})
    with pytest.raises(FileError, match="the labels are not 5 classes from 0 or 1"):
        bdgp.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "module"), [("wiki", wiki), ("bdgp", bdgp), ("houston", houston_hsi_lidar)]
)
def test_a_missing_file_is_one_line(name: str, module: Any, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"\.mat is missing; expected ") as told:
        module.read(tmp_path)
    assert len(str(told.value)) <= LONGEST


def test_rows_of_two_files_go_together(tmp_path: Path) -> None:
    houston_hsi_lidar.write_simulated(tmp_path, 0)
    folder = tmp_path / "HSI_LiDAR_FC"
    scipy.io.savemat(folder / "TrLabel.mat", {"TrLabel": np.ones((899, 1))})
    with pytest.raises(FileError, match=r"900 rows in HSI_TrSet\.mat.*899 in TrLabel\.mat"):
        houston_hsi_lidar.read(tmp_path)
    labels = np.repeat(np.arange(1, 16), 60)
    for shape in ((1, 900), (900, 1)):
        scipy.io.savemat(folder / "TrLabel.mat", {"TrLabel": labels.reshape(shape)})
        assert houston_hsi_lidar.read(tmp_path).target.tolist() == (labels - 1).tolist()
    wiki.write_simulated(tmp_path, 0)
    path = tmp_path / "testset_txt_img_cat.list"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(FileError, match=r"I_te has 300 rows, T_te 300, testset.*299"):
        wiki.read(tmp_path)
    for line in ("a b", "a b 3x", "a b c 3", "a b 11", "a b \u00b2", f"a b {'9' * 400}"):
        path.write_text("\n".join([line, *lines[1:]]))
        with pytest.raises(FileError, match=r"testset.*\.list: (a line|the labels)"):
            wiki.read(tmp_path)
