from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor

from ntdh_bench.datamodules.nyuv2.datamodule import (
    NYUDepthV2DataModule,
    neighbours,
    standardised_depth,
)
from ntdh_bench.datamodules.nyuv2.labels import NYU40_TO_NYU13
from ntdh_bench.datamodules.paired import Request
from ntdh_bench.errors import UserError
from ntdh_bench.seeding import uniform

Make: TypeAlias = Callable[..., NYUDepthV2DataModule]
ROOMS = 8


@pytest.fixture
def make() -> Make:
    """A data module on eight simulated rooms (other tests use them, too), small and set up."""

    def build(task: str = "semantic_segmentation", **changes: Any) -> NYUDepthV2DataModule:
        small: dict[str, Any] = {
            "scale": 0.25 if task == "scene_completion" else 0.125, "batch_size": 2,
            "simulated_rooms": ROOMS, "source": "simulated",
        }  # fmt: skip
        data = NYUDepthV2DataModule(task, **{**small, **changes})  # type: ignore[arg-type]
        data.setup()
        return data

    return build


def tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def test_segmentation_gives_images_and_a_class_a_pixel(make: Make) -> None:
    data = make()
    assert (data.source, data.num_classes, data.metric) == ("simulated", 40, "miou")
    assert {s: data.split_size(s) for s in ("train", "val", "test")} == {
        "train": ROOMS - 1, "val": 1, "test": 3,
    }  # fmt: skip
    batch = next(data.batches("train"))
    assert tensor(batch["teacher"]).shape == (2, 3, 60, 80)
    assert tensor(batch["student"]).shape == (2, 1, 60, 80)
    assert batch["target"].shape == (2, 60, 80)
    assert {t.dtype for t in (tensor(batch["teacher"]), tensor(batch["student"]))} == {
        torch.float32
    }
    assert batch["target"].dtype == torch.int64
    assert tensor(batch["teacher"]).std() > 0.3
    assert tensor(batch["student"]).abs().max() < 5


def test_completion_gives_images_voxels_behind_pixels_and_a_class_a_voxel(make: Make) -> None:
    data = make("scene_completion")
    assert (data.num_classes, data.excluded_classes) == (12, (0,))
    batch = next(data.batches("train"))
    teacher, student = batch["teacher"], batch["student"]
    assert isinstance(teacher, dict)
    assert isinstance(student, dict)
    assert teacher["image"].shape == (2, 3, 120, 160)
    assert student["image"].shape == (2, 1, 120, 160)
    assert torch.equal(teacher["position"], student["position"])
    assert student["position"].dtype == batch["target"].dtype == torch.int64
    assert student["position"].min() == -1
    assert student["position"].max() < 60 * 36 * 60
    assert batch["target"].shape == batch["occluded"].shape == (2, 15, 9, 15)
    assert batch["occluded"].dtype == torch.bool
    assert 0 < batch["occluded"].float().mean() < 0.9
    assert set(batch["target"].unique().tolist()) <= {*range(12), 255}


def test_visible_points_lie_in_occupied_voxels(make: Make) -> None:
    batch = next(make("scene_completion").batches("train"))
    student = batch["student"]
    assert isinstance(student, dict)
    seen = student["position"][0][student["position"][0] >= 0]
    at = np.unravel_index(seen.numpy(), (60, 36, 60))
    found = batch["target"][0][tuple(axis // 4 for axis in at)]
    assert ((found > 0) & (found < 12)).float().mean() > 0.9


def test_validation_and_test_are_scored_where_sscnet_scores(make: Make) -> None:
    splits: Any = make("scene_completion").splits
    for name, scored in (("train", False), ("val", True), ("test", True)):
        batch, row = splits[name][Request(0, torch.tensor([0]))], splits[name].rows[0]
        stored = {kind: splits[name].arrays[kind][row] for kind in ("target", "evaluated")}
        target = torch.tensor(stored["target"], dtype=torch.int64)
        assert target.unique().numel() > 5
        assert not stored["evaluated"].all()
        if scored:
            target[~torch.tensor(stored["evaluated"])] = 255
        assert torch.equal(batch["target"][0], target)


def test_sscnet_s_protocol_counts_unknown_voxels_as_empty(make: Make) -> None:
    pooled, sscnet = make("scene_completion"), make("scene_completion", protocol="sscnet")
    assert pooled.fingerprint != sscnet.fingerprint
    assert sscnet.protocol == "sscnet"
    first, second = (next(data.batches("train")) for data in (pooled, sscnet))
    assert torch.equal(first["target"], second["target"])
    first, second = (next(data.batches("test")) for data in (pooled, sscnet))
    changed = first["target"] != second["target"]
    assert (first["target"][changed] == 255).all()
    assert (second["target"][changed] == 0).all()
    student = second["student"]
    assert isinstance(student, dict)
    assert changed.any()
    assert (second["target"][second["occluded"]] != 255).all()


def test_half_the_training_samples_are_mirrored_whole(make: Make) -> None:
    mirrored, plain = make(seed=3), make(flip=False)
    assert (mirrored.cacheable("train"), plain.cacheable("train")) == (False, True)
    assert mirrored.cacheable("val")
    index = torch.arange(ROOMS - 1)
    for epoch in (0, 1):
        flips = uniform(3, "flip", epoch, index, (1,)).squeeze(1) < 0.5
        found = mirrored.splits["train"][Request(epoch, index)]
        expected = plain.splits["train"][Request(epoch, index)]
        assert flips.any()
        assert not flips.all()
        for name in ("teacher", "student", "target"):
            one, other = (tensor(batch[name]) for batch in (found, expected))  # type: ignore[literal-required]
            assert torch.equal(one[flips], other[flips].flip(-1))
            assert torch.equal(one[~flips], other[~flips])
    alone = mirrored.splits["train"][Request(1, torch.tensor([5]))]
    assert torch.equal(tensor(alone["teacher"])[0], tensor(found["teacher"])[5])


def test_loaders_do_not_depend_on_workers(make: Make) -> None:
    batches = [list(make(num_workers=workers).train_dataloader()) for workers in (0, 1)]
    assert len(batches[0]) == len(batches[1]) == 4
    for one, other in zip(*batches, strict=True):
        for name in ("teacher", "student", "target", "index"):
            assert torch.equal(one[name], other[name])


@pytest.mark.parametrize("task", ["semantic_segmentation", "scene_completion"])
def test_padding_is_ignored(make: Make, task: str) -> None:
    dataset = make(task).splits["test"]
    batch = dataset[Request(0, torch.tensor([1, -1]))]
    assert batch["index"].tolist() == [1, 0]
    assert (batch["target"][1] == 255).all()
    assert (batch["target"][0] != 255).any()
    again = dataset[Request(0, torch.tensor([0]))]["target"]
    assert (again != 255).any()  # the stored targets are as they were


@pytest.mark.parametrize("task", ["semantic_segmentation", "scene_completion"])
def test_unimodal_gives_the_teacher_the_students_inputs(make: Make, task: str) -> None:
    batch = next(make(task, unimodal=True).batches("test"))
    assert batch["teacher"] is batch["student"]


def test_classes_that_no_image_shows_are_left_out_of_the_mean(make: Make) -> None:
    data = make(flip=False)
    shown = torch.cat([data.splits[s][Request(0, None)]["target"].unique() for s in data.splits])
    classes = set(shown.tolist()) - {255}
    assert 8 <= len(classes) < 40
    assert set(data.excluded_classes) == set(range(40)) - classes


def test_13_classes_are_those_of_the_40(make: Make) -> None:
    fine, coarse = (
        make(classes=classes, flip=False).splits["train"][Request(0, None)]["target"]
        for classes in (40, 13)
    )
    known = fine != 255
    expected = torch.from_numpy(NYU40_TO_NYU13).long()[fine[known] + 1] - 1
    assert torch.equal(coarse[known], expected)
    assert (coarse[~known] == 255).all()


def test_depth_that_was_not_measured_is_the_mean() -> None:
    found = standardised_depth(torch.tensor([[[0, 2840, 4260]]]))
    assert found.flatten().tolist() == pytest.approx([0, 0, 1])


def test_neighbours_are_held_out_together() -> None:
    held_out = neighbours(795, 80, seed=0)
    assert len(held_out) == len(set(held_out.tolist())) == 80
    assert held_out.tolist() == sorted(held_out.tolist())
    assert 0 <= held_out.min() <= held_out.max() < 795
    assert len(set((held_out // 8).tolist())) <= 11  # blocks of eight
    assert torch.equal(held_out, neighbours(795, 80, seed=0))
    assert not torch.equal(held_out, neighbours(795, 80, seed=1))
    assert len(neighbours(5, 0, seed=0)) == 0


def test_validation_shares_no_sample_with_training(make: Make) -> None:
    data = make()
    rows = [data.splits[split].rows for split in ("train", "val")]  # type: ignore[attr-defined]
    assert sorted(torch.cat(rows).tolist()) == list(range(ROOMS))
    assert not make(val_size=0).has_validation


def test_the_fingerprint_says_what_changes_the_data(make: Make, tmp_path: Path) -> None:
    first = make().fingerprint
    assert make(num_workers=1, batch_size=4).fingerprint == first
    others = [
        make(classes=13), make(flip=False), make(seed=1), make(scale=0.1), make(val_size=0),
        make("scene_completion"), make(unimodal=True),
    ]  # fmt: skip
    assert len({first, *(data.fingerprint for data in others)}) == len(others) + 1
    assert make(flip=False).fingerprint == make(flip=False, seed=1).fingerprint


def test_simulated_files_say_so_wherever_they_are(make: Make) -> None:
    root = make("semantic_segmentation").simulated_root()
    for task in ("semantic_segmentation", "scene_completion"):
        assert make(task, source="real", root=str(root)).source == "simulated"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "depth"}, "data.task is 'depth': choose one of semantic_segmentation"),
        ({"classes": 894}, "data.classes is 894: choose 40 or 13"),
        ({"scale": 0.0}, "data.scale is 0.0: it must lie in"),
        ({"task": "scene_completion", "scale": 0.3}, "scene completion has 1, 0.5 and 0.25"),
        ({"task": "scene_completion", "classes": 13}, "scene completion has 12 of its own"),
        ({"val_size": -1}, "data.val_size is -1"),
        ({"simulated_rooms": 0}, "data.simulated_rooms is 0"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        NYUDepthV2DataModule(**changes)


def test_real_pairs(data_root: Path, tmp_path: Path) -> None:
    data = NYUDepthV2DataModule(root=str(data_root), cache_dir=str(tmp_path), scale=0.125)
    data.setup()
    assert {s: data.split_size(s) for s in ("train", "val", "test")} == {
        "train": 715, "val": 80, "test": 654,
    }  # fmt: skip
    assert data.excluded_classes == (39,)  # those files have no class 40
    depth = np.asarray(data.splits["train"].arrays["depth"], dtype=np.float64)  # type: ignore[attr-defined]
    assert depth.mean() / 1000 == pytest.approx(2.84, abs=0.02)
    assert depth.std() / 1000 == pytest.approx(1.42, abs=0.02)
