from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntdh_bench.datamodules.semantickitti import reader
from ntdh_bench.datamodules.semantickitti.labels import RAW_TO_CLASS
from ntdh_bench.datamodules.semantickitti.reader import (
    image_size,
    read_calibration,
    read_classes,
    read_dense_classes,
    read_image,
    read_scan,
    scan_length,
)
from ntdh_bench.errors import UserError
from tests.datamodules.semantickitti.files import P2, POINTS, SIZE, TR, read_raw


def test_scan_and_labels(sequence: Path) -> None:
    points, labels = read_raw(sequence)
    scan = sequence / "velodyne" / "000000.bin"
    assert np.array_equal(read_scan(scan), points)
    assert scan_length(scan) == POINTS
    classes = read_classes(sequence / "labels" / "000000.label", POINTS)
    assert np.array_equal(classes, RAW_TO_CLASS[labels & 0xFFFF])
    assert (labels >> 16).any()


def test_points_that_are_not_finite_keep_their_place(tmp_path: Path) -> None:
    points = np.array([[np.nan, 0, 0, 0], [1, 2, np.inf, 0], [1, 2, 3, 0.5]], dtype="<f4")
    points.tofile(tmp_path / "scan.bin")
    assert np.array_equal(read_scan(tmp_path / "scan.bin"), points, equal_nan=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty scan"), (b"x" * 40, "40 bytes, expected a multiple of 16"), (b"x", "1 bytes")],
)
def test_broken_scan(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "scan.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"scan\.bin: {message}"):
        read_scan(path)


def test_a_file_of_another_format_is_no_scan(tmp_path: Path, sequence: Path) -> None:
    points, _ = read_raw(sequence)
    path = tmp_path / "scan.bin"
    with path.open("wb") as file:
        np.save(file, points)
    assert path.stat().st_size % 16 == 0
    for read in (read_scan, scan_length):
        with pytest.raises(UserError, match=r"scan\.bin: a file of another format"):
            read(path)
    path.write_bytes(b"some words, again and again. " * 16)
    with pytest.raises(UserError, match=r"scan\.bin: no point is within 1000 m"):
        read_scan(path)


def test_a_huge_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "scan.bin"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(UserError, match="bytes, expected at most 32000000"):
        read_scan(path)
    with pytest.raises(UserError, match="bytes, expected 400"):
        read_classes(path, 100)
    with pytest.raises(UserError, match="expected at most 65536"):
        read_calibration(path)


def test_labels_of_another_length(sequence: Path) -> None:
    with pytest.raises(UserError, match=r"000000\.label: 6000 bytes, expected 6004"):
        read_classes(sequence / "labels" / "000000.label", POINTS + 1)


def test_label_outside_the_map(tmp_path: Path) -> None:
    path = tmp_path / "a.label"
    np.array([10, 7 | 3 << 16, 7, 40], dtype="<u4").tofile(path)
    with pytest.raises(UserError, match=r"a\.label: label 7 \(2 times an unknown one\)"):
        read_classes(path, 4)


def test_missing_files(tmp_path: Path) -> None:
    for read in (read_scan, read_calibration, image_size, read_image):
        with pytest.raises(UserError, match=r"/none is missing"):
            read(tmp_path / "none")  # type: ignore[operator]


def test_odometry_calibration(sequence: Path) -> None:
    camera = np.array(P2.split(), dtype=float).reshape(3, 4)
    lidar = np.vstack([np.array(TR.split(), dtype=float).reshape(3, 4), [0, 0, 0, 1]])
    assert np.allclose(read_calibration(sequence / "calib.txt"), camera @ lidar)


def test_object_calibration(tmp_path: Path) -> None:
    turn = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]])
    path = tmp_path / "000000.txt"
    values = " ".join(map(str, turn.flatten()))
    path.write_text(f"P2: {P2}\nR0_rect: {values}\nTr_velo_to_cam: {TR}\n\n")
    homogeneous = np.eye(4)
    homogeneous[:3, :3] = turn
    lidar = np.vstack([np.array(TR.split(), dtype=float).reshape(3, 4), [0, 0, 0, 1]])
    expected = np.array(P2.split(), dtype=float).reshape(3, 4) @ homogeneous @ lidar
    assert np.allclose(read_calibration(path), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"Tr: {TR}", "no P2"),
        (f"P2: {P2}", "no Tr"),
        (f"P2: {P2}\nTr_velo_to_cam: {TR}", "no R0_rect"),
        (f"P2: {P2} 1\nTr: {TR}", "P2 is not the 12 numbers"),
        (f"P2: {P2}\nTr: {TR.replace('-0.08', 'x')}", "Tr is not the 12 numbers"),
        (f"P2: {P2}\nTr: {TR.replace('-0.08', 'nan')}", "Tr holds values that are not finite"),
        ("\0\xff", "not UTF-8 text"),
        (f"P2: {P2}\nTr: {' '.join(['0'] * 12)}", "Tr is no rotation"),
        (f"P2: {P2}\nTr: {TR.replace('-0.08', '1e308')}", "Tr holds values that are not finite or"),
        (f"P2: {' '.join(['0'] * 12)}\nTr: {TR}", "P2 is no projection"),
        (f"P2: {P2.replace('0', '9')}\nTr: {TR}", "P2 "),
    ],
)
def test_broken_calibration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "calib.txt"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=rf"calib\.txt: {message}"):
        read_calibration(path)


def test_image(sequence: Path) -> None:
    path = sequence / "image_2" / "000000.png"
    assert image_size(path) == SIZE
    image = read_image(path)
    assert image.shape == (*SIZE, 3)
    assert tuple(image[7, 100]) == (100, 7, 0)
    half = read_image(path, (20, 60))
    assert half.shape == (20, 60, 3)
    assert abs(int(half[3, 50, 0]) - 100.5) <= 0.5


def test_broken_image(tmp_path: Path, sequence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = sequence / "image_2" / "000000.png"
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"cut\.png: damaged, or not a PNG image"):
        read_image(cut)
    cut.write_text("no image")
    with pytest.raises(UserError, match=r"cut\.png: damaged, or not a PNG image"):
        image_size(cut)
    monkeypatch.setattr(reader, "MAX_PIXELS", 100)
    with pytest.raises(UserError, match="120x40 pixels, expected at most 100"):
        read_image(good)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dense_labels(tmp_path: Path, dtype: Any) -> None:
    raw = np.array([[10, 40, 44], [81, 0, 252]], dtype=dtype)
    path = tmp_path / "dense.png"
    Image.fromarray(raw).save(path)
    assert np.array_equal(read_dense_classes(path, (2, 3), (2, 3)), RAW_TO_CLASS[raw])
    assert read_dense_classes(path, (2, 3), (1, 3)).tolist() == [[19, 0, 1]]
    with pytest.raises(UserError, match=r"3x2, mode .*, expected grey 3x3"):
        read_dense_classes(path, (3, 3), (3, 3))
    Image.fromarray(np.full((2, 3), 9, dtype=dtype)).save(path)
    with pytest.raises(UserError, match="label 9 "):
        read_dense_classes(path, (2, 3), (2, 3))


@pytest.mark.parametrize("mode", ["RGB", "LA", "P", "1"])
def test_dense_labels_that_are_not_grey(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "dense.png"
    Image.new(mode, (3, 2)).save(path)
    with pytest.raises(UserError, match=f"mode {mode}, expected grey"):
        read_dense_classes(path, (2, 3), (2, 3))


@pytest.mark.parametrize("format", ["TIFF", "JPEG", "GIF", "EPS"])
def test_images_of_another_format_are_not_opened(tmp_path: Path, format: str) -> None:
    path = tmp_path / "dense.png"
    Image.new("L", (3, 2)).save(path, format=format)
    for read in (image_size, read_image, lambda file: read_dense_classes(file, (2, 3), (2, 3))):
        with pytest.raises(UserError, match=r"dense\.png: damaged, or not a PNG image"):
            read(path)


def test_real_scans(data_root: Path) -> None:
    folder = data_root / "semantickitti" / "sequences" / "07"
    if not folder.is_dir():
        pytest.skip("no sequence 07")
    scan = sorted((folder / "velodyne").glob("*.bin"))[0]
    points = read_scan(scan)
    classes = read_classes(folder / "labels" / f"{scan.stem}.label", len(points))
    assert np.isfinite(points).all()
    assert np.linalg.norm(points[:, :3], axis=1).max() < 130
    assert np.bincount(classes, minlength=20)[[1, 9, 13]].min() > 1000
