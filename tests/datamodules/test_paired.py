from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ntdh_bench.batch import PairedBatch, inputs_of
from ntdh_bench.datamodules import paired
from ntdh_bench.datamodules.paired import (
    PairedDataModule,
    PairedDataset,
    Request,
    RequestSampler,
    TensorPairs,
)
from ntdh_bench.errors import UserError
from tests.fake_gpu import GPU, fake_gpu

META = torch.device("meta")  # a device that takes any tensor, and keeps no value


class Numbers(PairedDataModule):
    """Sample i is the number i (teacher) and -i (student)."""

    name = "numbers"
    num_classes = 3

    def __init__(self, size: int = 10, val: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.sizes = {"train": size, "test": 7} | ({"val": val} if val else {})

    def load(self) -> dict[Any, PairedDataset]:
        numbers = {split: torch.arange(size).float()[:, None] for split, size in self.sizes.items()}
        return {
            split: TensorPairs(values, {"x": -values}, values[:, 0].long() % 3)
            for split, values in numbers.items()
        }

    def identity(self) -> dict[str, Any]:
        return dict(self.sizes)


def indices(sampler: RequestSampler) -> list[list[int]]:
    return [request.indices.tolist() for request in sampler if request.indices is not None]


def flat(sampler: RequestSampler) -> list[int]:
    return [index for batch in indices(sampler) for index in batch]


def test_sampler_gives_every_sample_once_in_a_new_order_each_epoch() -> None:
    sampler = RequestSampler(23, 5, shuffle=True, seed=1)
    first = flat(sampler)
    assert sorted(first) == list(range(23))
    assert [len(batch) for batch in indices(sampler)] == [5, 5, 5, 5, 3]
    assert len(sampler) == 5
    sampler.set_epoch(1)
    assert flat(sampler) != first
    sampler.set_epoch(0)  # as after resuming
    assert flat(sampler) == first
    assert flat(RequestSampler(23, 5, shuffle=True, seed=2)) != first


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_a_training_epoch_and_wrap_around(world_size: int) -> None:
    size = 23
    ranks = [
        RequestSampler(size, 5, shuffle=True, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    seen = [flat(sampler) for sampler in ranks]
    assert len({tuple(map(len, indices(sampler))) for sampler in ranks}) == 1
    assert set().union(*seen) == set(range(size))
    assert sum(map(len, seen)) == -(-size // world_size) * world_size
    # Together the ranks go through the order of a single process.
    single = flat(RequestSampler(size, 5, shuffle=True))
    together = [index for step in zip(*seen, strict=True) for index in step]
    assert together[:size] == single


@pytest.mark.parametrize(("size", "world_size"), [(7, 2), (7, 4), (2, 5), (8, 4)])
def test_evaluation_pads_with_marked_duplicates(size: int, world_size: int) -> None:
    ranks = [
        RequestSampler(size, 3, shuffle=False, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    seen = [flat(sampler) for sampler in ranks]
    assert len({len(sampler) for sampler in ranks}) == 1
    assert len(set(map(len, seen))) == 1
    together = [index for part in seen for index in part]
    assert sorted(index for index in together if index >= 0) == list(range(size))
    padding = [index for index in together if index < 0]
    assert len(padding) == -(-size // world_size) * world_size - size
    assert all(0 <= -(index + 1) < size for index in padding)


def test_padding_has_its_inputs_but_an_ignored_target() -> None:
    dataset = TensorPairs(torch.arange(4.0), torch.arange(4.0), torch.arange(4))
    batch = dataset[Request(0, torch.tensor([3, -1, -3]))]
    assert batch["target"].tolist() == [3, 255, 255]
    assert batch["index"].tolist() == [3, 0, 2]
    assert isinstance(batch["teacher"], Tensor)
    assert batch["teacher"].tolist() == [3, 0, 2]
    assert dataset.target.tolist() == [0, 1, 2, 3]


def test_padding_of_dense_targets_is_ignored_everywhere() -> None:
    dataset = TensorPairs(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 3, 3).long())
    assert dataset[Request(0, torch.tensor([-2]))]["target"].unique().tolist() == [255]


def test_full_batch_returns_the_stored_tensors() -> None:
    data = Numbers()
    data.repeats = 4
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 4
    assert all(batch["teacher"] is batches[0]["teacher"] for batch in batches)


def test_batches_are_in_order_and_complete() -> None:
    data = Numbers(size=10, batch_size=4)
    batches = list(data.batches("train"))
    assert [len(batch["index"]) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(10))
    assert [len(batch["index"]) for batch in data.batches("test", batch_size=7)] == [7]
    student = batches[1]["student"]
    assert isinstance(student, dict)
    assert student["x"].flatten().tolist() == [-4, -5, -6, -7]


def test_sizes_and_what_is_there() -> None:
    data = Numbers(val=5)
    assert (data.num_train, data.split_size("val"), data.has_validation) == (10, 5, True)
    assert data.cacheable("train")
    assert not Numbers().has_validation
    assert Numbers().fingerprint == Numbers(seed=3, batch_size=2).fingerprint
    assert Numbers().fingerprint != data.fingerprint


def test_a_teacher_of_both_modalities_is_given_both() -> None:
    own, data = Numbers(val=5), Numbers(val=5)
    data.teacher_inputs = "both"
    batch, alone = next(data.batches("test")), next(own.batches("test"))
    both = batch["teacher"]
    assert isinstance(both, dict)
    assert both.keys() == {"teacher", "student.x"}
    assert batch["student"] == {"x": both["student.x"]} == inputs_of("student", both)
    assert torch.equal(both["teacher"], alone["teacher"])  # type: ignore[arg-type]
    assert torch.equal(both["student.x"], alone["student"]["x"])  # type: ignore[call-overload]
    (shown,) = data.test_dataloader()
    assert shown["teacher"].keys() == both.keys()
    assert data.fingerprint == own.fingerprint  # the student sees the same
    assert data.needs("teacher")
    assert data.needs("student")


@pytest.mark.parametrize("changing", ["teacher_fixed", "student_fixed"])
def test_outputs_of_a_teacher_of_both_are_kept_if_both_are_fixed(changing: str) -> None:
    data = Numbers()
    data.teacher_inputs = "both"
    assert data.cacheable("train")
    setattr(data.splits["train"], changing, False)
    assert not data.cacheable("train")
    assert data.cacheable("test")


def test_a_teacher_of_the_students_inputs_alone_does_not_see_both() -> None:
    with pytest.raises(UserError, match=r"data\.unimodal gives .* leave data\.unimodal out"):
        Numbers(unimodal=True).teacher_inputs = "both"


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UserError, match=r"11.*10 training samples"):
        Numbers(size=10, batch_size=11).setup()
    with pytest.raises(UserError, match=r"batch_size is 0: it must be at least 1"):
        Numbers(batch_size=0)
    with pytest.raises(UserError, match=r"numbers has no 'val' split: choose one of train, test"):
        next(Numbers().batches("val"))


class Recorder(LightningModule):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: PairedBatch) -> Tensor:
        self.seen["train"].append(batch["index"].tolist())
        loss: Tensor = self.layer(batch["teacher"]).sum()
        return loss

    def validation_step(self, batch: PairedBatch) -> None:
        self.seen["val"].append(batch["index"].tolist())

    def test_step(self, batch: PairedBatch) -> None:
        self.seen["test"].append(batch["index"].tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(epochs: int) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@pytest.mark.parametrize("val", [0, 4])
def test_trainer_moves_the_order_on_every_epoch(val: int) -> None:
    module, data = Recorder(), Numbers(size=9, val=val, batch_size=3, seed=5)
    trainer(2).fit(module, datamodule=data)
    expected = []
    for epoch in range(2):
        sampler = RequestSampler(9, 3, shuffle=True, seed=5)
        sampler.set_epoch(epoch)
        expected += indices(sampler)
    assert module.seen["train"] == expected
    assert module.seen["val"] == ([[0, 1, 2], [3]] * 2 if val else [])
    trainer(1).test(module, datamodule=data, verbose=False)
    assert module.seen["test"] == [[0, 1, 2], [3, 4, 5], [6]]


def devices(batch: PairedBatch) -> set[torch.device]:
    values = [*batch["student"].values()] if isinstance(batch["student"], dict) else []
    return {v.device for v in [*batch.values(), *values] if isinstance(v, Tensor)}


def on_device(data: PairedDataModule, device: torch.device, stage: str = "fit") -> None:
    """Begin as a Trainer on that device does."""
    strategy = SimpleNamespace(root_device=device)
    data.trainer = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1)  # type: ignore[assignment]
    data.setup(stage)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much free memory as the training split of 10 Numbers may take."""
    needed = 10 * (4 + 4 + 8)
    monkeypatch.setattr(paired, "free_bytes", lambda device: needed / paired.RESIDENT_SHARE)


@pytest.mark.usefixtures("room")
def test_a_split_that_fits_lies_on_the_device_while_a_trainer_uses_it() -> None:
    data = Numbers(size=10, val=11, batch_size=4)
    on_device(data, META)
    assert [devices(batch) for batch in data.train_dataloader()] == [{META}] * 3
    assert [devices(batch) for batch in data.batches("train")] == [{META}] * 3
    first = data.train_dataloader().dataset
    too_large: Any = data.val_dataloader()
    assert devices(next(iter(too_large))) == {torch.device("cpu")}
    fingerprint = data.fingerprint  # which looks at values
    data.teardown("fit")
    (batch,) = data.batches("train", batch_size=10)
    assert batch["teacher"].flatten().tolist() == list(range(10))  # type: ignore[union-attr]
    on_device(data, META, "validate")
    assert data.train_dataloader().dataset is first  # copied once
    assert data.fingerprint == fingerprint


@pytest.mark.usefixtures("room")
def test_workers_and_the_cpu_are_given_what_was_loaded() -> None:
    for workers, device in [(1, META), (0, torch.device("cpu"))]:
        data = Numbers(size=10, batch_size=4, num_workers=workers)
        on_device(data, device)
        assert data.train_dataloader().dataset is data.splits["train"]


def test_without_a_known_room_data_stay() -> None:
    data = Numbers(size=10, batch_size=4)
    on_device(data, META)
    assert paired.free_bytes(META) == 0
    assert data.train_dataloader().dataset is data.splits["train"]


class FromFiles(TensorPairs):
    held = ()


def test_what_is_read_from_files_has_nothing_to_move() -> None:
    one = torch.ones(3, 2)
    assert FromFiles(one, one, torch.zeros(3).long()).held_bytes == 0
    assert TensorPairs(one, {"x": one}, torch.zeros(3).long()).held_bytes == 2 * 24 + 24


def test_samples_are_made_on_the_device_alone() -> None:
    dataset = Numbers(size=10).load()["train"]
    with fake_gpu():
        moved = dataset.on(GPU)
        whole = moved[Request(0, None)]
        batch = moved.samples(torch.tensor([3, 1]).to(GPU), 0)
    assert devices(whole) == devices(batch) == {GPU}
    assert [len(whole["target"]), len(batch["target"])] == [10, 2]
    assert dataset.device.type == "cpu"  # is as it was


def test_padding_is_ignored_on_the_device() -> None:
    dataset = Numbers(size=10).load()["train"].on(META)
    batch = dataset[Request(0, torch.tensor([3, -1, -3]))]
    assert devices(batch) == {META}
