"""Gathers what a run keeps of its test, while that is measured anyway."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ntdh_bench.batch import PairedBatch, PairedData, has_both, inputs_of
from ntdh_bench.contract import Evaluated
from ntdh_bench.divergence import flatten_dense, ncjsd, promote
from ntdh_bench.masks import FeatureMask, Mask, SampleMask
from ntdh_bench.pictures import views
from ntdh_bench.pictures.file import NETWORKS, Pictures

_SAMPLES = 6  # or some more, where each of fewer batches gives as many


class Gathering(Callback):
    """Counts by class and a few samples of a test, from what the test step returns.

    It draws no numbers and changes nothing. The samples lie evenly over the test set, of several
    processes over the part of the first.

    Args:
        mask: of the run: what it leaves out is gathered as well.
    """

    def __init__(self, mask: Mask | None) -> None:
        self._mask = mask
        self._sums: dict[str, Tensor] = {}
        self._rows: list[dict[str, Any]] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PairedBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch (Lightning hook)."""
        if not isinstance(outputs, Mapping) or not {"student", "target"} <= outputs.keys():
            return  # a module of one's own, which says nothing
        found, data = cast(Evaluated, outputs), _data(trainer)
        self._count(found, data)
        kept = self._dropped(found, batch, data)
        chosen = _chosen(batch_idx, trainer.num_test_batches[0], len(batch["index"]))
        if chosen and trainer.is_global_zero:
            self._rows.append(_samples(found, batch, data, chosen, kept))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sum over processes (Lightning hook)."""
        for name, value in self._sums.items():
            summed = trainer.strategy.reduce(value, reduce_op="sum")
            self._sums[name] = cast(Tensor, summed).cpu()

    def pictures(self, data: PairedData) -> Pictures:
        """Return what was gathered of data."""
        classes = data.class_names or map(str, range(data.num_classes))
        found = Pictures(tuple(classes), **_of_mask(self._mask), **_joined(self._rows))
        for network in NETWORKS:
            if f"{network}_confusion" in self._sums:
                found.confusion[network] = self._sums[f"{network}_confusion"].numpy()
        if "ncjsd" in self._sums:
            rows = found.confusion["student"].sum(axis=1)
            found.ncjsd = self._sums["ncjsd"].numpy() / rows.clip(1)
        if "dropped" in self._sums:
            found.dropped = self._sums["dropped"].numpy()
        return found

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _count(self, found: Evaluated, data: PairedData) -> None:
        """Add confusion matrices, and the NCJSD of each class."""
        rows, classes = {}, data.num_classes
        for network in NETWORKS:
            if network in found:
                logits = found[network]  # type: ignore[literal-required]
                rows[network], target = flatten_dense(logits, found["target"], data.ignore_index)
                cells = target * classes + rows[network].argmax(dim=1)
                counts = torch.bincount(cells, minlength=classes**2)
                self._add(f"{network}_confusion", counts.view(classes, classes))
        if len(rows) == len(NETWORKS):
            values = ncjsd(rows["teacher"], rows["student"], target).double()
            zeros = values.new_zeros(classes)
            self._add("ncjsd", zeros.index_add(0, target, values))

    def _dropped(self, found: Evaluated, batch: PairedBatch, data: PairedData) -> Tensor | None:
        """Return what a sample mask would drop of the batch, shaped like the target; counts it."""
        if not isinstance(self._mask, SampleMask) or "teacher" not in found:
            return None
        target = found["target"]
        teacher, labels = flatten_dense(found["teacher"], target, data.ignore_index)
        student, _ = flatten_dense(found["student"], target, data.ignore_index)
        first = int(batch["index"][0])
        kept = self._mask.keep_measured(teacher, student, labels, "test", first)
        dropped = torch.ones_like(labels, dtype=torch.bool)
        dropped[kept] = False
        self._add("dropped", torch.bincount(labels[dropped], minlength=data.num_classes))
        marked = torch.zeros_like(target, dtype=torch.bool)
        marked[target != data.ignore_index] = dropped
        return marked


def _data(trainer: Trainer) -> PairedData:
    return cast(PairedData, trainer.datamodule)  # type: ignore[attr-defined]


def _chosen(batch: int, batches: float, size: int) -> list[int]:
    """Return the rows of a batch that are kept, so that all lie evenly over the batches."""
    if math.isinf(batches):  # how many there are is not known
        return _chosen(0, 1, size) if batch == 0 else []
    count = int(batches)
    if count >= _SAMPLES:
        places = {number * count // _SAMPLES for number in range(_SAMPLES)}
        return [0] if batch in places else []
    each = min(size, -(-_SAMPLES // count))
    return [number * size // each for number in range(each)]


def _samples(
    found: Evaluated,
    batch: PairedBatch,
    data: PairedData,
    chosen: list[int],
    dropped: Tensor | None,
) -> dict[str, Any]:
    """Return inputs, and outputs where they are of whole samples, of some rows of a batch."""
    target = batch["target"][chosen]
    kept: dict[str, Any] = {"target": target, "ignored": target == data.ignore_index}
    for modality in NETWORKS:
        inputs = batch[modality]  # type: ignore[literal-required]
        if modality == "teacher" and has_both(inputs):
            inputs = inputs_of("teacher", inputs)
        given = inputs if isinstance(inputs, dict) else {"": inputs}
        whole = {n: v for n, v in given.items() if len(v) == len(batch["index"])}
        kept |= {f"{modality}.{n}" if n else modality: v[chosen].cpu() for n, v in whole.items()}
    if found["target"].shape != batch["target"].shape:
        return {"rows": kept, "outputs": {}}  # of points, say
    outputs: dict[str, Any] = {}
    for network in NETWORKS:
        if network in found:
            logits = promote(found[network][chosen])[0]  # type: ignore[literal-required]
            confidence, prediction = logits.float().softmax(dim=1).max(dim=1)
            outputs[f"{network}_prediction"] = prediction
            outputs[f"{network}_confidence"] = confidence
    if dropped is not None:
        outputs["dropped"] = dropped[chosen]
    return {"rows": kept, "outputs": outputs}


def _joined(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Return samples of several batches as fields of Pictures."""
    if not batches:
        return {}
    rows = _stacked([batch["rows"] for batch in batches])
    if "target" not in rows:
        return {}  # of another size in each batch
    outputs = _stacked([batch["outputs"] for batch in batches])
    target, ignored = rows.pop("target"), rows.pop("ignored")
    shown: dict[str, Any] = {
        "target": views.labels(target, ignored),
        "inputs": {
            k: v for name, value in rows.items() for k, v in views.views(value, name).items()
        },
        "prediction": {
            name: views.labels(outputs[f"{name}_prediction"], ignored)
            for name in NETWORKS
            if f"{name}_prediction" in outputs
        },
    }
    if target.dim() == 1:
        shown["confidence"] = {
            name: outputs[f"{name}_confidence"].cpu().numpy() for name in shown["prediction"]
        }
    elif "dropped" in outputs and target.dim() == 3:
        shown["dropped_map"] = views.labels(outputs["dropped"].long(), ignored) > 0
    return shown


def _stacked(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.cat([batch[name] for batch in batches])
        for name, first in batches[0].items()
        if all(batch[name].shape[1:] == first.shape[1:] for batch in batches)
    }


def _of_mask(mask: Mask | None) -> dict[str, Any]:
    """Return the choice of a feature mask, and what it ranks by."""
    if not isinstance(mask, FeatureMask) or mask.keep is None:
        return {}
    found: dict[str, Any] = {"kept": mask.keep.cpu().numpy()}
    if mask.saliency is not None:
        values = mask.divergence_of(mask.saliency).double()
        found["divergence"] = np.nan_to_num(values.cpu().numpy())
    return found
