"""Algorithm 1 on the MNIST network against the usual loop: feature by feature, whole network."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch
from ntdh_bench.divergence import ncjsd
from ntdh_bench.layers import INPUT
from ntdh_bench.masks import FeatureSaliency
from ntdh_bench.models import MLPClassifier
from ntdh_bench.seeding import generator

pytestmark = pytest.mark.benchmark

BATCH, BATCHES, THREADS = 128, 3, 2


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def digits() -> Tensor:
    """scikit-learn's digits as MNIST has them: 20x20 in 28x28, most of it exactly 0."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images[: BATCH * BATCHES] / 16).float().unsqueeze(1)
    large = nn.functional.interpolate(images, size=20, mode="bilinear")
    return nn.functional.pad(torch.where(large > 0.3, large, 0.0), (4, 4, 4, 4))


def pixels(kind: str) -> Tensor:
    if kind == "digits without noise":
        return digits()
    noise = torch.rand(BATCH * BATCHES, 1, 28, 28)
    if kind == "digits, noise level 4":
        return (digits() + 4 * noise).clamp(max=1)
    return noise


def batches_of(images: Tensor) -> list[PairedBatch]:
    return [
        PairedBatch(
            teacher=part,
            student=torch.rand_like(part),
            target=torch.randint(10, (BATCH,)),
            index=torch.arange(BATCH),
        )
        for part in torch.split((images - 0.5) / 0.5, BATCH)
    ]


@torch.no_grad()
def naive(teacher: nn.Sequential, student: nn.Module, batch: PairedBatch, layer: str) -> Tensor:
    """Forward the network once per feature, with one permuted column."""
    images, target = batch["teacher"], batch["target"]
    assert isinstance(images, Tensor)
    order = torch.randperm(BATCH, generator=generator(0, "saliency", 0, 0))
    student_logits = student(batch["student"])
    unmasked = ncjsd(teacher(images), student_logits, target).mean()
    values = []
    for feature in range(784 if layer == INPUT else 512):
        if layer == INPUT:
            flat = images.flatten(1).clone()
            flat[:, feature] = flat[order, feature]
            logits = teacher(flat.view_as(images))
        else:
            hidden = teacher.hidden1(teacher.flatten(images))
            hidden[:, feature] = hidden[order, feature]
            logits = teacher.head(teacher.hidden2(hidden))
        values.append(unmasked - ncjsd(logits, student_logits, target).mean())
    return torch.stack(values)


@pytest.mark.parametrize(
    ("layer", "kind", "asked"),
    [
        ("hidden1", "dense noise", "25x asked"),
        (INPUT, "dense noise", "4x asked"),
        (INPUT, "digits, noise level 4", "no figure asked"),
        (INPUT, "digits without noise", "11x expected"),
    ],
)
def test_algorithm_1(layer: str, kind: str, asked: str) -> None:
    torch.manual_seed(0)
    teacher, student = (
        MLPClassifier(784, [512, 256], 10).eval(),
        MLPClassifier(784, [512, 256], 10).eval(),
    )
    algorithm = FeatureSaliency(layer, permutations=1, seed=0)
    batches = batches_of(pixels(kind))
    algorithm.compute(teacher, student, batches[:1])
    slow = fast = 0.0
    for batch in batches:  # in turns, so that other load on the machine meets both
        start = time.perf_counter()
        expected = naive(teacher, student, batch, layer)
        middle = time.perf_counter()
        values = algorithm.compute(teacher, student, [batch]).values
        slow, fast = slow + middle - start, fast + time.perf_counter() - middle
        torch.testing.assert_close(values.float(), expected, atol=1e-5, rtol=0)
    print(
        f"\nAlgorithm 1, 784-512-256-10, layer {layer} ({kind}), {THREADS} threads: naive loop "
        f"{slow:.2f} s, FeatureSaliency {fast:.3f} s for {BATCHES} batches of {BATCH}: "
        f"{slow / fast:.1f}x ({asked})"
    )
