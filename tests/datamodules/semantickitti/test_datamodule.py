from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from ntdh_bench.batch import PairedBatch
from ntdh_bench.datamodules.paired import RequestSampler
from ntdh_bench.datamodules.semantickitti.datamodule import SemanticKITTIDataModule, jittered
from ntdh_bench.datamodules.semantickitti.labels import (
    RAW_TO_CLASS,
    class_weights,
    point_class_weights,
)
from ntdh_bench.datamodules.semantickitti.layout import sequences_folder
from ntdh_bench.datamodules.semantickitti.prepare import verify
from ntdh_bench.datamodules.semantickitti.projection import channels, project
from ntdh_bench.datamodules.semantickitti.reader import read_calibration
from ntdh_bench.datasets import write_marker
from ntdh_bench.errors import UserError
from tests.datamodules.semantickitti.files import SIZE, read_raw, write_sequence

Make = Callable[..., SemanticKITTIDataModule]
CROP = (16, 48)


@pytest.fixture
def make(street: Path, tmp_path: Path) -> Make:
    def build(**options: Any) -> SemanticKITTIDataModule:
        settings = {
            "root": str(street), "train_sequences": [0], "crop": CROP, "batch_size": 2,
            "cache_dir": str(tmp_path / "cache"),
        }  # fmt: skip
        return SemanticKITTIDataModule(**settings | options)

    return build


def same(left: PairedBatch, right: PairedBatch) -> bool:
    def leaves(value: Any) -> list[Tensor]:
        return list(value.values()) if isinstance(value, dict) else [value]

    return left.keys() == right.keys() and all(
        torch.equal(a, b)
        for key in left
        for a, b in zip(leaves(left[key]), leaves(right[key]), strict=True)  # type: ignore[literal-required]
    )


def epoch_of(data: SemanticKITTIDataModule, epoch: int) -> list[PairedBatch]:
    loader = data.train_dataloader()
    sampler: Any = loader.sampler
    sampler.set_epoch(epoch)
    return list(loader)


def test_shapes_and_ranges(make: Make) -> None:
    data = make()
    batch = next(iter(data.train_dataloader()))
    teacher, student, target = batch["teacher"], batch["student"], batch["target"]
    assert isinstance(teacher, Tensor)
    assert isinstance(student, Tensor)
    assert (teacher.shape, student.shape) == ((2, 3, *CROP), (2, 5, *CROP))
    assert teacher.dtype == student.dtype == torch.float32
    assert 0 <= teacher.min() < teacher.max() <= 1
    assert target.shape == (2, *CROP)
    assert target.dtype == batch["index"].dtype == torch.int64
    assert set(target.unique().tolist()) <= {255, *range(1, 20)}
    assert (data.source, data.num_train, data.num_classes) == ("real", 4, 20)
    assert (data.split_size("val"), data.split_size("test")) == (2, 3)


def test_whole_images_are_what_the_files_give(make: Make, street: Path) -> None:
    folder = sequences_folder(street) / "08"
    batch = next(make().batches("test", batch_size=3))
    assert isinstance(batch["teacher"], Tensor)
    assert isinstance(batch["student"], Tensor)
    assert batch["target"].shape == (3, 48, 128)  # 40 x 120, padded to multiples of 16
    for row in range(3):
        points, labels = read_raw(folder, f"{row:06d}")
        scan = torch.from_numpy(points)
        matrix = torch.from_numpy(read_calibration(folder / "calib.txt"))
        view = project(scan, matrix, SIZE)
        expected = torch.zeros(5, SIZE[0] * SIZE[1])
        expected[:, view.pixel[view.nearest]] = channels(scan[view.point[view.nearest]])
        assert torch.equal(batch["student"][row, :, :40, :120], expected.view(5, *SIZE))
        classes = torch.full((SIZE[0] * SIZE[1],), 0)
        shown = view.point[view.nearest]
        classes[view.pixel[view.nearest]] = torch.from_numpy(
            RAW_TO_CLASS[labels[shown] & 0xFFFF].astype(np.int64)
        )
        target = torch.where(classes == 0, 255, classes).view(SIZE)
        assert torch.equal(batch["target"][row, :40, :120], target)
        with Image.open(folder / "image_2" / f"{row:06d}.png") as image:
            colours = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        assert torch.equal(batch["teacher"][row, :, :40, :120], colours)
    for key in ("teacher", "student"):
        inputs: Any = batch[key]  # type: ignore[literal-required]
        assert not inputs[..., 40:, :].any()
        assert not inputs[..., 120:].any()
    assert (batch["target"][:, 40:] == 255).all()


def test_views_are_crops_that_agree(make: Make, street: Path) -> None:
    """Red is the column, green the row, so each pixel says where it was."""
    folder = sequences_folder(street) / "00"
    matrix = torch.from_numpy(read_calibration(folder / "calib.txt"))
    corners, mirrored = set(), set()
    data = make(points=True, jitter=0.0)
    for epoch in range(8):
        for batch in data.batches("train", batch_size=4, epoch=epoch):
            cloud = batch["points"]
            assert isinstance(batch["teacher"], Tensor)
            place = (batch["teacher"] * 255).round().long()
            for row in range(4):
                columns, rows = place[row, 0], place[row, 1]
                flipped = bool(columns[0, 0] > columns[0, -1])
                mirrored.add(flipped)
                corners.add((int(columns.min()), int(rows.min())))
                assert torch.equal(rows, rows[:1, :1] + torch.arange(16)[:, None].expand(CROP))
                # Every point lies on the pixel of the image that it is projected to.
                mine = cloud["scan"] == row
                points = cloud["points"][mine].clone()
                points[:, 1] *= -1 if flipped else 1
                view = project(points, matrix, SIZE)
                assert len(view.point) == len(points) > 20
                local = cloud["pixel"][mine] - row * CROP[0] * CROP[1]
                there = rows.flatten()[local] * SIZE[1] + columns.flatten()[local]
                assert torch.equal(there, view.pixel)
                # The image shows the nearest of them, and the target is its label.
                shown = local[view.nearest]
                image = cast(Tensor, batch["student"])[row].flatten(1)
                assert torch.equal(image[:, shown], channels(cloud["points"][mine][view.nearest]))
                assert (image != 0).any(0).sum() == len(shown)
                target = cloud["target"][mine][view.nearest]
                assert torch.equal(batch["target"][row].flatten()[shown], target)
    assert mirrored == {True, False}
    assert len(corners) > 20


def test_points_are_those_in_view(make: Make, street: Path) -> None:
    folder = sequences_folder(street) / "10"
    batch = next(make(points=True).batches("val", batch_size=2))
    cloud = batch["points"]
    assert set(cloud) == {"points", "scan", "pixel", "target"}
    assert isinstance(batch["teacher"], Tensor)
    for key in ("scan", "pixel", "target"):
        assert cloud[key].dtype == torch.int64
        assert len(cloud[key]) == len(cloud["points"])
    assert cloud["points"].dtype == torch.float32
    matrix = torch.from_numpy(read_calibration(folder / "calib.txt"))
    for row in range(2):
        points, labels = read_raw(folder, f"{row:06d}")
        view = project(torch.from_numpy(points), matrix, SIZE)
        mine = cloud["scan"] == row
        assert mine.sum() == len(view.point)
        rows = {tuple(point) for point in points[view.point]}
        assert {tuple(point) for point in cloud["points"][mine].numpy()} == rows
        known = RAW_TO_CLASS[labels[view.point] & 0xFFFF] > 0
        assert (cloud["target"][mine] != 255).sum() == known.sum()
    grid = cloud["pixel"] // (48 * 128)
    assert torch.equal(grid, cloud["scan"])
    assert same(
        {**batch, "points": {}}, {**next(make().batches("val", batch_size=2)), "points": {}}
    )


def test_views_are_derived_from_seed_epoch_and_sample(make: Make) -> None:
    data, again = make(points=True), make(points=True)
    first = epoch_of(data, 3)
    assert all(same(a, b) for a, b in zip(first, epoch_of(again, 3), strict=True))
    assert not torch.equal(first[0]["target"], epoch_of(data, 4)[0]["target"])
    other = next(make(seed=1).batches("train", epoch=3))
    assert not torch.equal(other["target"], next(data.batches("train", epoch=3))["target"])


def test_views_do_not_depend_on_the_batch_or_the_ranks(make: Make) -> None:
    data = make()
    whole = next(data.batches("train", batch_size=4, epoch=2))
    for rank in range(2):
        sampler = RequestSampler(4, 1, shuffle=True, rank=rank, world_size=2)
        sampler.set_epoch(2)
        for request in sampler:
            batch = data.splits["train"][request]
            for key in ("teacher", "student", "target"):
                found, expected = batch[key], whole[key]  # type: ignore[literal-required]
                assert torch.equal(found[0], expected[int(batch["index"])])


def test_views_do_not_depend_on_workers(make: Make) -> None:
    alone = epoch_of(make(points=True), 1)
    several = epoch_of(make(points=True, num_workers=2), 1)
    assert all(same(a, b) for a, b in zip(alone, several, strict=True))


def test_validation_is_the_same_in_every_run(make: Make) -> None:
    one, two = make(seed=0), make(seed=1)
    for split in ("val", "test"):
        left, right = one.batches(split, epoch=0), two.batches(split, epoch=5)  # type: ignore[arg-type]
        assert all(same(a, b) for a, b in zip(left, right, strict=True))


def test_padding_samples_are_ignored(make: Make) -> None:
    data = make(points=True)
    data.setup()
    sampler = RequestSampler(3, None, shuffle=False, rank=1, world_size=2)
    (request,) = sampler
    batch = data.splits["test"][request]
    cloud = batch["points"]
    assert batch["index"].tolist() == [1, 0]
    assert (batch["target"][1] == 255).all()
    assert (cloud["target"][cloud["scan"] == 1] == 255).all()
    assert (cloud["target"][cloud["scan"] == 0] != 255).any()


def test_images_of_different_sizes(make: Make, street: Path) -> None:
    write_sequence(sequences_folder(street) / "03", 1, 3, size=(33, 130))
    data = make(test_sequences=[8, 3], points=True)
    batch = next(data.batches("test", batch_size=4))
    cloud = batch["points"]
    assert batch["target"].shape == (4, 48, 144)
    mine = cloud["scan"] == 3
    local = cloud["pixel"][mine] - 3 * 48 * 144
    assert (local // 144 < 33).all()
    assert (local % 144 < 130).all()
    assert not cast(Tensor, batch["student"])[3, :, 33:].any()


def test_whole_training_images_stay_the_same(make: Make) -> None:
    data = make(crop=None, flip=False, jitter=0.0)
    assert data.cacheable("train")
    left, right = next(data.batches("train", epoch=0)), next(data.batches("train", epoch=1))
    assert same(left, right)
    assert left["target"].shape == (2, 48, 128)
    assert not make().cacheable("train")
    assert make().cacheable("val")
    for change in ({"flip": True}, {"jitter": 0.1}, {"crop": (40, 119)}):
        settings = {"crop": None, "flip": False, "jitter": 0.0} | change
        assert not make(**settings).cacheable("train")


def test_jitter_is_torchvision_s() -> None:
    image = 0.3 + 0.3 * torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    for factors in ((1.2, 1.0, 1.0), (1.0, 0.7, 1.0), (1.0, 1.0, 1.3), (0.8, 1.1, 0.6)):
        expected = functional.adjust_brightness(image, factors[0])
        expected = functional.adjust_contrast(expected, factors[1])
        expected = functional.adjust_saturation(expected, factors[2])
        assert torch.allclose(jittered(image, *factors), expected, atol=2e-4)
    assert torch.allclose(jittered(image, 1, 1, 1), image, atol=1e-6)
    assert jittered(image, 3, 2, 2).max() <= 1


def test_jitter_changes_colours_only(make: Make) -> None:
    plain = next(make(jitter=0.0).batches("train", epoch=1))
    changed = next(make(jitter=0.5).batches("train", epoch=1))
    assert not torch.equal(plain["teacher"], changed["teacher"])  # type: ignore[arg-type]
    assert torch.equal(plain["student"], changed["student"])  # type: ignore[arg-type]
    assert torch.equal(plain["target"], changed["target"])


def test_unimodal(make: Make) -> None:
    batch = next(make(unimodal=True).batches("train"))
    assert batch["teacher"] is batch["student"]
    points: Any = next(make(unimodal=True, points=True).batches("train"))
    assert points["teacher"] is points["student"]
    assert make(unimodal=True).fingerprint != make().fingerprint


def test_dense_labels(make: Make, street: Path) -> None:
    with pytest.raises(UserError, match=r"no sequence in .* has a folder image_2_labels"):
        make(dense_labels=True).setup()
    dense = sequences_folder(street) / "08" / "image_2_labels"
    dense.mkdir()
    for number in range(3):
        columns = np.where(np.arange(SIZE[1]) < 60, 40, 0).astype(np.uint8)
        Image.fromarray(np.tile(columns, (SIZE[0], 1))).save(dense / f"{number:06d}.png")
    data = make(dense_labels=True, points=True)
    target = next(data.batches("test", batch_size=1))["target"][0]
    assert (target[:40, :60] == 9).all()
    assert (target[:, 60:] == 255).all()
    assert (target[40:] == 255).all()
    labels = next(data.batches("test", batch_size=1))["points"]["target"]
    assert len(labels.unique()) > 5
    assert data.fingerprint != make(points=True).fingerprint


def test_fingerprint(make: Make) -> None:
    known = make().fingerprint
    assert make().fingerprint == known
    assert make(batch_size=1, num_workers=1).fingerprint == known
    changes: list[dict[str, Any]] = [
        {"crop": (16, 32)}, {"flip": False}, {"jitter": 0.1}, {"points": True}, {"scale": 0.5},
        {"seed": 1}, {"val_sequences": []}, {"train_sequences": [10], "val_sequences": []},
    ]  # fmt: skip
    assert len({known, *(make(**change).fingerprint for change in changes)}) == 1 + len(changes)
    fixed = {"crop": None, "flip": False, "jitter": 0.0}
    assert make(**fixed).fingerprint == make(**fixed, seed=1).fingerprint


def test_class_weights(make: Make) -> None:
    for name, expected in (("pmf", class_weights()), ("2dpass", point_class_weights())):
        assert torch.equal(make().class_weights[name], torch.from_numpy(expected).float())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_sequences": None}, r"sequences missing: 01, 02, .* \(there: 00, 08, 10\)"),
        ({"train_sequences": [0, 5]}, "sequences missing: 05"),
        ({"train_sequences": []}, r"data\.train_sequences is empty"),
        ({"test_sequences": []}, r"data\.test_sequences is empty"),
        ({"train_sequences": [0, 8]}, "sequence 08 is named twice"),
        ({"crop": (41, 48)}, r"data\.crop is \[41, 48\], but the smallest training image"),
        ({"batch_size": 5}, r"data\.batch_size is 5, but there are only 4"),
    ],
)
def test_errors_at_setup(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (0, 4)}, r"data\.crop is \[0, 4\]"),
        ({"scale": 0.0}, r"data\.scale is 0\.0"),
        ({"jitter": 1.5}, r"data\.jitter is 1\.5"),
        ({"simulated_frames": 0}, r"data\.simulated_frames is 0"),
    ],
)
def test_errors_of_arguments(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Make:
    cache = tmp_path_factory.mktemp("simulated")

    def build(**options: Any) -> SemanticKITTIDataModule:
        settings = {"source": "simulated", "simulated_frames": 1, "batch_size": 1}
        return SemanticKITTIDataModule(**settings | {"cache_dir": str(cache)} | options)

    return build


def test_simulated(simulated: Make) -> None:
    data = simulated()
    batch = next(iter(data.train_dataloader()))
    assert batch["target"].shape == (1, 256, 1024)
    assert (data.source, data.has_validation) == ("simulated", True)
    assert next(data.batches("test"))["target"].shape == (1, 384, 1232)
    small = simulated(scale=0.25, crop=(64, 256), points=True)
    assert next(iter(small.train_dataloader()))["target"].shape == (1, 64, 256)
    whole = next(small.batches("val"))
    assert whole["target"].shape == (1, 96, 320)
    assert len(whole["points"]["points"]) > 3_000


def test_simulated_labels_of_image_and_scan_agree(simulated: Make) -> None:
    projected = next(simulated().batches("val"))["target"]
    dense = next(simulated(dense_labels=True).batches("val"))["target"]
    both = projected != 255
    assert both.sum() > 10_000
    assert (dense == projected)[both].float().mean() > 0.9
    assert (dense != 255).sum() > 5 * both.sum()


def test_simulated_files_are_sound(simulated: Make) -> None:
    root = next((simulated().cache_dir / "simulated").glob("semantickitti-*"))
    assert {check.state for check in verify(root)} == {"ok"}


def test_marked_files_are_simulated_wherever_they_are(make: Make, street: Path) -> None:
    write_marker(street / "semantickitti", {})
    data = make(train_sequences=None)
    assert data.num_train == 4  # the published sequences that are there
    assert data.source == "simulated"


def test_a_scan_behind_the_camera_has_no_targets(make: Make, street: Path) -> None:
    scan = sequences_folder(street) / "08" / "velodyne" / "000000.bin"
    points, _ = read_raw(scan.parents[1])
    points[:, 0] = -np.abs(points[:, 0]) - 1
    points.tofile(scan)
    batch = next(make(points=True, test_sequences=[8]).batches("test", batch_size=1))
    assert (batch["target"] == 255).all()
    assert not cast(Tensor, batch["student"]).any()
    assert len(batch["points"]["points"]) == 0
