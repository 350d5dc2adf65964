from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ntdh_bench.datamodules import SyntheticDataModule
from ntdh_bench.errors import UserError


def make(**options: Any) -> SyntheticDataModule:
    return SyntheticDataModule(**({"n_samples": 400} | options))


def whole(data: SyntheticDataModule, split: Any = "train") -> tuple[Tensor, Tensor, Tensor]:
    (batch,) = data.batches(split)
    teacher, student = batch["teacher"], batch["student"]
    assert isinstance(teacher, Tensor)
    assert isinstance(student, Tensor)
    return teacher, student, batch["target"]


def test_paper_protocol_sizes() -> None:
    data = SyntheticDataModule()
    assert (data.num_train, data.split_size("test"), data.has_validation) == (6000, 4000, False)
    teacher, student, target = whole(data)
    assert teacher.shape == student.shape == (6000, 50)
    assert teacher.dtype == student.dtype == torch.float32
    assert target.dtype == torch.int64
    assert target.unique().tolist() == [0, 1, 2, 3]
    assert (data.source, data.num_classes) == ("simulated", 4)


@pytest.mark.parametrize("gap", [0.0, 0.3, 0.5, 1.0])
def test_gap_sets_the_shared_columns(gap: float) -> None:
    teacher, student, _ = whole(make(gap=gap))
    shared = [column for column in range(50) if torch.equal(teacher[:, column], student[:, column])]
    shift = round(gap * 20)
    assert shared == list(range(shift, 20))
    # The teacher's block holds the problem's own columns: those a student placed there would see.
    _, moved, _ = whole(make(gap=0, first=shift))
    assert torch.equal(teacher[:, shift : shift + 20], moved[:, shift : shift + 20])
    assert not torch.equal(teacher[:, :shift], moved[:, :shift]) or shift == 0


def test_student_does_not_depend_on_the_gap() -> None:
    assert torch.equal(whole(make(gap=0.0))[1], whole(make(gap=0.7))[1])


def test_columns_are_standardised_by_training_samples() -> None:
    _, student, _ = whole(make())
    decisive = student[:, :20].double()
    assert decisive.mean(0).abs().max() < 1e-6
    assert (decisive.std(0, correction=0) - 1).abs().max() < 1e-5
    _, noise, _ = whole(make(n_samples=4000))
    assert noise[:, 20:].mean(0).abs().max() < 0.1
    assert (noise[:, 20:].std(0) - 1).abs().max() < 0.1


def test_splits_are_disjoint_and_the_test_split_stays() -> None:
    data = make(val_fraction=0.1)
    assert [data.split_size(split) for split in ("train", "val", "test")] == [200, 40, 160]
    rows = torch.cat([whole(data, split)[1] for split in ("train", "val", "test")])
    assert len(rows.unique(dim=0)) == 400
    assert torch.equal(whole(make(), "test")[2], whole(data, "test")[2])


def test_same_data_seed_same_data_and_fingerprint() -> None:
    first, second = make(gap=0.4, seed=1), make(gap=0.4, seed=2, steps_per_epoch=3)
    assert all(torch.equal(a, b) for a, b in zip(whole(first), whole(second), strict=True))
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(
    "change", [{"gap": 0.5}, {"data_seed": 1}, {"n_samples": 500}, {"val_fraction": 0.1}]
)
def test_fingerprint_changes_with_the_data(change: dict[str, Any]) -> None:
    assert make(**change).fingerprint != make().fingerprint


def test_steps_per_epoch_repeats_the_very_same_tensors() -> None:
    loader = make(steps_per_epoch=5).train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    assert len({id(batch["teacher"]) for batch in batches}) == 1
    assert len(list(make(steps_per_epoch=5).test_dataloader())) == 1


def test_no_steps_per_epoch_is_one_pass_in_batches() -> None:
    data = make(steps_per_epoch=None, batch_size=100)
    assert [len(batch["index"]) for batch in data.train_dataloader()] == [100, 100, 40]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gap": 1.1}, r"data.gap is 1.1: it must lie in \[0, 1\]"),
        ({"gap": -0.1}, r"data.gap is -0.1"),
        ({"gap": float("nan")}, r"data.gap is nan"),
        ({"gap": 1, "decisive": 26}, r"need 52 columns"),
        ({"first": 31}, r"need 51 columns"),
        ({"test_fraction": 0.9, "val_fraction": 0.1}, r"split of 400 samples empty"),
        ({"test_fraction": 0}, r"split of 400 samples empty"),
        ({"val_fraction": -0.1}, r"data.val_fraction is -0.1"),
        ({"test_fraction": float("nan")}, r"data.test_fraction is nan"),
        ({"n_classes": 1}, r"data.n_classes is 1"),
        ({"n_features": 2, "decisive": 2, "n_classes": 5}, r"the 4 corners that 2 features"),
        ({"steps_per_epoch": 2, "batch_size": 10}, r"data.batch_size is 10"),
        ({"steps_per_epoch": 0}, r"data.steps_per_epoch is 0"),
        ({"n_samples": 0}, r"data.n_samples is 0"),
        ({"n_samples": 10**12}, r"expected at most 536870912"),
        ({"n_features": 10**9}, r"expected at most 536870912"),
        ({"n_classes": 10**8}, r"data.n_classes is 100000000, expected at most"),
    ],
)
def test_bad_parameters_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


def test_batch_size_larger_than_the_data() -> None:
    with pytest.raises(UserError, match=r"data.batch_size is 241.*only 240 training samples"):
        make(batch_size=241).setup()


def test_unimodal() -> None:
    """The teacher sees the student's inputs, in every kind of batch."""
    data = SyntheticDataModule(gap=0.5, n_samples=200, unimodal=True)
    both = SyntheticDataModule(gap=0.5, n_samples=200)
    for split in ("train", "test"):
        for batch in (next(data.batches(split)), next(data.batches(split, batch_size=7))):
            assert torch.equal(batch["teacher"], batch["student"])
    assert torch.equal(next(data.batches("test"))["student"], next(both.batches("test"))["student"])
    assert data.fingerprint != both.fingerprint
