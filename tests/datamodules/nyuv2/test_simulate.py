from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import recall_score
from sklearn.tree import DecisionTreeClassifier

from ntdh_bench.datamodules.nyuv2 import simulate
from ntdh_bench.datamodules.nyuv2.camera import IMAGE_SIZE, positions, read_depth
from ntdh_bench.datamodules.nyuv2.labels import NYU40_NAMES, SSC_NAMES
from ntdh_bench.datamodules.nyuv2.pairs import PreparedFolder
from ntdh_bench.datamodules.nyuv2.rooms import MATERIALS, Room
from ntdh_bench.datamodules.nyuv2.simulate import look, volume_origin, voxelise, write_simulated
from ntdh_bench.datamodules.nyuv2.voxels import (
    CLASS_OF_LABEL,
    GRID,
    IGNORED,
    VOXEL_SIZE,
    downsampled,
    read_voxels,
)
from ntdh_bench.datamodules.raycast import Solids
from ntdh_bench.datasets import MARKER
from ntdh_bench.errors import UserError
from tests.datamodules.files import digests

SMALL = (60, 80)
# Class of scene completion of what a pixel shows.
CLASS_OF_PIXEL = np.zeros(len(NYU40_NAMES) + 1, dtype=np.uint8)
for _material in MATERIALS.values():
    CLASS_OF_PIXEL[_material.label] = CLASS_OF_LABEL[_material.voxel]


class Scene:
    """A room, what the camera sees of it, and its volume."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.room = Room.furnished(random)
        self.view = look(self.room, random)
        self.origin = volume_origin(self.view.pose)
        self.labels = voxelise(self.room, self.view.pose, self.origin)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [Scene(seed) for seed in range(12)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with three rooms to train and one to test."""
    root = tmp_path_factory.mktemp("rooms")
    write_simulated(root, rooms=3, size=SMALL)
    return root


def test_files_are_marked_and_the_same_for_the_same_seed(written: Path, tmp_path: Path) -> None:
    for name, seed in (("again", 0), ("other", 1)):
        write_simulated(tmp_path / name, rooms=3, seed=seed, size=SMALL)
    first = digests(written)
    assert first == digests(tmp_path / "again")
    other = digests(tmp_path / "other")
    views = [name for name in first if not name.endswith(".json")]
    assert all(first[name] != other[name] for name in views)
    assert len({first[name] for name in views}) == len(views)

    parts = {1: "NYUtrain", 2: "NYUtrain", 3: "NYUtrain", 4: "NYUtest"}
    expected = {
        f"nyu_ssc/{part}/NYU{number:04d}_0000{ending}"
        for number, part in parts.items()
        for ending in (".png", ".bin", "_rgb.jpg")
    } | {
        f"nyuv2/prepared/{kind}/{number:04d}.png"
        for number in parts
        for kind in ("rgb", "depth", "label40")
    }  # fmt: skip
    folders = ("nyuv2", "nyuv2/prepared", "nyu_ssc", "nyu_ssc/NYUtrain", "nyu_ssc/NYUtest")
    markers = {f"{folder}/{MARKER}" for folder in folders}
    assert set(first) == expected | markers | {"nyuv2/prepared/split.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rooms": 0}, "0 simulated rooms: expected 1 to 7000"),
        ({"rooms": 7001}, "7001 simulated rooms"),
        ({"size": (0, 80)}, "simulated pairs of 0x80"),
        ({"size": (480, 641)}, "simulated pairs of 480x641"),
    ],
)
def test_bad_arguments_write_nothing(
    tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write_simulated(tmp_path, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_shorter_run_leaves_no_old_files(written: Path, tmp_path: Path) -> None:
    for rooms in (4, 3):
        write_simulated(tmp_path, rooms=rooms, size=SMALL)
    assert digests(tmp_path) == digests(written)


def test_both_layouts_hold_the_same_rooms(written: Path) -> None:
    pairs = PreparedFolder(written / "nyuv2" / "prepared")
    assert pairs.split == {"train": [1, 2, 3], "test": [4]}
    assert pairs.size == SMALL
    depth = read_depth(written / "nyu_ssc" / "NYUtest" / "NYU0004_0000.png")
    np.testing.assert_array_equal(pairs.read(4).depth, depth[4::8, 4::8])
    volume = read_voxels(written / "nyu_ssc" / "NYUtest" / "NYU0004_0000.bin")
    np.testing.assert_allclose(volume.origin, volume_origin(volume.pose), atol=1e-5)
    with Image.open(written / "nyu_ssc" / "NYUtest" / "NYU0004_0000_rgb.jpg") as image:
        assert image.size == IMAGE_SIZE[::-1]
        small = np.asarray(image.resize(SMALL[::-1], Image.Resampling.BOX), dtype=float)
    assert np.abs(small - pairs.read(4).rgb).mean() < 8


def test_volume_lies_where_the_published_one_does(data_root: Path) -> None:
    volume = read_voxels(data_root / "nyu_ssc" / "NYUtrain-like" / "NYU0001_0000.bin")
    np.testing.assert_allclose(volume_origin(volume.pose), volume.origin, atol=1e-3)


def test_true_depth_lies_on_voxels_of_what_the_pixels_show(scenes: list[Scene]) -> None:
    for scene in scenes:
        flat = positions(scene.view.distance, scene.view.pose, scene.origin)[1::3, 1::3]
        label = scene.view.pair.label[1::3, 1::3]
        inside = flat >= 0
        assert inside.mean() > 0.95
        # What touches a point's own voxel is no further than a voxel's diagonal from the point.
        index = np.stack(np.unravel_index(flat[inside], GRID))
        steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3)).reshape(3, 27, 1)
        near = np.clip(index[:, None] + steps, 0, np.reshape(GRID, (3, 1, 1)) - 1)
        around = CLASS_OF_LABEL[scene.labels[tuple(near)]]
        labelled = (around > 0) & (around != IGNORED)
        assert labelled.any(axis=0).mean() >= 0.995
        shown = CLASS_OF_PIXEL[label[inside]]
        assert (around == shown).any(axis=0).mean() >= 0.99


def test_pixels_show_the_room(scenes: list[Scene]) -> None:
    for scene in scenes:
        distance = scene.view.distance
        assert np.isfinite(distance).all()
        focal, column, row = simulate.NYU_CAMERA
        v, u = np.indices(IMAGE_SIZE)
        rays = np.stack([(u - column) / focal, (v - row) / focal, np.ones(IMAGE_SIZE)])
        world = np.tensordot(scene.view.pose[:3, :3], rays * distance, 1)
        world += scene.view.pose[:3, 3, None, None]
        heights = {"floor": 0.0, "ceiling": scene.room.high[2]}
        for name, height in heights.items():
            shown = scene.view.pair.label == MATERIALS[name].label
            np.testing.assert_allclose(world[2][shown], height, atol=1e-3)


def test_volume_is_that_of_its_boxes(scenes: list[Scene]) -> None:
    random = np.random.default_rng(0)
    for scene in scenes[:3]:
        index = random.integers(0, GRID, (20_000, 3))
        x, height, y = index.T
        centres = scene.origin + VOXEL_SIZE * (np.stack([x, y, height], axis=1) + 0.5)
        camera = np.linalg.inv(scene.view.pose)
        right, down, deep = camera[:3, :3] @ centres.T + camera[:3, 3:]
        focal, column, row = simulate.NYU_CAMERA
        u, v = focal * right / deep + column, focal * down / deep + row
        seen = (deep > 0) & (abs(u - 319.5) < 320) & (abs(v - 239.5) < 240)
        margin = np.minimum(320 - abs(u - 319.5), 240 - abs(v - 239.5))

        expected = np.full(len(centres), IGNORED)
        within = (centres > scene.room.low) & (centres < scene.room.high)
        expected[within.all(axis=1)] = 0
        solids = Solids(scene.room.solids)
        surely, maybe = expected.copy(), np.zeros(len(centres), dtype=bool)
        for solid, centre, to_unit in zip(
            scene.room.solids, solids.centre, solids.to_unit, strict=True
        ):
            offset = (centres - centre) @ to_unit.T * solid.half
            outside = (np.abs(offset) - solid.half).max(axis=1)
            surely[outside < VOXEL_SIZE / 2] = simulate._VOXEL[solid.material]
            maybe |= np.abs(outside - VOXEL_SIZE / 2) < 1e-5
        surely[~seen] = IGNORED
        clear = ~maybe & (np.abs(margin) > 1e-3)
        assert clear.mean() > 0.99
        found = scene.labels[x, height, y]
        np.testing.assert_array_equal(found[clear], surely[clear])
        assert len(np.unique(found)) > 5


def test_depth_is_that_of_a_kinect(scenes: list[Scene]) -> None:
    for scene in scenes:
        depth, true = scene.view.pair.depth / 1000, scene.view.distance
        assert 0.01 < (depth == 0).mean() < 0.25
        error = np.abs(depth - true)[depth > 0]
        expected = 1.425e-3 * true[depth > 0] ** 2
        assert 0.5 < np.median(error / expected) < 1.5
        glass = scene.view.pair.label == MATERIALS["window"].label
        if glass.mean() > 0.02:
            assert (depth[glass] == 0).mean() > 0.25
        assert depth[depth > 0].min() > 0.45


def test_shadows_of_the_projector_lie_left_of_what_throws_them() -> None:
    distance = np.full((4, 100), 2.9, dtype=np.float32)
    distance[:, 40:60] = 1.0
    missing = simulate._measure(distance, np.random.default_rng(0)) == 0
    # Seen from the projector, the near thing reaches this many pixels over the far one.
    width = int(simulate._BASE / 1.0 - simulate._BASE / 2.9)
    hidden = np.isin(np.arange(100), np.arange(40 - width, 40))
    np.testing.assert_array_equal(missing, np.tile(hidden, (4, 1)))


def test_most_classes_are_frequent(scenes: list[Scene]) -> None:
    voxels = [downsampled(CLASS_OF_LABEL[scene.labels]) for scene in scenes]
    count = sum(np.bincount(target.ravel(), minlength=256) for target in voxels)[:12]
    assert 0.7 < count[0] / count.sum() < 0.95
    share = dict(zip(SSC_NAMES[1:], count[1:] / count[1:].sum(), strict=True))
    assert sum(value > 0.01 for value in share.values()) >= 10
    assert max(share.values()) < 0.5
    pixels = np.bincount(np.concatenate([s.view.pair.label.ravel() for s in scenes]))
    assert pixels.max() < 0.6 * pixels.sum()
    assert (pixels > 0.002 * pixels.sum()).sum() >= 15


def test_both_modalities_are_informative_but_not_trivial(scenes: list[Scene]) -> None:
    def pixels(chosen: list[Scene]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        every = (slice(4, None, 8),) * 2
        rows = np.indices(IMAGE_SIZE)[0][every].ravel()
        pairs = [scene.view.pair for scene in chosen]
        colour = np.concatenate([pair.rgb[every].reshape(-1, 3) for pair in pairs])
        depth = [np.column_stack([pair.depth[every].ravel(), rows]) for pair in pairs]
        label = np.concatenate([pair.label[every].ravel() for pair in pairs])
        return colour, np.concatenate(depth), label

    train, test = pixels(scenes[:8]), pixels(scenes[8:])
    classes = np.unique(test[2])
    for modality in (0, 1):
        tree = DecisionTreeClassifier(min_samples_leaf=30, random_state=0)
        guess = tree.fit(train[modality], train[2]).predict(test[modality])
        recall = recall_score(test[2], guess, labels=classes, average="macro")
        assert 2 / len(classes) < recall < 0.5
