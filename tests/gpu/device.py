"""The GPU that these tests need, and what puts modules and data there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ntdh_bench.datamodules.mnist.datamodule import MNISTPairDataModule
from ntdh_bench.datamodules.paired import PairedDataModule

GPU = torch.device("cuda", 0)
#: to be the ``pytestmark`` of every file here
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def mnist(**changes: Any) -> MNISTPairDataModule:
    settings = {"simulated_train": 300, "simulated_test": 100, "batch_size": 32}
    return MNISTPairDataModule(source="simulated", **{**settings, **changes})


def begun(data: PairedDataModule) -> None:
    """Begin as a Trainer on the GPU does."""
    strategy = SimpleNamespace(root_device=GPU)
    trainer: Any = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1)
    data.trainer = trainer
    data.setup("fit")
