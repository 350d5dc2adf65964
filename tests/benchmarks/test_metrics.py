"""The six divergences of a validation batch together, against each computed alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from ntdh_bench.batch import PairedBatch
from ntdh_bench.divergence import flatten_dense, kl, ncjsd, nckl, tcjsd, tckl
from ntdh_bench.metrics import RowMean, pair_metrics, update_pair
from tests.benchmarks.test_distillers import compare

pytestmark = pytest.mark.benchmark
DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "tcjsd": tcjsd, "ncjsd": ncjsd, "kl": lambda teacher, student, _: kl(teacher, student),
    "tckl": tckl, "tckl_size": lambda *rows: tckl(*rows).abs(),
    "tckl_binary": partial(tckl, binary=True), "nckl": nckl,
}  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 20, 128, 256), (512, 10)])
def test_divergences_of_a_pair(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, *shape)
    classes = shape[1]
    target = torch.randint(classes, (shape[0], *shape[2:]))
    data: Any = SimpleNamespace(metric="accuracy", num_classes=classes, ignore_index=255)
    together = pair_metrics(data)
    for name in ("accuracy", "teacher_accuracy"):
        del together[name]
    separate = {name: RowMean() for name in DIVERGENCES}

    def each() -> None:
        rows, labels = flatten_dense(teacher, target)
        others, _ = flatten_dense(student, target)
        for name, metric in separate.items():
            metric.update(DIVERGENCES[name](rows, others, labels))

    def shared() -> None:
        update_pair(together, teacher, student, target, cast(PairedBatch, {}))

    compare(f"divergences of {shape}", shared, each, 7)
    for name, metric in separate.items():
        assert torch.allclose(cast(Any, together[name]).compute(), metric.compute(), rtol=1e-12)
