"""A step of CRD, alone and stacked, against the plain form of the same sums and against its bound.

The plain form gathers scores, takes exp and log of each in float64 and scatters the slopes back.
The bound is the time of what no step of the published sampling can do without: the products of the
batch with both banks and back, and a gather and a scatter of what was drawn. Times are processor
time of one thread, so that they stand on a busy machine as well.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers import CRD
from ntdh_bench.distillers.functional import unit_rows
from ntdh_bench.seeding import generator

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]
WIDTH = 128


class Size(NamedTuple):
    """What a step is about."""

    batch: int
    negatives: int
    n_data: int
    student: int
    teacher: int
    members: int
    rounds: int


SIZES = {
    "MNIST": Size(128, 16_384, 54_000, 256, 512, members=2, rounds=5),
    "RAVDESS features": Size(64, 512, 960, 64, 64, members=50, rounds=20),
}


class Plain:
    """One member's step by the plain form, with the weights and banks of a CRD."""

    def __init__(self, crd: CRD) -> None:
        self.crd = crd
        self.memory = [crd.student_memory.clone(), crd.teacher_memory.clone()]
        self.step = 0

    def __call__(self, student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
        """Return the loss, without gradient, after backward and update."""
        crd, n_data = self.crd, len(self.memory[0])
        stream = generator(crd.seed, "crd", self.step, 0)
        shape = len(index), crd.negatives
        negatives = torch.randint(n_data, shape, generator=stream)
        contrast = torch.cat([index[:, None], negatives], dim=1)
        layers = crd.student_embedding, crd.teacher_embedding
        features = student, teacher
        sides = [unit_rows(layer(x)) for layer, x in zip(layers, features, strict=True)]
        total = torch.zeros(())
        for side, bank, log_z in zip(sides, self.memory[::-1], crd.log_z, strict=True):
            loss, slope = self._direction(side.detach(), bank, contrast, log_z)
            total += loss
            side.backward(slope)
        for side, bank in zip(sides, self.memory, strict=True):
            mixed = crd.momentum * bank[index] + (1 - crd.momentum) * side.detach()
            bank[index] = unit_rows(mixed)
        self.step += 1
        return total.detach()

    def _direction(
        self, side: Tensor, bank: Tensor, contrast: Tensor, log_z: Tensor
    ) -> tuple[Tensor, Tensor]:
        size, noise = len(contrast), (contrast.shape[1] - 1) / len(bank)
        table = side @ bank.T
        odds = table.gather(1, contrast) / self.crd.temperature
        odds -= log_z + math.log(noise + 1e-7)
        odds[:, 0] *= -1
        small = odds.abs().neg_().double().exp_().add_(1.0).log_().sum()
        loss = odds.clamp(min=0.0).sum(dtype=torch.float64) + small
        loss = loss / size + (contrast.shape[1] - 1) * math.log((noise + 1e-7) / noise)
        slope = odds.sigmoid_().div_(size * self.crd.temperature)
        slope[:, 0] *= -1
        return loss, table.zero_().scatter_add_(1, contrast, slope) @ bank


def bound(size: Size) -> dict[str, Callable[[], None]]:
    """The four products of a step, and its gathers and scatters; the tables are kept."""
    side, bank = torch.randn(size.batch, WIDTH), torch.randn(size.n_data, WIDTH)
    table, back = torch.empty(size.batch, size.n_data), torch.empty(size.batch, WIDTH)
    drawn = torch.randint(size.n_data, (size.batch, size.negatives))
    scores = torch.empty(size.batch, size.negatives)

    def products() -> None:
        for _ in range(2):
            torch.mm(side, bank.T, out=table)
            torch.mm(table, bank, out=back)

    def gathers() -> None:
        for _ in range(2):
            torch.gather(table, 1, drawn, out=scores)
            table.scatter_add_(1, drawn, scores)

    return {"products": products, "gathers": gathers}


def seconds(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the best processor times, all of them run in turns."""
    best = dict.fromkeys(runs, math.inf)
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


def member(size: Size, seed: int, shared: bool = False) -> CRD:
    torch.manual_seed(seed)
    sizes = size.student, size.teacher, size.n_data, WIDTH, size.negatives
    crd = CRD(*sizes, shared_negatives=shared, layer="hidden")
    crd.build({"hidden": size.student}, {"hidden": size.teacher}, size.n_data, seed)
    return crd


@pytest.mark.parametrize("name", SIZES)
def test_crd_step(name: str) -> None:
    size = SIZES[name]
    count = size.members
    alone = [member(size, seed % 5) for seed in range(count)]
    student = torch.randn(count, size.batch, size.student)
    teacher = torch.randn(count, size.batch, size.teacher)
    index = torch.stack([torch.randperm(size.n_data)[: size.batch] for _ in range(count)])
    first = student[0], teacher[0], index[0]
    stack, shared = CRD.stack(alone), member(size, 0, shared=True)
    plain = Plain(member(size, 0))

    def step(crd: CRD, *batch: Tensor) -> Tensor:
        loss = crd(*batch)
        loss.sum().backward()
        return loss.detach()

    loss = step(alone[0], *first)
    plain.crd.log_z.copy_(alone[0].log_z)
    torch.testing.assert_close(plain(*first), loss, rtol=1e-6, atol=0)
    step(stack, student, teacher, index)
    step(shared, *first)
    best = seconds(
        {
            **bound(size),
            "plain": lambda: plain(*first),
            "alone": lambda: step(alone[0], *first),
            "stacked": lambda: step(stack, student, teacher, index),
            "shared": lambda: step(shared, *first),
        },
        size.rounds,
    )
    best["stacked"] /= count
    flop = 8 * size.batch * size.n_data * WIDTH
    least = best["products"] + best["gathers"]
    print(
        f"\nCRD, {name}: products {best['products'] * 1e3:.2f} ms "
        f"({flop / best['products'] / 1e9:.0f} GFLOP/s), gathers {best['gathers'] * 1e3:.2f} ms; "
        + ", ".join(
            f"{form} {best[form] * 1e3:.2f} ms ({best['plain'] / best[form]:.2f}x, "
            f"{best[form] / least:.2f} times the bound)"
            for form in ("plain", "alone", "stacked", "shared")
        )
        + f"; {count} members a stack"
    )
