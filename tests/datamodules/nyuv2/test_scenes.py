from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.datamodules.nyuv2.camera import (
    NYU_CAMERA,
    every,
    positions,
    read_depth,
    write_depth,
)
from ntdh_bench.datamodules.nyuv2.scenes import (
    check_scenes,
    find_scenes,
    part_folder,
    prepared_scenes,
    read_rgb,
)
from ntdh_bench.datamodules.nyuv2.voxels import (
    GRID,
    IGNORED,
    downsampled,
    read_voxels,
    write_voxels,
)
from ntdh_bench.datamodules.store import Arrays
from ntdh_bench.datasets import write_marker
from ntdh_bench.errors import UserError
from tests.datamodules.nyuv2.tsdf import flipped_tsdf

POSE = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]])
ORIGIN = np.array([-2.4, 0.0, -0.05])


def write_scene(folder: Path, number: int = 1) -> None:
    """A floor, a wall 3 m ahead, and a cube of furniture before it."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(GRID, dtype=np.uint8)
    labels[:, :, 152:] = IGNORED
    labels[:, :, 150:152] = 3
    labels[:, :2, :150] = 2
    labels[100:140, 2:50, 100:140] = 11
    name = f"NYU{number:04d}_0000"
    write_voxels(folder / f"{name}.bin", ORIGIN, POSE, labels)
    rays = (np.arange(480)[:, None] - NYU_CAMERA.row) / NYU_CAMERA.focal
    floor = 1.21 / np.maximum(rays, 1e-6)
    depth = np.broadcast_to(np.minimum(3.01, floor), (480, 640)).copy()
    depth[305:, 216:424] = 2.01
    depth[:20] = 0
    write_depth(folder / f"{name}.png", np.rint(1000 * depth).astype(np.uint16))
    colours = np.random.default_rng(number).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / f"{name}_rgb.png")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root") / "nyu_ssc"
    for number, part in ((1, "NYUtrain"), (2, "NYUtrain"), (3, "NYUtest")):
        write_scene(folder / part, number)
    return folder


@pytest.fixture
def scenes(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "nyu_ssc"))


@pytest.fixture
def packed(published: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a scene as DDRNet's release has it, with arrays replaced or (None) left out."""

    def write(**replaced: Any) -> Path:
        (scene, _) = find_scenes(published / "NYUtrain")
        arrays = scene.read(1)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        rgb = (arrays["rgb"] / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
        tsdf = np.select([arrays["occluded"], arrays["evaluated"]], [-0.001, 1], 0.001)
        content = {
            "rgb": rgb.astype(np.float32),
            "depth": (arrays["depth"] / 1000)[None],
            "tsdf_lr": tsdf.astype(np.float32),
            "target_lr": arrays["target"],
            "position": np.maximum(arrays["position"], 0),
            **replaced,
        }
        folder = tmp_path / "packed" / "nyu_ssc" / "NYUtrain_npz"
        folder.mkdir(parents=True, exist_ok=True)
        kept: dict[str, Any] = {key: value for key, value in content.items() if value is not None}
        np.savez(folder / "NYU0001_0000.npz", **kept)
        return folder.parent

    return write


@pytest.mark.parametrize(("scale", "stride"), [(1.0, 1), (0.5, 2), (0.25, 4)])
def test_prepared(published: Path, tmp_path: Path, scale: float, stride: int) -> None:
    arrays = prepared_scenes(published, tmp_path, "train", scale=scale)
    assert arrays.names == ["NYU0001_0000", "NYU0002_0000"]
    size, grid = (480 // stride, 640 // stride), (60 // stride, 36 // stride, 60 // stride)
    assert {kind: arrays[kind].shape for kind in ("rgb", "depth", "position", "target")} == {
        "rgb": (2, 3, *size), "depth": (2, *size), "position": (2, *size), "target": (2, *grid)
    }  # fmt: skip
    path = published / "NYUtrain" / "NYU0001_0000.bin"
    depth, volume = read_depth(path.with_suffix(".png")), read_voxels(path)
    assert np.array_equal(arrays["depth"][0], every(depth, stride))
    target = arrays["target"][0]
    assert np.array_equal(target, downsampled(volume.classes(), 4 * stride))
    # Every pixel falls into the voxel it falls into at full size.
    fine = np.unravel_index(np.maximum(positions(depth / 1000, POSE, ORIGIN), 0), GRID)
    coarse = tuple(4 * side for side in grid)
    flat = np.ravel_multi_index(tuple(axis // stride for axis in fine), coarse)
    seen = arrays["position"][0] >= 0
    assert seen.mean() > 0.8
    assert np.array_equal(arrays["position"][0][seen], every(flat, stride)[seen])
    assert 0 <= arrays["position"][0].max() < np.prod(coarse)
    occluded, evaluated = arrays["occluded"][0], arrays["evaluated"][0]
    assert occluded.dtype == np.bool_
    assert not (occluded & ~evaluated).any()
    assert set(np.unique(target[evaluated & ~occluded])) <= {0, 2, 3, 10}
    # The cube is hidden by its front.
    cube = (slice(28, 32), slice(0, 12), slice(28, 36))
    inside = tuple(slice(cut.start // stride, cut.stop // stride) for cut in cube)
    assert occluded[inside].mean() > 0.9
    # So is what lies behind the wall, of which nothing is known.
    assert (target[evaluated] == IGNORED).any()


def test_colours_are_averaged(published: Path) -> None:
    path = published / "NYUtrain" / "NYU0001_0000_rgb.png"
    full, half = read_rgb(path, (480, 640)), read_rgb(path, (240, 320))
    assert np.array_equal(full.transpose(1, 2, 0), np.asarray(Image.open(path)))
    mean = full.reshape(3, 240, 2, 320, 2).mean((2, 4))
    assert np.abs(half - mean).max() <= 1


def test_the_cache_is_used_and_follows_the_files(scenes: Path, tmp_path: Path) -> None:
    def digest(**options: Any) -> str:
        return prepared_scenes(scenes, tmp_path / "cache", "test", **options).digest

    first = digest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ntdh_bench.datamodules.nyuv2.scenes.read_voxels", None)
        assert digest() == first
    assert digest(scale=0.25) != first
    assert digest(rgb=False) != first
    write_scene(scenes / "NYUtest", 7)
    assert digest() != first
    arrays = prepared_scenes(scenes, tmp_path / "cache", "test")
    again = pickle.loads(pickle.dumps(arrays))
    assert isinstance(again, Arrays)
    assert np.array_equal(again["target"], arrays["target"])


@pytest.mark.parametrize(
    "name",
    ["NYU0003_rgb.png", "NYU0003_0000_rgb.jpg", "NYU0003_0000_color.jpg", "NYU0003_0000.jpg"],
)
def test_names_of_the_colours(scenes: Path, name: str) -> None:
    part = scenes / "NYUtest"
    (part / "NYU0003_0000_rgb.png").unlink()
    Image.new("RGB", (640, 480)).save(part / name)
    (scene,) = find_scenes(part)
    assert scene.files[-1] == part / name


def test_colours_of_the_labelled_pairs_serve(scenes: Path, tmp_path: Path) -> None:
    (scenes / "NYUtest" / "NYU0003_0000_rgb.png").unlink()
    with pytest.raises(UserError, match=r"NYU0003_0000_rgb\.png is missing, and so is .*0003\.png"):
        prepared_scenes(scenes, tmp_path / "cache", "test")
    assert len(prepared_scenes(scenes, tmp_path / "cache", "test", rgb=False)) == 1
    pairs = tmp_path / "nyuv2" / "prepared" / "rgb"
    pairs.mkdir(parents=True)
    Image.new("RGB", (320, 240), "red").save(pairs / "0003.jpg")
    arrays = prepared_scenes(scenes, tmp_path / "cache", "test", scale=0.5)
    assert arrays["rgb"][0, :, 0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)
    with pytest.raises(UserError, match=r"0003\.jpg: 320x240, expected 640x480 or more"):
        prepared_scenes(scenes, tmp_path / "cache", "test")


def test_smaller_colours_of_the_pairs_name_the_flag(scenes: Path, tmp_path: Path) -> None:
    (scenes / "NYUtest" / "NYU0003_0000_rgb.png").unlink()
    pairs = tmp_path / "nyuv2" / "prepared" / "rgb"
    pairs.mkdir(parents=True)
    Image.new("RGB", (320, 240)).save(pairs / "0003.png")
    remedy = r"delete .*prepared and run `ntdh-bench data prepare nyuv2 --full_size`"
    with pytest.raises(UserError, match=remedy):
        prepared_scenes(scenes, tmp_path / "cache", "test")
    _, test = check_scenes(tmp_path)
    assert test.state == "incomplete"
    assert "--full_size" in test.note
    Image.new("RGB", (320, 241)).save(pairs / "0003.png")
    _, test = check_scenes(tmp_path)
    assert test.state == "corrupt"


def test_hidden_files_are_no_scenes(scenes: Path, packed: Callable[..., Path]) -> None:
    for path in list((scenes / "NYUtest").iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (scenes / "NYUtest" / ".DS_Store").write_bytes(b"")
    assert [scene.name for scene in find_scenes(scenes / "NYUtest")] == ["NYU0003_0000"]
    folder = packed() / "NYUtrain_npz"
    (folder / "._NYU0001_0000.npz").write_bytes(b"\0\5\x16\7")
    (folder / "._NYU0002_0000.npz").write_bytes(b"\0\5\x16\7")
    assert [scene.name for scene in find_scenes(folder)] == ["NYU0001_0000"]


def test_missing_partners(scenes: Path, tmp_path: Path) -> None:
    for ending, partner in ((".png", ".bin"), (".bin", ".png")):
        file = scenes / "NYUtrain" / f"NYU0002_0000{ending}"
        kept = file.rename(tmp_path / "kept")
        message = rf"NYU0002_0000\{ending} is missing \(1 of 2 in all\), though its \{partner}"
        with pytest.raises(UserError, match=message):
            prepared_scenes(scenes, tmp_path, "train")
        kept.rename(file)
    for path in (scenes / "NYUtest").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"NYUtest: neither NYUNNNN_0000\.bin nor \.npz"):
        prepared_scenes(scenes, tmp_path, "test")
    shutil.rmtree(scenes)
    with pytest.raises(UserError, match=r"nyu_ssc/\{NYUtrain,NYUtrain_npz\}.*simulated"):
        prepared_scenes(scenes, tmp_path, "train")


def test_broken_files_are_named(scenes: Path, tmp_path: Path) -> None:
    part = scenes / "NYUtest"
    write_depth(part / "NYU0003_0000.png", np.ones((240, 320), dtype=np.uint16))
    with pytest.raises(UserError, match=r"NYU0003_0000\.png: 320x240"):
        prepared_scenes(scenes, tmp_path, "test")
    write_scene(part, 3)
    Image.new("RGB", (600, 480)).save(part / "NYU0003_0000_rgb.png")
    with pytest.raises(UserError, match=r"NYU0003_0000_rgb\.png: 600x480, expected 640x480"):
        prepared_scenes(scenes, tmp_path, "test")
    (part / "NYU0003_0000_rgb.png").write_bytes(b"none")
    with pytest.raises(UserError, match=r"NYU0003_0000_rgb\.png: damaged, or not a"):
        prepared_scenes(scenes, tmp_path, "test")
    with pytest.raises(UserError, match=r"data\.scale is 0\.3"):
        prepared_scenes(scenes, tmp_path, "test", scale=0.3)
    assert not list(tmp_path.glob("nyuv2/scenes-test-*"))


def test_packed_scenes(packed: Callable[..., Path], published: Path, tmp_path: Path) -> None:
    folder = packed()
    assert part_folder(folder, "train").name == "NYUtrain_npz"
    arrays = prepared_scenes(folder, tmp_path, "train")
    expected = find_scenes(published / "NYUtrain")[0].read(1)
    for kind, array in expected.items():
        assert np.array_equal(arrays[kind][0], array), kind


def test_packed_scenes_with_a_fine_tsdf_only(packed: Callable[..., Path], tmp_path: Path) -> None:
    coarse = prepared_scenes(packed(), tmp_path, "train")
    tsdf = np.select([coarse["occluded"][0], coarse["evaluated"][0]], [-0.001, 1], 0.001)
    fine = np.kron(tsdf, np.ones((4, 4, 4))).astype(np.float32)[..., None]
    again = prepared_scenes(packed(tsdf_lr=None, tsdf_hr=fine), tmp_path, "train")
    for kind in ("occluded", "evaluated", "target"):
        assert np.array_equal(again[kind], coarse[kind])


def assert_both_routes_agree(packed: Callable[..., Path], voxels: Path, arrays: Arrays) -> None:
    """The masks of ``.bin`` and depth are those of SSCNet's TSDF in DDRNet's layout."""
    folder = packed(
        tsdf_lr=None, tsdf_hr=flipped_tsdf(voxels)[..., None], target_lr=arrays["target"][0]
    )
    (scene,) = find_scenes(folder / "NYUtrain_npz")
    published = scene.read(1)
    for kind in ("occluded", "evaluated"):
        assert published[kind].any()
        assert (published[kind] == arrays[kind][0]).mean() > 0.9999


def test_unknown_depth_is_not_scored_by_either_route(
    packed: Callable[..., Path], published: Path, scenes: Path, tmp_path: Path
) -> None:
    path = scenes / "NYUtest" / "NYU0003_0000.bin"
    whole = prepared_scenes(scenes, tmp_path, "test")["evaluated"][0]
    depth = read_depth(path.with_suffix(".png"))
    depth[100:300, 50:300] = 0  # a hole
    write_depth(path.with_suffix(".png"), depth)
    holed = prepared_scenes(scenes, tmp_path, "test")
    assert holed["evaluated"].sum() < whole.sum() - 100
    assert not (holed["evaluated"][0] & ~whole).any()
    assert_both_routes_agree(packed, path, holed)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"depth": None}, "no array depth"),
        ({"tsdf_lr": None}, "tsdf_hr"),
        ({"target_lr": np.zeros((60, 36, 59), np.uint8)}, r"target_lr is uint8 \(60, 36, 59\)"),
        ({"target_lr": np.full((60, 36, 60), 12, np.uint8)}, "target_lr holds values"),
        ({"position": np.full((480, 640), 8_294_400)}, "position holds values"),
        ({"depth": np.full((1, 480, 640), np.nan)}, "depth holds values"),
        ({"rgb": np.full((3, 480, 640), np.inf)}, "rgb holds values"),
        ({"rgb": np.full((3, 480, 640), "x")}, r"rgb is <U1"),
        ({"tsdf_lr": np.full((60, 36, 60), np.nan)}, "tsdf_lr holds values that are not finite"),
        ({"rgb": np.array([{}])}, r"damaged, or not"),
    ],
)
def test_broken_packed_scenes(
    packed: Callable[..., Path], tmp_path: Path, replaced: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=rf"NYU0001_0000\.npz: .*({message})"):
        prepared_scenes(packed(**replaced), tmp_path, "train")


def test_packed_scenes_that_are_no_archives(packed: Callable[..., Path], tmp_path: Path) -> None:
    folder = packed()
    with pytest.raises(UserError, match=r"NYU0001_0000\.npz: has no coarser targets"):
        prepared_scenes(folder, tmp_path, "train", scale=0.5)
    path = folder / "NYUtrain_npz" / "NYU0001_0000.npz"
    content = path.read_bytes()
    for broken in (b"", b"no archive", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(
            UserError, match=r"NYU0001_0000\.npz: damaged, or not a \.npz of plain arrays"
        ):
            prepared_scenes(folder, tmp_path, "train")
    with zipfile.ZipFile(path, "w") as archive:  # an array cut off
        archive.writestr("rgb.npy", _npy(np.zeros((3, 480, 640), np.float32))[:1000])
    with pytest.raises(UserError, match=r"NYU0001_0000\.npz: rgb is not of the size"):
        prepared_scenes(folder, tmp_path, "train")


def _npy(array: NDArray[Any]) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_checks(scenes: Path, tmp_path: Path) -> None:
    train, test = check_scenes(tmp_path)
    assert (train.state, test.state) == ("incomplete", "incomplete")
    assert train.path == scenes / "NYUtrain"
    assert train.note == "2 scenes, all decoded; published: 795"
    write_marker(scenes, {})
    assert [check.state for check in check_scenes(tmp_path)] == ["ok"] * 2
    bin_file = scenes / "NYUtest" / "NYU0003_0000.bin"
    bin_file.write_bytes(bin_file.read_bytes()[:-4])
    shutil.rmtree(scenes / "NYUtrain")
    train, test = check_scenes(tmp_path)
    assert (train.state, test.state) == ("missing", "corrupt")
    assert "NYU0003_0000.bin" in test.note


def test_a_real_scene(data_root: Path, tmp_path: Path, packed: Callable[..., Path]) -> None:
    sample = data_root / "nyu_ssc" / "NYUtrain-like"
    if not sample.is_dir():
        pytest.skip(f"no {sample}")
    folder = tmp_path / "nyu_ssc"
    folder.mkdir()
    (folder / "NYUtest").symlink_to(sample)
    arrays = prepared_scenes(folder, tmp_path / "cache", "test", rgb=False)
    assert arrays.names == ["NYU0001_0000"]
    assert arrays["evaluated"].sum() > arrays["occluded"].sum() > 4000
    assert_both_routes_agree(packed, sample / "NYU0001_0000.bin", arrays)
    if (data_root / "nyuv2" / "prepared").is_dir():
        (tmp_path / "nyuv2").symlink_to(data_root / "nyuv2")
        assert prepared_scenes(folder, tmp_path / "cache", "test", scale=0.5)["rgb"].mean() > 50


def test_a_scene_of_both_parts_is_refused(scenes: Path, tmp_path: Path) -> None:
    for path in (scenes / "NYUtrain").glob("NYU0002_*"):
        shutil.copy(path, scenes / "NYUtest")
    message = r"NYU0002_0000 lies in .*NYUtest and in .*NYUtrain \(1 scenes do\): keep each in one"
    with pytest.raises(UserError, match=message):
        prepared_scenes(scenes, tmp_path / "cache", "test", scale=0.25)
    assert {check.state for check in check_scenes(scenes.parent)} == {"corrupt"}


def test_a_camera_that_sees_nothing_of_its_volume_is_refused(scenes: Path, tmp_path: Path) -> None:
    path = scenes / "NYUtest" / "NYU0003_0000.bin"
    volume = read_voxels(path)
    away = volume.pose.copy()
    away[0, 3] = 1e4
    write_voxels(path, volume.origin, away, volume.labels())
    with pytest.raises(UserError, match=r"NYU0003_0000.bin: no pixel of .* falls into its volume"):
        prepared_scenes(scenes, tmp_path / "cache", "test", scale=0.25)
