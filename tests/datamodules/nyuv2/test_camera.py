from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.datamodules.nyuv2.camera import (
    FREE,
    NYU_CAMERA,
    OCCLUDED,
    OUTSIDE,
    SURFACE,
    Camera,
    coarser_state,
    every,
    positions,
    read_depth,
    scored,
    tsdf_state,
    visibility,
    write_depth,
)
from ntdh_bench.datamodules.nyuv2.voxels import GRID, IGNORED, downsampled, read_voxels
from ntdh_bench.errors import UserError

# The camera looks along world y: its x is world x, its y points down.
POSE = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
SMALL = (6, 8, 10)
TINY = Camera(focal=20, column=8, row=6)


def tilted(random: np.random.Generator) -> NDArray[np.float64]:
    pose = POSE.copy()
    pose[:3, :3] += 0.1 * random.standard_normal((3, 3))
    pose[:3, 3] = 0.1 * random.standard_normal(3)
    return pose


def naive_positions(
    metres: NDArray[np.float64], pose: NDArray[np.float64], origin: NDArray[np.float64]
) -> NDArray[np.int64]:
    result = np.full(metres.shape, -1)
    for (row, column), depth in np.ndenumerate(metres):
        camera = [(column - 8) * depth / 20, (row - 6) * depth / 20, depth, 1]
        x, y, up = np.floor(((pose @ camera)[:3] - origin) / 0.1).astype(int)
        if depth and 0 <= x < 6 and 0 <= up < 8 and 0 <= y < 10:
            result[row, column] = (x * 8 + up) * 10 + y
    return result


def test_depth_is_rotated_in_the_file(tmp_path: Path) -> None:
    millimetres = np.array([[0, 1, 1000, 8192], [9000, 65535, 4321, 7]], dtype=np.uint16)
    write_depth(tmp_path / "a.png", millimetres)
    raw = np.asarray(Image.open(tmp_path / "a.png"))
    assert raw[0].tolist() == [0, 8, 8000, 1]
    assert np.array_equal((raw >> 3) | (raw << 13) & 0xFFFF, millimetres)
    assert np.array_equal(read_depth(tmp_path / "a.png", (2, 4)), millimetres)


def test_broken_depth(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(UserError, match=r"a\.png is missing"):
        read_depth(path)
    write_depth(path, np.zeros((240, 320), dtype=np.uint16))
    with pytest.raises(UserError, match=r"a\.png: 320x240, .*expected 16-bit grey 640x480"):
        read_depth(path)
    Image.new("L", (640, 480)).save(path)
    with pytest.raises(UserError, match=r"a\.png: 640x480, mode L, expected 16-bit"):
        read_depth(path)
    write_depth(path, np.ones((480, 640), dtype=np.uint16))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"a\.png: damaged, or not a"):
        read_depth(path)
    Image.fromarray(np.full((480, 640), 70_000, np.int32)).save(path, format="TIFF")
    with pytest.raises(UserError, match=r"a\.png: damaged, or not a PNG image"):
        read_depth(path)
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.png: damaged, or not a"):
        read_depth(path)


def test_positions_against_a_loop() -> None:
    random = np.random.default_rng(0)
    pose, origin = tilted(random), np.array([-0.3, 0.1, -0.35])
    metres = random.uniform(0, 1.3, (12, 16)) * (random.random((12, 16)) < 0.9)
    found = positions(metres, pose, origin, TINY, SMALL, 0.1)
    expected = naive_positions(metres, pose, origin)
    assert found.dtype == np.int32
    assert np.array_equal(found, expected)
    assert 20 < (expected >= 0).sum() < 170


def test_a_known_position() -> None:
    metres = np.zeros((480, 640))
    metres[240, 320] = 1.001
    found = positions(metres, POSE, np.array([-0.01, 0.0, -0.03]))
    assert found[240, 320] == np.ravel_multi_index((0, 1, 50), GRID)
    assert (found >= 0).sum() == 1


@pytest.mark.parametrize("stride", [2, 4])
def test_a_coarser_image_sees_the_same_points(stride: int) -> None:
    random = np.random.default_rng(0)
    pose, origin = tilted(random), np.array([-2.4, 0, -1.4])
    metres = random.uniform(0.5, 5, (480, 640))
    coarse = positions(every(metres, stride), pose, origin, NYU_CAMERA.every(stride))
    assert coarse.shape == (480 // stride, 640 // stride)
    assert np.array_equal(coarse, every(positions(metres, pose, origin), stride))


def test_what_a_wall_hides() -> None:
    metres = np.full((12, 16), 0.55)
    metres[:, :4] = 0
    origin = np.array([-0.5, -0.2, -0.4])
    grid = (10, 8, 12)
    state = visibility(metres, POSE, origin, TINY, grid, 0.1)
    ahead = state[5, 4]  # along world y from -0.2; the wall is at 0.55, the camera at 0
    assert ahead.tolist() == [OUTSIDE] * 3 + [FREE] * 4 + [SURFACE] + [OCCLUDED] * 4
    unknown = state[1, 4]  # at x = -0.4, seen only by pixels without depth
    assert set(unknown.tolist()) == {OUTSIDE}
    assert (state == SURFACE).sum() == len(
        set(positions(metres, POSE, origin, TINY, grid, 0.1)[:, 4:].ravel()) - {-1}
    )


def test_visibility_against_a_loop() -> None:
    random = np.random.default_rng(1)
    pose, origin = tilted(random), np.array([-0.3, -0.1, -0.35])
    metres = random.uniform(0.4, 1.2, (12, 16)) * (random.random((12, 16)) < 0.8)
    metres[3] = 8.1
    surface = naive_positions(metres, pose, origin)
    found = visibility(metres, pose, origin, TINY, SMALL, 0.1)
    for flat, (x, up, y) in enumerate(np.ndindex(*SMALL)):
        corner = origin + 0.1 * np.array([x, y, up])
        right, down, deep = (np.linalg.inv(pose) @ [*corner, 1])[:3]
        column, row = round(20 * right / deep + 8), round(20 * down / deep + 6)
        seen = deep > 0 and 0 <= column < 16 and 0 <= row < 12
        if flat in surface:
            expected = SURFACE
        elif not seen or not 0.5 <= metres[row, column] <= 8:
            expected = OUTSIDE
        else:
            expected = OCCLUDED if deep > metres[row, column] else FREE
        assert found[x, up, y] == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({OUTSIDE: 64}, OUTSIDE),
        ({OUTSIDE: 63, FREE: 1}, FREE),
        ({FREE: 63, OCCLUDED: 1}, OCCLUDED),
        ({FREE: 62, SURFACE: 2}, OCCLUDED),
        ({FREE: 61, SURFACE: 3}, SURFACE),
        ({SURFACE: 64}, SURFACE),
    ],
)
def test_the_state_of_a_block(counts: dict[int, int], expected: int) -> None:
    fine = np.repeat(list(counts), list(counts.values())).astype(np.uint8)
    shuffled = np.random.default_rng(0).permutation(fine).reshape(4, 4, 4)
    assert coarser_state(shuffled).item() == expected


def test_where_results_count() -> None:
    masks = scored(np.array([OUTSIDE, FREE, OCCLUDED, SURFACE], dtype=np.uint8))
    assert masks["occluded"].tolist() == [False, False, True, False]
    assert masks["evaluated"].tolist() == [False, False, True, True]


def test_agrees_with_published_code(golden: Path) -> None:
    with np.load(golden / "nyu_ssc_data.npz", allow_pickle=False) as expected:
        (focal, _, column), (_, _, row), _ = expected["proj.in_cam_k"]
        found = positions(
            expected["proj.in_depth"],
            expected["proj.in_cam_pose"].astype(np.float64),
            expected["proj.in_vox_origin"].astype(np.float64),
            Camera(focal, column, row),
        )
        floored = expected["proj.position_floor_sscnet_convention"]
        assert np.array_equal(np.maximum(found, 0), floored)
        assert (found != 0).all()  # 0 is a voxel, and not what lies outside
        rounded = expected["proj.position_rint_waterljwant"]
        assert (found[floored > 0] != rounded[floored > 0]).mean() > 0.5

        state = coarser_state(tsdf_state(expected["in_tsdf_hr"]))
        tsdf, target = expected["tsdf_lr"], expected["label_lr"]
        assert np.array_equal(state, tsdf_state(tsdf))
        occluded, evaluated = scored(state).values()
        # Of ignored voxels DDRNet's mask has those of the surface; its scores leave them out.
        known = target != IGNORED
        assert np.array_equal(evaluated & known, (expected["nonempty2"] == 1) & known)
        assert np.array_equal(occluded, evaluated & (tsdf <= 0))
        # Its other mask is cut to the box around the surface.
        box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(state == SURFACE))
        boxed = np.zeros_like(evaluated)
        boxed[box] = state[box] >= OCCLUDED
        assert np.array_equal(boxed, expected["nonempty"] == 1)


def test_a_real_scene(data_root: Path) -> None:
    path = data_root / "nyu_ssc" / "NYUtrain-like" / "NYU0001_0000.bin"
    if not path.is_file():
        pytest.skip(f"no {path}")
    volume, depth = read_voxels(path), read_depth(path.with_suffix(".png"))
    classes = volume.classes()
    found = positions(depth / 1000, volume.pose, volume.origin)
    inside = found[found >= 0]
    assert len(inside) > 0.95 * (depth > 0).sum()
    labelled = np.pad((classes > 0) & (classes < IGNORED), 3)
    # Voxels no more than 6 cm, three of them, away.
    ball = [shift for shift in product(range(-3, 4), repeat=3) if np.square(shift).sum() <= 9]
    index = np.stack(np.unravel_index(inside, GRID)) + 3
    near = np.any([labelled[tuple(index + np.reshape(shift, (3, 1)))] for shift in ball], axis=0)
    assert near.mean() == pytest.approx(0.936, abs=0.005)

    target = downsampled(classes)
    state = coarser_state(visibility(depth / 1000, volume.pose, volume.origin))
    known = target != IGNORED
    # What the camera sees through is empty; what it sees is not.
    assert (target[known & (state == FREE)] > 0).mean() < 0.05
    assert (target[known & (state == SURFACE)] > 0).mean() > 0.7
    assert 0.3 < (target[known & (state == OCCLUDED)] > 0).mean() < 0.8
