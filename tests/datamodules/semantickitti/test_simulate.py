from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.tree import DecisionTreeClassifier

from ntdh_bench.datamodules.raycast import cast, rotation
from ntdh_bench.datamodules.semantickitti import simulate
from ntdh_bench.datamodules.semantickitti.labels import RAW_TO_CLASS, UNKNOWN
from ntdh_bench.datamodules.semantickitti.projection import project
from ntdh_bench.datamodules.semantickitti.reader import (
    read_calibration,
    read_classes,
    read_image,
    read_scan,
)
from ntdh_bench.datamodules.semantickitti.simulate import Rig, look, write_simulated
from ntdh_bench.datamodules.semantickitti.street import Street
from ntdh_bench.datasets import MARKER
from ntdh_bench.errors import UserError
from tests.datamodules.files import digests

SMALL = Rig((92, 306), beams=32, azimuths=600)
SEQUENCES = ("00", "08", "10")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 training frames of a quarter of the size, and 4 each for test and validation."""
    root = tmp_path_factory.mktemp("street")
    write_simulated(root, frames=14, rig=SMALL)
    return root / "semantickitti"


def in_view(sequence: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, 4), classes (N,) and colours (N, 3) of the points that the image shows."""
    points = read_scan(sequence / "velodyne" / f"{name}.bin")
    classes = read_classes(sequence / "labels" / f"{name}.label", len(points))
    image = read_image(sequence / "image_2" / f"{name}.png")
    matrix = torch.from_numpy(read_calibration(sequence / "calib.txt"))
    view = project(torch.from_numpy(points), matrix, image.shape[:2])
    point, pixel = view.point[view.nearest].numpy(), view.pixel[view.nearest].numpy()
    return points[point], classes[point], image.reshape(-1, 3)[pixel]


def whole(sequence: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    names = sorted(path.stem for path in (sequence / "velodyne").iterdir())
    parts = [in_view(sequence, name) for name in names]
    points, classes, colours = (np.concatenate(part) for part in zip(*parts, strict=True))
    return points, classes, colours


def test_files_are_marked_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_simulated(tmp_path / name, frames=3, seed=seed, rig=SMALL)
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    scans = [name for name in first if "velodyne" in name or "image_2" in name]
    assert all(first[name] != other[name] for name in scans)
    assert len({first[name] for name in scans}) == len(scans)
    folder = tmp_path / "a" / "semantickitti"
    assert {path.parent.name for path in folder.rglob(MARKER)} == {"semantickitti", "sequences"}
    written = {name.removeprefix("semantickitti/sequences/") for name in first} - {MARKER}
    lengths = {"00": 3, "08": 1, "10": 1}
    expected = {
        f"{sequence}/{kind}/{number:06d}{ending}"
        for sequence, length in lengths.items()
        for number in range(length)
        for kind, ending in (
            ("velodyne", ".bin"), ("labels", ".label"), ("image_2", ".png"),
            ("image_2_labels", ".png"),
        )
    }  # fmt: skip
    calibrations = {f"{sequence}/calib.txt" for sequence in SEQUENCES}
    assert written == expected | calibrations | {f"semantickitti/{MARKER}"}


def test_no_frames_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 simulated frames"):
        write_simulated(tmp_path, frames=0)
    assert not list(tmp_path.iterdir())


def test_a_shorter_run_leaves_no_old_frames(tmp_path: Path) -> None:
    write_simulated(tmp_path / "a", frames=4, seed=1, rig=SMALL)
    for name in ("a", "b"):
        write_simulated(tmp_path / name, frames=1, rig=SMALL)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_smaller_sensors_keep_their_geometry() -> None:
    half = Rig.scaled(0.5)
    assert half == Rig((185, 613), beams=64, azimuths=900)
    assert Rig.scaled(1.0) == Rig()
    np.testing.assert_allclose(half.projection("P2")[0] * 2, Rig().projection("P2")[0])


def test_files_are_what_the_reader_expects(small: Path) -> None:
    for sequence in SEQUENCES:
        folder = small / "sequences" / sequence
        points, classes, colours = in_view(folder, "000000")
        assert np.isfinite(points).all()
        assert 0 <= points[:, 3].min() < points[:, 3].max() < 1
        assert 500 < len(points) == len(classes) == len(colours)
        raw = np.fromfile(folder / "labels" / "000000.label", dtype="<u4")
        thing = np.isin(RAW_TO_CLASS[raw & 0xFFFF], range(1, 9))
        assert ((raw >> 16 > 0) == thing)[RAW_TO_CLASS[raw & 0xFFFF] > 0].all()
        assert len(np.unique(raw >> 16)) > 5
        dense = np.asarray(Image.open(folder / "image_2_labels" / "000000.png"))
        assert dense.shape == SMALL.size
        assert (RAW_TO_CLASS[dense] != UNKNOWN).all()


def test_scan_is_that_of_the_published_sensor() -> None:
    view = look(Street(40, np.random.default_rng(0)), 0, Rig(), np.random.default_rng(0))
    distance = np.linalg.norm(view.points[:, :3], axis=1)
    elevation = np.degrees(np.arcsin(view.points[:, 2] / distance))
    assert 95_000 < len(view.points) < 120_000
    assert -25 < elevation.min() < -24
    assert 1.5 < elevation.max() < 2.1
    assert distance.max() < 165
    road = RAW_TO_CLASS[view.labels & 0xFFFF] == 9
    assert np.median(view.points[road, 2]) == pytest.approx(-1.73, abs=0.1)


def test_calibration_is_scaled_with_the_image(tmp_path: Path) -> None:
    (tmp_path / "calib.txt").write_text(Rig().calibration())
    (tmp_path / "half.txt").write_text(Rig((185, 613)).calibration())
    full, half = (read_calibration(tmp_path / name) for name in ("calib.txt", "half.txt"))
    np.testing.assert_allclose(half, np.diag([0.5, 0.5, 1]) @ full, rtol=1e-9)
    keys = [line.split(":")[0] for line in Rig().calibration().splitlines()]
    assert keys == ["P0", "P1", "P2", "P3", "Tr"]


def test_calibration_is_kittis(data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "calib.txt").write_text(Rig().calibration())
    published = read_calibration(data_root / "semantickitti" / "sequences" / "07" / "calib.txt")
    np.testing.assert_array_equal(read_calibration(tmp_path / "calib.txt"), published)


@pytest.mark.parametrize("rig", [Rig(), SMALL], ids=["full", "small"])
def test_labels_and_image_agree_except_at_occlusion_edges(rig: Rig) -> None:
    random = np.random.default_rng(1)
    solids = simulate._nearby(Street(80, random), 40, random)
    pose, origin = rotation(0.02, 0.004, -0.003), np.array([40, -1.9, 1.73])
    camera = rig.camera(pose, origin)
    points, labels = simulate._scan(rig.lidar(pose, origin), solids, random)
    _, image_labels = simulate._photograph(camera, solids, random)
    depth, _ = cast(camera, solids)

    world = origin + points[:, :3] @ pose.T
    u, v, w = camera.matrix @ np.vstack([world.T, np.ones(len(world))])
    learnt = (w > 0) & (RAW_TO_CLASS[labels & 0xFFFF] > 0)
    row, column = (np.full(len(points), -1) for _ in range(2))
    row[learnt], column[learnt] = v[learnt] // w[learnt], u[learnt] // w[learnt]
    height, width = rig.size
    inside = learnt & (row >= 1) & (row < height - 1) & (column >= 1) & (column < width - 1)
    row, column, w = row[inside], column[inside], w[inside]
    near = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    seen = np.array([RAW_TO_CLASS[image_labels[row + a, column + b]] for a, b in near])
    own = RAW_TO_CLASS[labels[inside] & 0xFFFF]
    at_pixel = seen[len(near) // 2] == own
    beside = (seen == own).any(axis=0)
    hidden = depth[row, column] < w - 0.3
    assert inside.sum() > 800
    assert at_pixel.mean() > 0.95
    assert (beside | hidden).mean() > 0.998


def test_at_least_eight_classes_are_frequent(small: Path) -> None:
    for sequence in SEQUENCES:
        _, classes, _ = whole(small / "sequences" / sequence)
        share = np.bincount(classes, minlength=20) / len(classes)
        assert (share[1:] >= 0.01).sum() >= 8
        assert share.max() < 0.5
        assert share[0] < 0.05


def test_both_modalities_are_informative_but_not_trivial(small: Path) -> None:
    train, test = (whole(small / "sequences" / name) for name in ("00", "08"))
    majority = np.bincount(train[1]).argmax()
    baseline = (test[1] == majority).mean()
    for feature in (0, 2):
        tree = DecisionTreeClassifier(min_samples_leaf=20, random_state=0)
        accuracy = tree.fit(train[feature], train[1]).score(test[feature], test[1])
        assert baseline + 0.1 < accuracy < 0.85
