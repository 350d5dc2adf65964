from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ntdh_bench.datamodules.nyuv2.voxels import (
    CLASS_OF_LABEL,
    GRID,
    IGNORED,
    downsampled,
    over_blocks,
    read_voxels,
    write_voxels,
)
from ntdh_bench.errors import UserError

SMALL = (8, 4, 12)
POSE = np.array([[1, 0, 0, 0.5], [0, 0, 1, -1.25], [0, -1, 0, 1.5], [0, 0, 0, 1]])
ORIGIN = np.array([-1.5, 0.25, -0.0625])


def random_labels(seed: int, shape: tuple[int, int, int] = SMALL) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    values = np.array([*range(37), IGNORED], dtype=np.uint8)
    return np.repeat(random.choice(values, np.prod(shape)), 3)[: np.prod(shape)].reshape(shape)


def file_with(path: Path, *runs: tuple[int, int], pose: NDArray[np.float64] = POSE) -> Path:
    head = struct.pack("<19f", *ORIGIN, *pose.ravel())
    path.write_bytes(head + b"".join(struct.pack("<2I", *run) for run in runs))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    labels = random_labels(0)
    write_voxels(tmp_path / "a.bin", ORIGIN, POSE, labels)
    volume = read_voxels(tmp_path / "a.bin", SMALL)
    assert np.array_equal(volume.labels(), labels)
    assert np.array_equal(volume.classes(), CLASS_OF_LABEL[labels])
    assert np.array_equal(volume.pose, POSE)
    assert np.array_equal(volume.origin, ORIGIN)
    assert (volume.lengths > 0).all()


def test_the_published_layout(tmp_path: Path) -> None:
    path = file_with(tmp_path / "a.bin", (0, 300), (IGNORED, 80), (36, 4))
    volume = read_voxels(path, SMALL)
    flat = volume.classes().ravel()
    assert flat.tolist() == [0] * 300 + [IGNORED] * 80 + [11] * 4
    assert volume.classes()[-1, -1, -1] == 11
    write_voxels(tmp_path / "b.bin", ORIGIN, POSE, volume.labels())
    assert (tmp_path / "b.bin").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([(0, 383)], r"runs add up to 383 voxels, expected 384 \(8x4x12\)"),
        ([(0, 385)], "runs add up to 385"),
        ([(0, 384), (0, 2**32 - 1), (1, 2**32 - 1)], "runs add up to 8589934974"),
        ([(0, 384), (5, 1)], "runs add up to 385"),
        ([], "runs add up to 0"),
        ([(0, 383), (37, 1)], "label 37, expected 0 to 36 or 255"),
        ([(254, 384)], "label 254"),
        ([(256, 384)], "label 256"),
        ([(2**32 - 1, 384)], "label 4294967295"),
    ],
)
def test_broken_runs(tmp_path: Path, runs: list[tuple[int, int]], message: str) -> None:
    path = file_with(tmp_path / "a.bin", *runs)
    with pytest.raises(UserError, match=rf"a\.bin: .*{message}"):
        read_voxels(path, SMALL)


@pytest.mark.parametrize("size", [0, 75, 83, 87])
def test_a_file_of_another_length(tmp_path: Path, size: int) -> None:
    path = file_with(tmp_path / "a.bin", (0, 300), (1, 84))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=rf"a\.bin: {size} bytes, expected 76 and 8 for each"):
        read_voxels(path, SMALL)


def test_trailing_bytes_and_huge_files_are_refused(tmp_path: Path) -> None:
    path = file_with(tmp_path / "a.bin", (0, 384))
    path.write_bytes(path.read_bytes() + b"xyz")
    with pytest.raises(UserError, match=r"a\.bin: 87 bytes"):
        read_voxels(path, SMALL)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(UserError, match="1099511627776 bytes, expected at most 66355276"):
        read_voxels(path)
    with pytest.raises(UserError, match=r"none\.bin is missing"):
        read_voxels(tmp_path / "none.bin")


def test_a_pose_that_is_none(tmp_path: Path) -> None:
    for pose, message in (
        (np.full((4, 4), np.nan), "not finite"),
        (np.zeros((4, 4)), "not one of a camera"),
        (np.diag([1.0, 1, 0, 1]), "not one of a camera"),
        (np.diag([1.0, 1, 3, 1]), "not one of a camera"),
        (np.eye(4) + 1e30 * np.eye(4, k=3), "not one of a camera"),
    ):
        path = file_with(tmp_path / "a.bin", (0, 384), pose=pose)
        with pytest.raises(UserError, match=rf"a\.bin: .*{message}"):
            read_voxels(path, SMALL)


def naive(classes: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    result = np.zeros([side // factor for side in classes.shape], dtype=np.uint8)
    for place in np.ndindex(result.shape):
        cube = classes[tuple(slice(factor * at, factor * (at + 1)) for at in place)].ravel()
        empty, ignored = (cube == 0).sum(), (cube == IGNORED).sum()
        if empty + ignored > 0.95 * factor**3:
            result[place] = 0 if empty > ignored else IGNORED
        else:
            result[place] = np.bincount(cube[(cube > 0) & (cube < IGNORED)]).argmax()
    return result


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_downsampling_against_its_rule(factor: int) -> None:
    random = np.random.default_rng(factor)
    shape = (32, 16, 48)
    # Sparse voxels around the threshold, and large cubes that are all alike.
    fill = random.choice(np.array([0, IGNORED, 3, 11], dtype=np.uint8), (8, 4, 12))
    classes = np.kron(fill, np.ones((4, 4, 4), dtype=np.uint8))
    some = random.random(shape) < random.choice([0, 0.03, 0.06, 0.5], shape[:1])[:, None, None]
    drawn = random.choice(np.array([*range(12), IGNORED], dtype=np.uint8), shape)
    classes = np.where(some, drawn, classes)
    result = downsampled(classes, factor)
    assert result.dtype == np.uint8
    assert np.array_equal(result, naive(classes, factor))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({0: 60, 7: 4}, 7),
        ({0: 61, 7: 3}, 0),
        ({0: 30, IGNORED: 31, 7: 3}, IGNORED),
        ({0: 32, IGNORED: 32}, IGNORED),
        ({0: 33, IGNORED: 31}, 0),
        ({0: 40, 9: 12, 2: 12}, 2),
        ({IGNORED: 64}, IGNORED),
        ({5: 64}, 5),
    ],
)
def test_one_block(counts: dict[int, int], expected: int) -> None:
    cube = np.repeat(list(counts), list(counts.values())).astype(np.uint8)
    shuffled = np.random.default_rng(0).permutation(cube).reshape(4, 4, 4)
    assert downsampled(shuffled).item() == expected


def test_over_blocks() -> None:
    array = np.random.default_rng(0).integers(0, 9, (8, 4, 12), dtype=np.uint8)
    cubes = array.reshape(2, 4, 1, 4, 3, 4)
    assert np.array_equal(over_blocks(np.maximum, array, 4), cubes.max((1, 3, 5)))
    assert np.array_equal(over_blocks(np.minimum, array, 4), cubes.min((1, 3, 5)))


def test_the_classes_of_the_labels() -> None:
    # door, chair, side table, computer, night stand, tvs, dont_care
    assert CLASS_OF_LABEL[[5, 6, 10, 16, 27, 33, 36]].tolist() == [11, 5, 8, 9, 10, 9, 11]
    assert set(CLASS_OF_LABEL[:37].tolist()) == set(range(12))


def test_agrees_with_published_code(golden: Path, tmp_path: Path) -> None:
    with np.load(golden / "nyu_ssc_data.npz", allow_pickle=False) as expected:
        path = tmp_path / "a.bin"
        path.write_bytes(expected["in_bin_bytes"].tobytes())
        x, up, y = expected["in_voxel_size"].tolist()
        volume = read_voxels(path, (x, up, y))
        runs = np.stack([volume.values, volume.lengths], axis=1).ravel()
        assert np.array_equal(volume.origin, expected["vox_origin"])
        assert np.array_equal(volume.pose, expected["cam_pose"])
        assert np.array_equal(runs, expected["rle"])
        assert np.array_equal(CLASS_OF_LABEL[:37], expected["seg_class_map"])
        assert np.array_equal(volume.classes(), expected["label_hr_12cls"])
        assert np.array_equal(downsampled(volume.classes()), expected["label_lr"])


def test_a_real_volume(data_root: Path, tmp_path: Path) -> None:
    path = data_root / "nyu_ssc" / "NYUtrain-like" / "NYU0001_0000.bin"
    if not path.is_file():
        pytest.skip(f"no {path}")
    volume = read_voxels(path)
    assert volume.lengths.sum() == np.prod(GRID) == 240 * 144 * 240
    write_voxels(tmp_path / "again.bin", volume.origin, volume.pose, volume.labels())
    assert np.array_equal(read_voxels(tmp_path / "again.bin").labels(), volume.labels())
    classes = volume.classes()
    target = downsampled(classes)
    assert target.shape == (60, 36, 60)
    assert np.array_equal(target[20:30, :20, 20:34], naive(classes[80:120, :80, 80:136], 4))
    # A kitchen: ceiling, floor, wall, chairs, tables, furniture and objects.
    assert np.unique(target).tolist() == [0, 1, 2, 3, 5, 8, 10, 11, IGNORED]
