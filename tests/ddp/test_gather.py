"""``gather: true``: what two processes compute is what one with all samples does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench.datamodules import SyntheticDataModule
from ntdh_bench.distillers import CC, CRD, DIST, MLKD, PKT, RKD, SKD, SP, SRD, Combined, Distiller
from ntdh_bench.layers import LOGITS
from ntdh_bench.models import DistillationModule, MLPClassifier
from tests.helpers import optimizer, quiet_trainer, run_two_processes
from tests.models import test_dense as dense

SIZES = {"layer": 5, LOGITS: 4}
N_DATA = 30
# Rows of each rank: as many, not as many, none on one, none at all.
SPLITS = ((3, 3), (5, 2), (0, 6), (6, 0), (0, 0))
HALF = (5, 2)  # also in bfloat16
METHODS: dict[str, partial[Distiller]] = {
    "CC": partial(CC, layer="layer"),
    "CRD": partial(CRD, layer="layer", negatives=7, feat_dim=6),
    "CRD, counted": partial(CRD, layer="layer", negatives=40, feat_dim=6),
    "CRD, shared": partial(CRD, layer="layer", negatives=7, shared_negatives=True),
    "DIST": partial(DIST, temperature=2.0),
    "MLKD": partial(MLKD),
    "PKT": partial(PKT, weight=1.0, layer="layer"),
    "RKD": partial(RKD, layer="layer"),
    "SKD": partial(SKD),
    "SP": partial(SP, weight=1.0, layer="layer"),
    "SRD": partial(SRD, layer="layer"),
}
# Every process computes all of it; of others each has the part of its own rows.
SAME_EVERYWHERE = {"CC", "DIST", "PKT", "RKD", "SP"}


class Student(nn.Module):
    """A layer and logits of it, and a distiller."""

    def __init__(
        self, method: str, dtype: torch.dtype = torch.float64, gather: bool = True
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer, self.head = (torch.nn.Linear(*sizes) for sizes in ((3, 5), (5, 4)))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.distiller = METHODS[method](gather=gather)
        self.distiller.build(SIZES, SIZES, N_DATA, seed=1)
        self.to(dtype)
        if dtype == torch.bfloat16:
            self.distiller.float()  # as under autocast

    def forward(self, x: Tensor, teacher: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        features = self.layer(x)
        outputs = {"layer": features, LOGITS: self.head(features)}
        loss = self.distiller.distill(outputs, teacher, rows % 4, rows)
        return loss + 0 * outputs[LOGITS].sum()  # DDP wants all parameters in the loss


def step(
    student: nn.Module, own: slice, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, list[Tensor]]:
    """Return loss and gradients of some of six or seven samples."""
    generator = torch.Generator().manual_seed(3)

    def draw(width: int) -> Tensor:
        return torch.randn(7, width, generator=generator, dtype=torch.float64).to(dtype)[own]

    student.zero_grad()
    loss = student(draw(3), {"layer": draw(5), LOGITS: draw(4)}, torch.arange(7)[own])
    loss.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in student.parameters()]
    return loss.detach(), [gradient.clone() for gradient in gradients]


def cases() -> list[tuple[str, tuple[int, int], torch.dtype]]:
    """Return methods, rows of each rank, and types."""
    plain = [(name, split, torch.float64) for name in METHODS for split in SPLITS]
    return [*plain, *((name, HALF, torch.bfloat16) for name in METHODS)]


WORKER = """
from torch.nn.parallel import DistributedDataParallel
from tests.ddp.test_gather import Student, cases, step
result = []
for method, split, dtype in cases():
    first = rank * split[0]
    student = DistributedDataParallel(Student(method, dtype))
    result.append([step(student, slice(first, first + split[rank]), dtype) for _ in range(2)])
"""


def test_losses_and_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    """Two steps of each: at the second one CRD's banks hold the samples of both."""
    found = zip(*run_two_processes(WORKER, tmp_path), strict=True)
    for (method, split, dtype), ranks in zip(cases(), found, strict=True):
        case = f"{method}, {split}, {dtype}"
        student = Student(method, dtype)
        close: dict[str, Any] = {"rtol": 0.1, "atol": 0.05} if dtype == torch.bfloat16 else {}
        for one, two in zip(*ranks, strict=True):
            loss, gradients = step(student, slice(sum(split)), dtype)
            mean = (one[0] + two[0]) / 2
            torch.testing.assert_close(mean, loss, **close, msg=lambda m, c=case: f"{c}: {m}")
            if method in SAME_EVERYWHERE:
                assert torch.equal(one[0], two[0]), case
            for ours, wanted in zip(one[1], gradients, strict=True):
                torch.testing.assert_close(ours, wanted, **close, msg=lambda m, c=case: f"{c}: {m}")
            assert all(map(torch.equal, one[1], two[1])), case
        if sum(split):
            assert any(gradient.any() for gradient in gradients), case


@pytest.mark.parametrize("method", METHODS)
def test_alone_it_changes_no_bit(method: str) -> None:
    losses = [step(Student(method, gather=gather), slice(7)) for gather in (False, True)]
    assert torch.equal(losses[0][0], losses[1][0])
    assert all(map(torch.equal, losses[0][1], losses[1][1]))


class OneClass:
    """A mask that leaves the rows of class 0: many a batch of a process has none."""

    def keep_rows(self, teacher: Tensor, student: Tensor, target: Tensor, *_: int) -> Tensor:
        return (target == 0).nonzero().squeeze(1)


def vectors(batch_size: int) -> tuple[DistillationModule, SyntheticDataModule]:
    """Cross entropy and relations of masked rows; the last batch is a short one."""
    layers: dict[str, Any] = {"layer": "hidden1", "gather": True}
    terms: list[Distiller] = [RKD(**layers), SP(**layers), DIST(gather=True)]
    network = partial(MLPClassifier, 20, [8], 4)
    settings: dict[str, Any] = {"teacher": "independent", "optimizer": optimizer}
    owner = DistillationModule(network, network, 4, Combined(terms), **settings)
    owner.sample_mask = OneClass()  # type: ignore[assignment]
    torch.manual_seed(0)
    owner.frozen_teacher.hold(network())
    fractions = {"val_fraction": 0.25, "test_fraction": 0.25}
    return owner, SyntheticDataModule(
        n_samples=300, n_features=20, n_classes=4, batch_size=batch_size, **fractions
    )


def pixels(batch_size: int) -> tuple[DistillationModule, dense.Streets]:
    """Of which processes have different numbers, so that the cross entropy has no part in it."""
    terms: list[Distiller] = [RKD(layer="small", gather=True), DIST(gather=True), MLKD(gather=True)]
    owner = dense.module(Combined(terms), task_weight=0.0)
    torch.manual_seed(0)
    owner.frozen_teacher.hold(dense.teacher_network())
    return owner, dense.Streets(batch_size)


SIZE = 12  # of a batch of one process
TASKS: dict[str, Any] = {"vectors": vectors, "pixels": pixels}

TRAINING = """
from tests.ddp.test_gather import SIZE, TASKS, fitted
result = {name: fitted(name, SIZE // 2, folder, devices=2, strategy="ddp") for name in TASKS}
"""


def fitted(task: str, batch_size: int, folder: Path, **trainer: Any) -> dict[str, Tensor]:
    """Train for some epochs; returns the weights."""
    owner, data = TASKS[task](batch_size)
    quiet_trainer(folder, epochs=2, limit_val_batches=0, **trainer).fit(owner, datamodule=data)
    return {name: value.clone() for name, value in owner.state_dict().items()}


def test_training_is_that_of_one_process(tmp_path: Path) -> None:
    one, two = run_two_processes(TRAINING, tmp_path)
    for task in TASKS:
        alone, (untrained, _) = fitted(task, SIZE, tmp_path), TASKS[task](SIZE)
        before = untrained.state_dict()
        assert any((alone[name] - value).abs().max() > 1e-2 for name, value in before.items())
        for name, value in alone.items():
            assert torch.equal(one[task][name], two[task][name]), (task, name)
            torch.testing.assert_close(one[task][name], value, rtol=1e-3, atol=1e-4)
