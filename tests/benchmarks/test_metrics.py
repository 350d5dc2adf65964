"""What a validation batch is measured by: divergences together against each alone, and the rest.

The rest, mutual information and CKA, is of trained networks: after an epoch none of it is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from ntdh_bench.batch import PairedBatch
from ntdh_bench.dependence import LinearCKA
from ntdh_bench.divergence import flatten_dense, kl, ncjsd, nckl, tcjsd, tckl
from ntdh_bench.metrics import DEPENDENCE, RowMean, pair_metrics, update_pair
from tests.benchmarks.test_distillers import compare
from tests.dependence import gram_cka

pytestmark = pytest.mark.benchmark
DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "tcjsd": tcjsd, "ncjsd": ncjsd, "kl": lambda teacher, student, _: kl(teacher, student),
    "tckl": tckl, "tckl_size": lambda *rows: tckl(*rows).abs(),
    "tckl_binary": partial(tckl, binary=True), "nckl": nckl,
    "tcjsd_binary": partial(tcjsd, binary=True),
}  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 20, 128, 256), (512, 10)])
def test_divergences_of_a_pair(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, *shape)
    classes = shape[1]
    target = torch.randint(classes, (shape[0], *shape[2:]))
    data: Any = SimpleNamespace(metric="accuracy", num_classes=classes, ignore_index=255)
    together = {n: m for n, m in pair_metrics(data).items() if n in DIVERGENCES}
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


CASES = [
    pytest.param((2, 20, 64, 128), (), id="dense"),
    pytest.param((512, 10), (256, 256), id="MNIST"),
    pytest.param((128, 27), (64, 94), id="UTD-MHAD"),
]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("shape", "widths"), CASES)
def test_trained_networks_and_those_of_an_epoch(
    shape: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, *shape)
    classes = shape[1]
    target = torch.randint(classes, (shape[0], *shape[2:]))
    features = [torch.randn(shape[0], width) for width in widths]
    data: Any = SimpleNamespace(metric="accuracy", num_classes=classes, ignore_index=255)
    trained = pair_metrics(data, widths=widths)
    of_epoch = {name: m for name, m in trained.items() if name not in DEPENDENCE}
    before = {name: m for name, m in of_epoch.items() if name != "tcjsd_binary"}
    batch = teacher, student, target, cast(PairedBatch, {})

    def measured(metrics: Any) -> Callable[[], None]:
        return lambda: update_pair(metrics, *batch, features=features)

    compare(
        f"after an epoch, {shape}: without the two-way TCJSD",
        measured(of_epoch),
        measured(before),
        15,
    )
    compare(f"trained networks, {shape}: after an epoch", measured(trained), measured(of_epoch), 5)


@pytest.mark.usefixtures("one_thread")
def test_cka_against_gram_matrices() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 1000, 256)
    metric = LinearCKA((256, 256))

    def summed() -> Tensor:
        metric.reset()
        for rows in range(0, 1000, 250):
            metric.update(first[rows : rows + 250], second[rows : rows + 250])
        return metric.compute()

    compare("CKA of 1,000 samples", summed, lambda: gram_cka(first, second), 3)
    assert float(summed()) == pytest.approx(gram_cka(first, second), rel=1e-9)
