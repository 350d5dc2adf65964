from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntdh_bench.batch import Split
from ntdh_bench.datamodules import PairedVectorsDataModule
from ntdh_bench.datasets import find_dataset, write_marker
from ntdh_bench.errors import UserError
from tests.helpers import assert_bits

COUNT = 60


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "own.npz",
        vector=rng.normal(3, 2, (COUNT, 5)).astype(np.float32),
        series=rng.normal(-1, 4, (COUNT, 7, 2)),
        picture=rng.integers(0, 255, (COUNT, 6, 4), np.uint8),
        number=rng.normal(size=COUNT),
        label=np.resize(["yes", "no", "both"], COUNT),
        subject=np.repeat(np.arange(6), 10),
    )
    return tmp_path / "own.npz"


def module(file: Path, teacher: str = "vector", student: str = "series", **changes: Any) -> Any:
    settings = {"target": "label", "group": "subject", "batch_size": 8, **changes}
    return PairedVectorsDataModule(file=str(file), teacher=teacher, student=student, **settings)


def test_a_file_of_ones_own(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = module(file)
    assert (data.name, data.num_classes, data.source) == ("own", 3, "real")
    assert data.class_names == ("both", "no", "yes")
    batch = next(data.batches("train"))
    assert batch["teacher"].shape == (8, 5)
    assert batch["student"].shape == (8, 7, 2)
    assert batch["teacher"].dtype == batch["student"].dtype == torch.float32
    assert [data.split_size(split) for split in ("train", "val", "test")] == [30, 10, 20]
    assert "own.npz has no split: 30% are drawn for testing" in capsys.readouterr().err


def test_a_file_of_ones_own_is_never_taken_for_a_published_set(file: Path) -> None:
    assert module(file.rename(file.with_name("wiki.npz"))).name == "wiki.npz"


def test_scaled_by_the_training_samples_alone(file: Path) -> None:
    data = module(file, "series", "picture", images=["picture"])
    data.setup()
    train, test = (data.splits[name].whole(0) for name in ("train", "test"))
    assert train["student"].shape[1:] == (1, 6, 4)
    for values, dims in ((train["teacher"], (0, 1)), (train["student"], (0, 2, 3))):
        torch.testing.assert_close(values.mean(dims), torch.zeros_like(values.mean(dims)))
        spread = values.std(dims, correction=0)
        torch.testing.assert_close(spread, torch.ones_like(spread))
    assert test["teacher"].mean((0, 1)).abs().max() > 1e-3
    vector = module(file).splits or module(file)
    vector.setup()
    assert_bits(vector.splits["train"].whole(0)["student"], train["teacher"])


def test_either_direction(file: Path) -> None:
    there, back = module(file), module(file, "series", "vector")
    first, second = (next(data.batches("test")) for data in (there, back))
    assert torch.equal(first["teacher"], second["student"])
    assert torch.equal(first["student"], second["teacher"])
    assert torch.equal(first["target"], second["target"])


def test_numbers_are_vectors_of_one(file: Path) -> None:
    assert next(module(file, student="number").batches("val"))["student"].shape == (8, 1)


def test_the_fingerprint_tells_data_apart(file: Path) -> None:
    changes: list[dict[str, Any]] = [
        {}, {"teacher": "series"}, {"student": "picture"}, {"data_seed": 1}, {"group": None},
        {"val_fraction": 0.4}, {"test_fraction": 0.5},
        {"student": "picture", "images": ["picture"]},
    ]  # fmt: skip
    prints = {module(file, **change).fingerprint for change in changes}
    assert len(prints) == len(changes)
    assert module(file, seed=4, batch_size=3).fingerprint in prints
    arrays = dict(np.load(file))
    arrays["vector"][0, 0] += 1
    np.savez(file, **arrays)
    assert module(file).fingerprint not in prints


def test_without_groups_samples_are_drawn(file: Path) -> None:
    data = module(file, group=None)
    assert data.split_size("test") == 18
    assert next(data.batches("test", 18))["target"].bincount().tolist() == [6, 6, 6]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teacher": "nothing"}, "no array 'nothing'; it has vector, series, picture"),
        ({"target": "target"}, "no array 'target'"),
        ({"group": "subjects"}, "no array 'subjects'"),
        ({"split": "fold"}, "no array 'fold'"),
        ({"images": ["vector"]}, r"images names 'vector', whose samples have the shape \(5,\)"),
        ({"images": ["pictures"]}, r"images names 'pictures', which .*own\.npz lacks"),
        ({"teacher": None}, r"data\.teacher is missing: name an array of .*own\.npz"),
        ({"source": "simulated"}, r"data\.source simulated makes files of a published set"),
        ({"test_fraction": 1.5}, r"data\.test_fraction"),
        ({"batch_size": 1000}, r"data\.batch_size is 1000"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(file: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        module(file, **changes).setup()


def test_a_published_set_that_is_not_there(tmp_path: Path) -> None:
    data = PairedVectorsDataModule("wiki", root=str(tmp_path))
    assert data.num_classes == 10
    with pytest.raises(UserError, match=r"wiki\.npz is missing: .* --from FOLDER; or use --data"):
        data.setup()


def test_names_that_a_set_lacks() -> None:
    with pytest.raises(UserError, match=r"'lidar', which wiki lacks: choose one of image, text"):
        PairedVectorsDataModule("wiki", teacher="lidar")
    with pytest.raises(UserError, match="'mnist' is no set of paired arrays"):
        PairedVectorsDataModule("mnist")
    with pytest.raises(UserError, match="unknown data set 'mine'"):
        PairedVectorsDataModule("mine")


def test_the_example_is_simulated_and_read_from_what_sample_wrote(tmp_path: Path) -> None:
    info = find_dataset("pairs")
    assert info.sample is not None
    info.sample(tmp_path, 0)
    read = PairedVectorsDataModule(root=str(tmp_path))
    made = PairedVectorsDataModule(source="simulated", cache_dir=str(tmp_path / "cache"))
    for data in (read, made):
        data.setup()
        assert data.source == "simulated"
    assert read.fingerprint == made.fingerprint
    splits: tuple[Split, ...] = ("train", "val", "test")
    assert [made.split_size(split) for split in splits] == [360, 60, 180]


def test_the_example_needs_no_files(tmp_path: Path) -> None:
    data = PairedVectorsDataModule(cache_dir=str(tmp_path))
    assert data.source == "simulated"
    assert data.split_size("train") == 360


def test_samples_that_cannot_be_scaled(tmp_path: Path) -> None:
    near = np.array([1.0, 1 + 1e-15] * 10)
    arrays = {
        "a": np.r_[near, 1e30, 1e30],
        "target": np.arange(22) % 2,
        "split": [0] * 20 + [1] * 2,
    }
    np.savez(tmp_path / "far.npz", **arrays)
    with pytest.raises(UserError, match="'a' has samples too far from all training samples"):
        module(tmp_path / "far.npz", "a", "a", target="target", group=None).setup()


def test_a_file_beside_a_marker_is_simulated(file: Path) -> None:
    write_marker(file.parent, {})
    data = module(file)
    data.setup()
    assert data.source == "simulated"
