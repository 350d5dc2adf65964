"""What the Trainer, the data pipeline and a cached teacher cost, on the MNIST network."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.optim import SGD

from ntdh_bench.datamodules import paired
from ntdh_bench.datamodules.mnist.datamodule import MNISTPairDataModule
from ntdh_bench.distillers import KD
from ntdh_bench.models import DistillationModule, JointModule, MLPClassifier, base
from tests.helpers import quiet_trainer

pytestmark = pytest.mark.benchmark

EPOCHS, ROUNDS, BATCH = 3, 3, 128
mlp = partial(MLPClassifier, 784, [512, 256], 10)
sgd = partial(SGD, lr=1e-3, momentum=0.9)


class EpochTimes(Callback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = now()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.times.append(now() - self.start)


def now() -> float:
    """Seconds, when a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@pytest.fixture(autouse=True)
def _two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    trainer = quiet_trainer(folder)
    trainer.fit(JointModule(mlp, mlp, 10, sgd), datamodule=data(4.0))
    trainer.save_checkpoint(folder / "joint.ckpt")
    return folder / "joint.ckpt"


def data(noise: float) -> MNISTPairDataModule:
    return MNISTPairDataModule(
        source="simulated", teacher_noise=noise, student_noise=noise / 4, batch_size=BATCH
    )


def trainer_epoch(
    folder: Path, teacher: Path, noise: float, distiller: KD | None, **changes: Any
) -> float:
    """Best epoch of a fresh run, in seconds."""
    module = DistillationModule(mlp, mlp, 10, distiller, optimizer=sgd)
    module.frozen_teacher.load(teacher)
    times = EpochTimes()
    trainer = quiet_trainer(folder, EPOCHS, callbacks=[times], limit_val_batches=0, **changes)
    trainer.fit(module, datamodule=data(noise))
    return min(times.times)


def bare_epoch(noise: float) -> float:
    """The same arithmetic in a plain loop over tensors; best epoch, in seconds."""
    module = data(noise)
    module.setup()
    split: Any = module.splits["train"]
    images_a, images_b = split.images["teacher"], split.images["student"]
    teacher, student = mlp(), mlp()
    optimizer = sgd(student.parameters())
    times = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for index in torch.randperm(len(split)).split(BATCH):
            x_a = images_a[index].float().div(255) + noise * torch.rand(len(index), 1, 28, 28)
            x_b = images_b[index].float().div(255) + noise / 4 * torch.rand(len(index), 1, 28, 28)
            x_a, x_b = (x_a.clamp(0, 1) - 0.5) / 0.5, (x_b.clamp(0, 1) - 0.5) / 0.5
            with torch.no_grad():
                soft = log_softmax(teacher(x_a) / 4, 1)
            logits = student(x_b)
            distance = kl_div(
                log_softmax(logits / 4, 1), soft, log_target=True, reduction="batchmean"
            )
            loss = cross_entropy(logits, split.target[index]) + 16 * distance
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(first: Callable[[], float], second: Callable[[], float]) -> tuple[float, float]:
    """Best of some rounds each, in turns, so that a slow moment hits both."""
    pairs = [(first(), second()) for _ in range(ROUNDS)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def test_trainer_against_a_bare_loop(tmp_path: Path, teacher: Path) -> None:
    trained, bare = compare(
        lambda: trainer_epoch(tmp_path, teacher, 4.0, KD()), lambda: bare_epoch(4.0)
    )
    samples = data(4.0)
    samples.setup()
    print(
        f"\nTrainer epoch with noise, teacher and KD: {1e3 * trained:.0f} ms, bare loop "
        f"{1e3 * bare:.0f} ms for {samples.num_train} samples: {trained / bare:.2f}x (asked: 1.5x)"
    )
    assert trained > 0


def test_cached_teacher_against_the_student_alone(tmp_path: Path, teacher: Path) -> None:
    distilled, alone = compare(
        lambda: trainer_epoch(tmp_path, teacher, 0.0, KD()),
        lambda: trainer_epoch(tmp_path, teacher, 0.0, None),
    )
    print(
        f"\nepoch with KD from a cached teacher: {1e3 * distilled:.0f} ms, student alone "
        f"{1e3 * alone:.0f} ms: {distilled / alone:.2f}x (asked: 1.2x)"
    )
    assert distilled > 0


def test_data_on_the_device_against_data_on_the_cpu(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run alone on whatever device there is; on a CPU both are the same."""

    def epoch(resident: bool) -> float:
        with monkeypatch.context() as patch:
            if not resident:  # and a look at every loss
                patch.setattr(paired, "free_bytes", lambda device: 0)
                patch.setattr(base, "steps_unseen", lambda device: 1)
            return trainer_epoch(tmp_path, teacher, 4.0, KD(), accelerator="auto", devices=1)

    here, there = compare(lambda: epoch(False), lambda: epoch(True))
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(
        f"\nepoch on {name}: {1e3 * there:.0f} ms with data where it computes, {1e3 * here:.0f} ms "
        f"with batches from the CPU and a look at every loss: {here / there:.2f}x"
    )
    assert there > 0
