"""What a sample mask adds to a training step of dense distillation, as a share of the step."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch
from ntdh_bench.distillers import KD
from ntdh_bench.divergence import ncjsd
from ntdh_bench.layers import LOGITS
from ntdh_bench.masks import SampleMask
from ntdh_bench.models import CameraNet, DistillationModule
from ntdh_bench.models.base import task_loss
from ntdh_bench.rank_correlation import kendall_tau

pytestmark = pytest.mark.benchmark
BATCH, SIZE, CLASSES, ROUNDS = 4, (384, 1232), 20, 2
SHARE_SEEN = 0.15  # of the pixels that a lidar point falls on


@pytest.fixture(autouse=True)
def _two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def batch_of(share: float) -> PairedBatch:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(1, CLASSES, (BATCH, *SIZE), generator=generator)
    unseen = torch.rand(target.shape, generator=generator) >= share
    images = torch.rand(BATCH, 8, *SIZE, generator=generator)
    return PairedBatch(
        teacher=images[:, :3],
        student=images[:, 3:],
        target=target.masked_fill(unseen, 255),
        index=torch.arange(BATCH),
    )


@pytest.mark.parametrize(("rows", "classes"), [(128, 10), (100_000, 20)])
def test_rank_correlation_of_rows(rows: int, classes: int) -> None:
    student, teacher = torch.randn(2, rows, classes)
    target = torch.randint(classes, (rows,))
    part = min(rows, 1000)

    def seconds(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def loop() -> None:
        for a, b in zip(student[:part].numpy(), teacher[:part].numpy(), strict=True):
            kendalltau(a, b)

    slow = seconds(loop) * rows / part
    tau = min(seconds(lambda: kendall_tau(student, teacher)) for _ in range(5))
    by_ncjsd = min(seconds(lambda: ncjsd(teacher, student, target)) for _ in range(5))
    print(
        f"\n{rows} rows of {classes} classes: tau-b {1e3 * tau:.2f} ms, {slow / tau:.0f} times as "
        f"fast as SciPy row by row; NCJSD {1e3 * by_ncjsd:.2f} ms"
    )


def logits(seed: int) -> Tensor:
    return torch.randn(BATCH, CLASSES, *SIZE, generator=torch.Generator().manual_seed(seed))


def term(module: DistillationModule, mask: SampleMask | None, batch: PairedBatch) -> float:
    """Return the seconds that the distillation term takes, forward and backward."""
    assert module.distiller is not None
    student, teacher = logits(0).requires_grad_(), logits(1)
    module.sample_mask = mask
    start = time.perf_counter()
    module._distill(module.distiller, {LOGITS: student}, {LOGITS: teacher}, batch, 0).backward()
    return time.perf_counter() - start


def networks_and_task(module: DistillationModule, teacher: nn.Module, batch: PairedBatch) -> float:
    """Return the seconds of a step without its distillation term and optimiser."""
    start = time.perf_counter()
    with torch.no_grad():
        teacher(batch["teacher"])
    task_loss(module.student(batch["student"]), batch["target"], 255).backward()
    return time.perf_counter() - start


@pytest.mark.parametrize("share", [SHARE_SEEN, 1.0])
def test_share_of_a_training_step(share: float) -> None:
    network = partial(CameraNet, num_classes=CLASSES)
    module = DistillationModule(partial(network, 3), partial(network, 5), CLASSES, KD())
    teacher, batch = network(3).eval(), batch_of(share)
    masked = min(term(module, SampleMask(0.25), batch) for _ in range(ROUNDS))
    plain = min(term(module, None, batch) for _ in range(ROUNDS))
    rest = networks_and_task(module, teacher, batch)
    added = (masked - plain) / (rest + masked)
    print(
        f"\n{share:.0%} of {BATCH} x {SIZE[0]} x {SIZE[1]} labelled: step {masked + rest:.1f} s; "
        f"term {plain:.2f} s without, {masked:.2f} s with the mask: {added:.1%} of the step"
    )
    assert added < 0.1
