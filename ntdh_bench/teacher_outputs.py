"""Outputs of a frozen teacher, computed once per sample where its inputs never change."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ntdh_bench.batch import Inputs, PairedBatch, PairedData, Split
from ntdh_bench.layers import LOGITS, FeatureTap
from ntdh_bench.networks import to_device


class TeacherOutputs:
    """Looks up a frozen teacher's logits and tapped features by sample index.

    A split whose inputs never change (``data.cacheable(split)``) is run through the teacher once,
    at its first use; its outputs stay on ``device``, or in a memory-mapped temporary file when
    they need more than ``limit_bytes``. Other splits are run batch by batch, and so are those whose
    outputs need more than half of the free disk space, or than ``disk_limit_bytes``.

    Args:
        teacher: frozen network in eval mode, with its feature mask (if any) in place.
        layers: layers to tap beside the logits, of training data.
        evaluated_layers: those of validation and test data.
        data: the data module in use.
        device: where batches are.
        limit_bytes: most memory one split's outputs may take.
        disk_limit_bytes: most space they may take in a temporary file.
    """

    def __init__(
        self,
        teacher: nn.Module,
        layers: Iterable[str],
        evaluated_layers: Iterable[str],
        data: PairedData,
        device: torch.device,
        limit_bytes: int = 2 * 2**30,
        disk_limit_bytes: int = 16 * 2**30,
    ) -> None:
        self._layers = {LOGITS, *layers}
        self._evaluated_layers = {LOGITS, *evaluated_layers}
        self._tap = FeatureTap(teacher, self._layers | self._evaluated_layers)
        self._data = data
        self._device = device
        self._limit_bytes = limit_bytes
        self._disk_limit_bytes = disk_limit_bytes
        self._splits: dict[str, dict[str, Tensor]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self, batch: PairedBatch, split: Split) -> dict[str, Tensor]:
        """Return ``{"logits": (B, C, *spatial), layer: (B, ...)}`` for one batch of ``split``."""
        if split not in self._splits:
            self._splits[split] = self._run_split(split) if self._data.cacheable(split) else {}
        if not self._splits[split]:
            return self._run(batch["teacher"], split)
        index = batch["index"]
        return {
            name: values[index.to(values.device)].to(index.device)
            for name, values in self._splits[split].items()
        }

    def close(self) -> None:
        """Remove the hooks, the outputs and their file."""
        self._tap.close()
        self._splits.clear()
        if self._folder is not None:
            self._folder.cleanup()

    @torch.no_grad()
    def _run(self, inputs: Inputs, split: Split) -> dict[str, Tensor]:
        wanted = self._layers if split == "train" else self._evaluated_layers
        return {name: value for name, value in self._tap(inputs).items() if name in wanted}

    def _run_split(self, split: Split) -> dict[str, Tensor]:
        """Return the outputs of a whole split; nothing if there is no room for them."""
        stores: dict[str, Tensor] = {}
        first = 0
        size = 0
        for batch in self._data.batches(split):
            outputs = self._run(to_device(batch["teacher"], self._device), split)
            count = len(batch["index"])
            if not stores:
                size = self._data.split_size(split)
                stores = self._allocate(split, outputs, size)
                if not stores:
                    return {}
            for name, values in outputs.items():
                stores[name][first : first + count] = values.to(stores[name].device)
            first += count
        if first != size:
            raise RuntimeError(f"the {split} split yields {first} samples, not {size}")
        return stores

    def _allocate(self, split: str, outputs: dict[str, Tensor], size: int) -> dict[str, Tensor]:
        shapes = {name: (size, *values.shape[1:]) for name, values in outputs.items()}
        needed = sum(4 * int(np.prod(shape)) for shape in shapes.values())
        if needed <= self._limit_bytes:
            return {
                name: torch.empty(shape, dtype=outputs[name].dtype, device=self._device)
                for name, shape in shapes.items()
            }
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if needed > min(self._disk_limit_bytes, free // 2):
            return {}
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="ntdh-teacher-")
        return {
            name: torch.from_numpy(
                np.lib.format.open_memmap(
                    Path(self._folder.name) / f"{split}-{number}.npy", "w+", np.float32, shape
                )
            )
            for number, (name, shape) in enumerate(shapes.items())
        }
