"""Data path of MNIST/MNIST-M against the usual one: a sample at a time, PIL and torchvision."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ntdh_bench.datamodules import MNISTPairDataModule
from ntdh_bench.datamodules.mnist.datamodule import NoisyPairs
from ntdh_bench.datamodules.paired import Request

pytestmark = pytest.mark.benchmark


class PerSample(Dataset[tuple[Tensor, Tensor, int]]):
    """What ``torchvision.datasets.MNIST`` does: row -> PIL -> ToTensor -> noise -> Normalize."""

    def __init__(self, pairs: NoisyPairs) -> None:
        self.images = {name: images[:, 0] for name, images in pairs.images.items()}
        self.target = pairs.target
        self.transforms = {name: self._transform(level) for name, level in pairs.levels.items()}

    @staticmethod
    def _transform(level: float) -> transforms.Compose:
        return transforms.Compose(
            [
                transforms.ToTensor(),
                transforms.Lambda(lambda x: (x + level * torch.rand_like(x)).clamp(0, 1)),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        teacher, student = (
            self.transforms[name](Image.fromarray(images[index].numpy()))
            for name, images in self.images.items()
        )
        return teacher, student, int(self.target[index])


def rate(epoch: Callable[[], Iterator[int]], seconds: float = 1.0) -> float:
    """Return samples per second over about ``seconds``."""
    start, count = time.perf_counter(), 0
    for size in epoch():
        count += size
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def test_mnist_pairs_against_a_sample_at_a_time(tmp_path: Path) -> None:
    data = MNISTPairDataModule(
        source="simulated", simulated_train=20_000, cache_dir=str(tmp_path), val_size=0
    )
    data.setup()
    pairs: Any = data.splits["train"]
    slow = DataLoader(PerSample(pairs), batch_size=128, shuffle=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # In turns, best of each: other work on the machine then slows both alike.
        rounds = [
            (
                rate(lambda: (len(batch["target"]) for batch in data.train_dataloader())),
                rate(lambda: (len(target) for _, _, target in slow)),
            )
            for _ in range(8)
        ]
        ours, usual = (max(values) for values in zip(*rounds, strict=True))
    finally:
        torch.set_num_threads(threads)
    print(
        f"\nMNIST + MNIST-M with noise, batch 128, one core: {ours:,.0f} samples/s; a sample at a "
        f"time with PIL and torchvision {usual:,.0f} samples/s: {ours / usual:.1f}x"
    )
    # Without noise both give the same pixels.
    quiet = NoisyPairs(pairs.images["teacher"], pairs.images["student"], pairs.target, (0, 0), 0)
    for name, expected in zip(("teacher", "student"), PerSample(quiet)[7], strict=False):
        found = quiet[Request(0, torch.tensor([7]))][name]  # type: ignore[literal-required]
        assert np.allclose(found[0], expected, atol=1e-6)
