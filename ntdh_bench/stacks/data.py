"""The data of a stack: a batch of each of its streams at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from ntdh_bench.batch import Inputs, PairedBatch, PairedData, Split
from ntdh_bench.errors import NotStackable


class StackedData(LightningDataModule):
    """Streams that differ in their seed: data modules of one split size and batch size.

    A batch is that of all streams, its tensors ``(S, B, ...)``.

    Args:
        streams: data modules, set up.
    """

    def __init__(self, streams: Sequence[Any]) -> None:
        super().__init__()
        self.streams = list(streams)

    def setup(self, stage: str) -> None:
        """Set the streams up as this Trainer's (Lightning hook): their data go to its device."""
        for stream in self.streams:
            stream.trainer = self.trainer
            stream.setup(stage)

    def teardown(self, stage: str) -> None:
        """End the streams' use as well (Lightning hook)."""
        for stream in self.streams:
            stream.teardown(stage)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> PairedBatch:
        """Put the batches of the streams together (Lightning hook)."""
        return together(batch)

    def train_dataloader(self) -> CombinedLoader:
        """Return the streams' training batches, side by side."""
        return _side_by_side([stream.train_dataloader() for stream in self.streams])

    def val_dataloader(self) -> CombinedLoader | list[Any]:
        """Return their validation batches; an empty list if there is no such split."""
        loaders = [stream.val_dataloader() for stream in self.streams]
        return _side_by_side(loaders) if all(loaders) else []

    def test_dataloader(self) -> CombinedLoader:
        """Return their test batches."""
        return _side_by_side([stream.test_dataloader() for stream in self.streams])


def check_alike(streams: Sequence[PairedData]) -> None:
    """Refuse data whose batches do not go together, or that are measured in another way.

    Raises:
        NotStackable: splits of different sizes, or data that are not judged by the accuracy.
    """
    if {stream.metric for stream in streams} != {"accuracy"}:
        raise NotStackable(f"{streams[0].name} is not judged by the accuracy")
    if len({tuple(_sizes(stream)) for stream in streams}) != 1:
        raise NotStackable(f"{streams[0].name} has splits whose sizes depend on the seed")


def _sizes(stream: PairedData) -> list[int]:
    splits: list[Split] = ["train", "val", "test"] if stream.has_validation else ["train", "test"]
    return [stream.split_size(split) for split in splits]


def _side_by_side(loaders: list[Any]) -> CombinedLoader:
    return CombinedLoader(loaders, "min_size")


def together(batches: Sequence[PairedBatch]) -> PairedBatch:
    """Return the batches of S streams as one, all of its tensors ``(S, B, ...)``."""
    return PairedBatch(
        teacher=_stacked([batch["teacher"] for batch in batches]),
        student=_stacked([batch["student"] for batch in batches]),
        target=torch.stack([batch["target"] for batch in batches]),
        index=torch.stack([batch["index"] for batch in batches]),
    )


def one_of(batch: PairedBatch, stream: int) -> PairedBatch:
    """Return the batch of one stream, of one of all of them."""
    teacher, student = (_one_of(batch[name], stream) for name in ("teacher", "student"))
    target, index = batch["target"][stream], batch["index"][stream]
    return PairedBatch(teacher=teacher, student=student, target=target, index=index)


def of_members(inputs: Inputs, streams: Tensor) -> Inputs:
    """Return ``(K, B, ...)``, what each member's stream gives, of ``(S, B, ...)``."""
    if isinstance(inputs, dict):
        return {name: value.index_select(0, streams) for name, value in inputs.items()}
    return inputs.index_select(0, streams)


def _one_of(inputs: Inputs, stream: int) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs[stream]
    return {name: value[stream] for name, value in inputs.items()}


def _stacked(inputs: Sequence[Inputs]) -> Inputs:
    first = inputs[0]
    if isinstance(first, Tensor):
        return torch.stack([values for values in inputs if isinstance(values, Tensor)])
    parts = [values for values in inputs if isinstance(values, dict)]
    return {name: torch.stack([part[name] for part in parts]) for name in first}
