from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ntdh_bench.datamodules.pairs.arrays import PairedArrays
from ntdh_bench.datamodules.pairs.splits import split_rows
from ntdh_bench.errors import UserError

TARGET = np.tile(np.arange(3), 40)
GROUP = np.repeat(np.arange(10), 12)


def arrays(split: Any = None, group: Any = None, target: Any = TARGET) -> PairedArrays:
    values = np.zeros((len(target), 1), np.float32)
    return PairedArrays({"a": values}, target, split, group)


def rows(table: PairedArrays, test: float = 0.3, val: float = 0.2, seed: int = 0) -> Any:
    found = split_rows(table, test, val, seed)
    together = np.concatenate([part.numpy() for part in found.values()])
    assert sorted(together) == list(range(len(table)))  # every sample is in one split
    return {name: part.numpy() for name, part in found.items()}


def test_drawn_samples_have_the_shares_of_the_classes() -> None:
    found = rows(arrays())
    assert {name: len(part) for name, part in found.items()} == {
        "train": 67, "test": 36, "val": 17,
    }  # fmt: skip
    assert np.bincount(TARGET[found["test"]]).tolist() == [12, 12, 12]
    assert rows(arrays(), seed=1)["test"].tolist() != found["test"].tolist()


def test_groups_stay_together() -> None:
    found = rows(arrays(group=GROUP))
    groups = {name: set(GROUP[part]) for name, part in found.items()}
    assert {name: len(part) for name, part in groups.items()} == {"train": 6, "test": 3, "val": 1}
    assert len(set.union(*groups.values())) == 10


def test_the_split_of_the_file_is_kept() -> None:
    split = np.resize(np.array([0, 1, 0, 2], np.int8), len(TARGET))
    found = rows(arrays(split))
    for name, number in {"train": 0, "test": 1, "val": 2}.items():
        np.testing.assert_array_equal(found[name], np.flatnonzero(split == number))


def test_validation_differs_from_training_as_the_test_does() -> None:
    """Other subjects where others are tested; else other samples of the same subjects."""
    apart = rows(arrays((GROUP > 6).astype(np.int8), GROUP))
    assert not set(GROUP[apart["val"]]) & set(GROUP[apart["train"]])
    mixed = rows(arrays((np.arange(120) % 2).astype(np.int8), GROUP))
    assert set(GROUP[mixed["val"]]) & set(GROUP[mixed["train"]])
    assert len(mixed["val"]) == 12


def test_no_validation_split() -> None:
    assert list(rows(arrays(), val=0)) == ["train", "test"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (arrays(np.ones(120, np.int8)), "the train split is empty"),
        (arrays(np.zeros(120, np.int8)), "the test split is empty"),
        (arrays((TARGET == 1).astype(np.int8)), "class 1 has no training samples"),
        (
            replace(arrays((TARGET == 1).astype(np.int8)), class_names=("cat", "cow", "dog")),
            "class 'cow' has no training samples",
        ),
        (arrays(group=GROUP * 0), "the train split is empty: change data.test_fraction"),
    ],
)
def test_what_cannot_be_split_is_said(table: PairedArrays, says: str) -> None:
    with pytest.raises(UserError, match=says):
        split_rows(table, 0.3, 0.2, 0)


@pytest.mark.parametrize(("test", "val"), [(1, 0.2), (0.3, 1)])
def test_a_share_that_leaves_nothing(test: float, val: float) -> None:
    with pytest.raises(UserError, match=r"split leaves no training samples: change data\.test_fr"):
        split_rows(arrays(), test, val, 0)
