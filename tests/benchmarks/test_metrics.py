"""The six divergences of a validation batch together, against six metrics of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ntdh_bench.batch import PairedBatch
from ntdh_bench.divergence import flatten_dense
from ntdh_bench.metrics import (
    NonTargetJSD,
    NonTargetKL,
    TargetJSD,
    TargetKL,
    TeacherStudentKL,
    pair_metrics,
    update_pair,
)
from tests.benchmarks.test_distillers import compare

pytestmark = pytest.mark.benchmark
DIVERGENCES = ("tcjsd", "ncjsd", "kl", "tckl", "tckl_binary", "nckl")


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
    separate = [
        TargetJSD(), NonTargetJSD(), TeacherStudentKL(), TargetKL(), TargetKL(binary=True),
        NonTargetKL(),
    ]  # fmt: skip

    def each() -> None:
        rows, labels = flatten_dense(teacher, target)
        others, _ = flatten_dense(student, target)
        for metric in separate:
            metric.update(rows, others, labels)

    def shared() -> None:
        update_pair(together, teacher, student, target, cast(PairedBatch, {}))

    compare(f"divergences of {shape}", shared, each, 7)
    for name, metric in zip(DIVERGENCES, separate, strict=True):
        assert torch.allclose(cast(Any, together[name]).compute(), metric.compute(), rtol=1e-12)
