from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ntdh_bench.datamodules.semantickitti.projection import (
    CHANNEL_MEAN,
    CHANNEL_STD,
    channels,
    project,
)
from ntdh_bench.datamodules.semantickitti.reader import read_calibration, read_image, read_scan

SIZE = (24, 62)
# Looks along x: pixel = (31 - 40 y / x, 12 - 40 z / x).
MATRIX = torch.tensor([[31.0, -40, 0, 0], [12, 0, -40, 0], [1, 0, 0, 0]], dtype=torch.float64)


def at(depth: float, column: float, row: float, remission: float = 0.5) -> list[float]:
    """The point that falls on (column, row) at a depth."""
    return [depth, (31 - column) * depth / 40, (12 - row) * depth / 40, remission]


def test_pixels_and_index() -> None:
    points = torch.tensor([at(10, 3.4, 5.9), at(-10, 3.4, 5.9), at(5, 61.9, 23.9), at(5, 0.1, 0.1)])
    view = project(points, MATRIX, SIZE)
    assert view.point.tolist() == [0, 2, 3]
    assert view.pixel.tolist() == [5 * 62 + 3, 23 * 62 + 61, 0]
    assert view.nearest.all()


@pytest.mark.parametrize(
    ("column", "row"), [(-0.1, 5), (62.1, 5), (5, -0.1), (5, 24.1), (-0.9, -0.9)]
)
def test_outside_the_image(column: float, row: float) -> None:
    assert not len(project(torch.tensor([at(10, column, row)]), MATRIX, SIZE).point)


def test_nearest_wins_whatever_the_order() -> None:
    points = torch.tensor([at(20, 5.2, 5.2), at(10, 5.7, 5.7), at(30, 5.5, 5.5), at(9, 8.5, 5.5)])
    for order in ([0, 1, 2, 3], [2, 1, 0, 3], [1, 2, 3, 0]):
        view = project(points[order], MATRIX, SIZE)
        shown = points[order][view.point[view.nearest]][:, 0]
        assert sorted(shown.tolist()) == [9, 10]


def test_of_equal_depths_the_first_wins() -> None:
    points = torch.tensor([at(10, 5.5, 5.5, 0.1), at(10, 5.5, 5.5, 0.2), at(10, 5.5, 5.5, 0.3)])
    assert project(points, MATRIX, SIZE).nearest.tolist() == [True, False, False]


def test_points_that_are_not_finite_are_dropped() -> None:
    good = at(10, 5.5, 5.5)
    bad = [
        [value if i == column else kept for i, kept in enumerate(good)]
        for column in range(4)
        for value in (np.nan, np.inf, -np.inf)
    ]
    points = torch.tensor([good, *bad, [3e38, 1e38, 1e38, 0.5]])
    view = project(points, MATRIX, SIZE)
    assert view.point.tolist() == [0]


@pytest.mark.parametrize("rows", [[], [[-5.0, 1, 0, 0.5], [-50.0, 1, 0, 0.5], [0.0, 0, 0, 0]]])
def test_nothing_in_view(rows: list[list[float]]) -> None:
    points = torch.tensor(rows).reshape(-1, 4)
    view = project(points, MATRIX, SIZE)
    assert not len(view.point)


def test_channels() -> None:
    points = torch.tensor([[3.0, 4, 12, 0.5]])
    expected = (np.array([13, 3, 4, 12, 0.5]) - CHANNEL_MEAN) / np.array(CHANNEL_STD)
    assert np.allclose(channels(points)[:, 0], expected, atol=1e-6)


def random_scan(seed: int, size: int = 3000) -> Tensor:
    low, high = torch.tensor([-20.0, -20, -3, 0]), torch.tensor([40.0, 20, 3, 1])
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(size, 4, generator=generator)


def test_z_buffer_against_a_loop() -> None:
    points = random_scan(5)
    view = project(points, MATRIX, SIZE)
    depth = points[view.point, 0]
    best: dict[int, int] = {}
    for row, pixel in enumerate(view.pixel.tolist()):
        if pixel not in best or depth[row] < depth[best[pixel]]:
            best[pixel] = row
    assert set(view.nearest.nonzero().flatten().tolist()) == set(best.values())
    assert not view.nearest.all()


def test_golden(golden: Path) -> None:
    with np.load(golden / "kitti_projection.npz", allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in arrays if name != "_src"}
    points = torch.from_numpy(data["in_points"])
    matrix = torch.from_numpy(data["in_P2"] @ data["in_Tr"])
    view = project(points, matrix, SIZE)
    depth = data["camera_depth"]
    for case, behind, before in (("ntdh_x>0", 2, 0), ("pmf_x>0.5", 0, 1)):
        theirs = np.flatnonzero(data[f"{case}.keep_mask"])
        front = depth[theirs] > 0
        assert (~front).sum() == behind  # they keep points behind the camera
        assert len(set(view.point.tolist()) - set(theirs.tolist())) == before  # or miss some
        shared = np.isin(view.point, theirs)
        assert np.array_equal(view.point[shared], theirs[front])
        pixel = data[f"{case}.rowcol"][front].astype(int) @ [SIZE[1], 1]
        assert np.array_equal(view.pixel[shared], pixel)
        # Where one point falls on a pixel, so that order means nothing, all channels agree.
        image = np.zeros((5, SIZE[0] * SIZE[1]), dtype=np.float32)
        image[:, view.pixel[view.nearest]] = channels(points[view.point[view.nearest]])
        mine, count = np.unique(view.pixel, return_counts=True)
        hit, times = np.unique(
            data[f"{case}.rowcol"].astype(int) @ [SIZE[1], 1], return_counts=True
        )
        alone = np.intersect1d(mine[count == 1], hit[times == 1])
        expected = data[f"{case}.normalised5"].reshape(5, -1)
        assert len(alone) > 250
        assert np.allclose(image[:, alone], expected[:, alone], atol=1e-6)
        # Elsewhere the last in the file stands there, and ours is never further away.
        many = np.intersect1d(mine[count > 1], hit)
        assert (image[0, many] < expected[0, many] - 1e-6).any()
        assert (image[1, many] <= expected[1, many] + 1e-6).all()


def test_real_geometry(data_root: Path) -> None:
    folder = data_root / "kitti_object" / "training"
    if not folder.is_dir():
        pytest.skip("no kitti_object")
    points = torch.from_numpy(read_scan(folder / "velodyne" / "000000.bin"))
    matrix = torch.from_numpy(read_calibration(folder / "calib" / "000000.txt"))
    height, width, _ = read_image(folder / "image_2" / "000000.png").shape
    view = project(points, matrix, (height, width))
    assert (len(points), height, width, len(view.point)) == (115_384, 370, 1224, 20_285)
    assert view.nearest.sum() > 0.99 * len(view.point)
    # The ground lies in the lower half, and nearer points lie lower.
    ground = points[view.point, 2] < -1.5
    rows = view.pixel // width
    assert rows[ground].min() > height / 2
    assert (
        torch.corrcoef(torch.stack([rows[ground], points[view.point[ground], 0].long()]))[0, 1]
        < -0.8
    )


def test_real_labelled_scan(data_root: Path) -> None:
    folder = data_root / "semantickitti" / "sequences" / "07"
    if not (folder / "velodyne" / "000964.bin").is_file():
        pytest.skip("no frame 000964 of sequence 07")
    points = torch.from_numpy(read_scan(folder / "velodyne" / "000964.bin"))
    matrix = torch.from_numpy(read_calibration(folder / "calib.txt"))
    assert len(project(points, matrix, (370, 1226)).point) == 16_850
