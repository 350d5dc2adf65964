from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ntdh_bench.datamodules import paired
from ntdh_bench.errors import NotStackable
from ntdh_bench.stacks.data import StackedData, check_alike
from tests.helpers import small_data

META = torch.device("meta")


def test_the_data_of_all_streams_lie_where_the_stack_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paired, "free_bytes", lambda device: 1e9)
    stack = StackedData([small_data(seed=seed) for seed in range(2)])
    strategy = SimpleNamespace(root_device=META)
    trainer: Any = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1)
    stack.trainer = trainer
    stack.setup("fit")
    batches, _, _ = next(iter(stack.train_dataloader()))
    batch = stack.on_after_batch_transfer(batches, 0)
    assert {value.device for value in batch.values()} == {META}  # type: ignore[attr-defined]
    stack.teardown("fit")
    for stream in stack.streams:
        assert next(stream.batches("train"))["target"].device.type == "cpu"


def test_only_data_of_one_size_and_measure_go_together() -> None:
    data = [small_data(seed=seed) for seed in range(2)]
    check_alike(data)
    data[1].splits["val"] = data[1].splits["test"]
    with pytest.raises(NotStackable, match="sizes depend on the seed"):
        check_alike(data)
    data[0].metric = "miou"
    with pytest.raises(NotStackable, match="not judged by the accuracy"):
        check_alike(data[:1])
