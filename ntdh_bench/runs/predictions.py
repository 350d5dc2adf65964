"""Predictions on disk: arrays that grow batch by batch, so that no split need fit in memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

CLASSES, LOGITS = "classes", "logits"


class GrowingArray:
    """An ``.npy`` file to which rows are added; ``numpy.load(..., mmap_mode="r")`` reads it.

    Args:
        file: empty, opened to write bytes.
        first: sets dtype and shape of the rows: ``(N, ...)``.
    """

    def __init__(self, file: IO[bytes], first: np.ndarray) -> None:
        self._file = file
        self._dtype, self._row = first.dtype, first.shape[1:]
        self._count = 0
        self._write_header()

    def add(self, rows: np.ndarray) -> None:
        """Append rows ``(N, ...)``."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._count += len(rows)

    def close(self) -> None:
        """Write how many rows there are."""
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        """Write a header, whose length does not depend on the number of rows (NumPy's format)."""
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count, *self._row),
        }
        np.lib.format.write_array_header_1_0(self._file, header)


class PredictionFiles(BasePredictionWriter):
    """Writes ``index``, ``target`` and the logits or the classes of every batch to ``.npy`` files.

    Classes are written where a sample has many targets (pixels, voxels, points), unless logits are
    asked for. Use as a context: the files are complete after it.

    Args:
        folder: exists, and is empty.
        logits: whether logits are written in any case.
    """

    def __init__(self, folder: Path, logits: bool) -> None:
        super().__init__("batch")
        self._folder = folder
        self._logits = logits
        self._arrays: dict[str, GrowingArray] = {}
        self._files = ExitStack()

    def __enter__(self) -> PredictionFiles:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with self._files:
            for array in self._arrays.values() if kind is None else ():
                array.close()

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Any, *args: Any
    ) -> None:
        """Add a batch (Lightning hook)."""
        batch = args[1]
        for name, values in self._chosen(prediction, len(batch["index"])).items():
            if name not in self._arrays:
                file = self._files.enter_context((self._folder / f"{name}.npy").open("wb"))
                self._arrays[name] = GrowingArray(file, values)
            self._arrays[name].add(values)

    def _chosen(self, prediction: Mapping[str, Tensor], samples: int) -> dict[str, np.ndarray]:
        logits, target = prediction[LOGITS].cpu(), prediction["target"].cpu().numpy()
        index = prediction["index"].cpu().numpy()
        dense = target.ndim > 1 or len(target) != samples
        if dense and logits.shape[1] < 2**15:
            target = target.astype(np.int16)  # a quarter of its size, and there are many
        if self._logits or not dense:
            return {LOGITS: logits.float().numpy(), "target": target, "index": index}
        smallest = np.min_scalar_type(logits.shape[1] - 1)
        classes = logits.argmax(dim=1).numpy().astype(smallest)
        return {CLASSES: classes, "target": target, "index": index}
