"""CKA and mutual information by their definitions: sums over batches, members, processes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import Metric

from ntdh_bench import dependence
from ntdh_bench.dependence import (
    LinearCKA,
    MutualInformation,
    joint_counts,
    linear_cka,
    moments,
    mutual_information,
)
from tests.dependence import gram_cka, information


def features(rows: int = 70, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Of 5 and of 9 columns with something in common, far from 0."""
    stream = torch.Generator().manual_seed(rows)
    first, second = (torch.randn(rows, width, generator=stream) for width in (5, 9))
    second[:, :3] += 2 * first[:, :3]
    return (first + 30).to(dtype), (3 * second - 7).to(dtype)


def labels(rows: int = 60, classes: int = 4) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(rows)
    first, second = torch.randint(classes, (2, rows), generator=stream)
    return first, second.where(torch.rand(rows, generator=stream) < 0.5, first)


def value(metric: Metric, *batches: tuple[Tensor, Tensor]) -> float:
    for batch in batches:
        metric.update(*batch)
    return float(metric.compute())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cka_is_that_of_gram_matrices(dtype: torch.dtype) -> None:
    first, second = features(dtype=dtype)
    batches = [(first[:1], second[:1]), (first[1:50], second[1:50]), (first[50:], second[50:])]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = value(LinearCKA((5, 9)), *batches)
    assert found == pytest.approx(gram_cka(first, second), rel=1e-10)
    assert 0.2 < found < 0.9


def test_cka_is_blind_to_rotation_scale_and_place() -> None:
    first, second = features(dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    moved = -5 * second @ rotation + 100
    assert value(LinearCKA((5, 9)), (first, moved)) == pytest.approx(
        gram_cka(first, second), rel=1e-9
    )
    assert value(LinearCKA((9, 9)), (second, moved)) == pytest.approx(1)


def test_cka_of_many_rows_is_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependence, "_VALUES", 1)
    first, second = features()
    assert value(LinearCKA((5, 9)), (first, second)) == pytest.approx(
        gram_cka(first, second), rel=1e-10
    )


class Largest(TorchDispatchMode):
    """Notes how many values the largest result in float64 has."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.dtype == torch.float64:
            self.values = max(self.values, found.numel())
        return found


@pytest.mark.parametrize("shape", [(2000, 20), (5, 400, 20)], ids=["dense", "members"])
def test_little_is_held_in_float64_at_once(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependence, "_VALUES", 1 << 14)
    features = torch.zeros(shape)
    with Largest() as largest:
        moments(features, features)
    assert largest.values <= 1 << 14 < 41 * math.prod(shape[:-1])


@pytest.mark.parametrize("constant", [0.0, 1e4 / 3, -0.1])
def test_constant_features_say_nothing(constant: float) -> None:
    first, second = features()
    same = torch.full_like(second, constant)
    assert value(LinearCKA((5, 9)), (first, same)) == 0
    assert value(LinearCKA((9, 5)), (same, first)) == 0
    # One constant column among others changes nothing.
    beside = torch.cat([second, same[:, :1]], dim=1)
    expected = pytest.approx(gram_cka(first, second), rel=1e-9)
    assert value(LinearCKA((5, 10)), (first, beside)) == expected


def test_one_sample_and_none() -> None:
    first, second = features()
    assert value(LinearCKA((5, 9)), (first[:1], second[:1])) == 0
    assert math.isnan(value(LinearCKA((5, 9)), (first[:0], second[:0])))
    assert value(MutualInformation(4), (torch.tensor([3]), torch.tensor([0]))) == 0
    assert math.isnan(value(MutualInformation(4), (torch.zeros(0).long(), torch.zeros(0).long())))


def test_features_that_are_not_finite_are_no_measure() -> None:
    first, second = features()
    first[3, 0] = torch.nan
    assert math.isnan(value(LinearCKA((5, 9)), (first, second)))


def test_information_is_that_of_loops() -> None:
    first, second = labels()
    found = value(MutualInformation(4), (first[:1], second[:1]), (first[1:], second[1:]))
    assert found == pytest.approx(information(first.tolist(), second.tolist()), rel=1e-12)
    assert found > 0.1


def test_information_at_its_ends() -> None:
    first, _ = labels()
    shares = torch.bincount(first) / len(first)
    entropy = float(-(shares * shares.log()).sum())
    assert value(MutualInformation(4), (first, 3 - first)) == pytest.approx(entropy, rel=1e-6)
    assert value(MutualInformation(4), (first, torch.full_like(first, 2))) == 0
    every = torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(7, 1)
    assert value(MutualInformation(4), (every[:, 0], every[:, 1])) == 0  # independent


def test_the_plug_in_estimate_is_too_large_by_what_is_said() -> None:
    stream = torch.Generator().manual_seed(0)
    draws = torch.randint(5, (2, 400, 500), generator=stream)
    found = mutual_information(joint_counts(*draws, 5)).mean()
    assert float(found) == pytest.approx((5 - 1) ** 2 / (2 * 500), rel=0.05)


def test_members_are_measured_as_each_alone() -> None:
    pairs = [features(rows=40) for _ in range(3)]
    first, second = (torch.stack(part) for part in zip(*pairs, strict=True))
    second = second * torch.tensor([1.0, 2.0, 0.0]).view(3, 1, 1)
    counted = torch.rand(3, 40, generator=torch.Generator().manual_seed(1)) < 0.7
    ours, theirs = labels(120)
    ours, theirs = ours.view(3, 40), theirs.view(3, 40)
    similar = linear_cka(moments(first, second, counted), 5)
    shared = mutual_information(joint_counts(ours, theirs.where(counted, 255), 4, counted))
    for member, kept in enumerate(counted):
        pair = first[member, kept], second[member, kept]
        alone = value(LinearCKA((5, 9)), pair)
        assert float(similar[member]) == pytest.approx(alone, rel=1e-12)
        seen = ours[member, kept], theirs[member, kept]
        assert float(shared[member]) == value(MutualInformation(4), seen)
    assert float(similar[2]) == 0


def test_sum_over_processes() -> None:
    """Two processes with 7 and 3 samples, the exchange replaced by handing over the states."""
    metrics: list[tuple[type[Metric], object, tuple[Tensor, Tensor]]] = [
        (LinearCKA, (5, 9), features(10)), (MutualInformation, 4, labels(10)),
    ]  # fmt: skip
    for kind, size, (first, second) in metrics:
        other, alone = kind(size), kind(size)  # type: ignore[arg-type]
        other.update(first[7:], second[7:])
        (theirs,) = (getattr(other, name) for name in other._defaults)
        metric = kind(
            size,  # type: ignore[arg-type]
            dist_sync_fn=lambda state, group, theirs=theirs: [state, theirs],
            distributed_available_fn=lambda: True,
        )
        found = value(metric, (first[:7], second[:7]))
        assert found == pytest.approx(value(alone, (first, second)), rel=1e-12)
