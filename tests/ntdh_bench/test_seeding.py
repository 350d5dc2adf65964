from __future__ import annotations

import pytest
import torch

from ntdh_bench.seeding import derive_seed, generator, seeded, uniform


def test_derived_seeds_depend_on_every_argument() -> None:
    seeds = [
        derive_seed(0, "a"), derive_seed(1, "a"), derive_seed(0, "b"), derive_seed(0, "a", 0),
        derive_seed(0, "a", 1), derive_seed(0, "a", 1, 0), derive_seed(0, "a", 10),
    ]  # fmt: skip
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(3, "x", 4) == derive_seed(3, "x", 4)


def test_generator_repeats() -> None:
    first = torch.rand(5, generator=generator(0, "a", 1))
    assert torch.equal(first, torch.rand(5, generator=generator(0, "a", 1)))
    assert not torch.equal(first, torch.rand(5, generator=generator(0, "a", 2)))


def test_seeded_restores_the_global_state() -> None:
    before = torch.get_rng_state()
    with seeded(0, "weights"):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(0, "weights"):
        assert torch.equal(torch.rand(3), inside)


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 28, 28), (3, 5)])
def test_uniform_belongs_to_the_sample(shape: tuple[int, ...]) -> None:
    index = torch.tensor([5, 0, 59_999])
    noise = uniform(0, "noise", 3, index, shape)
    assert noise.shape == (3, *shape)
    assert noise.dtype == torch.float32
    for row, sample in zip(noise, index, strict=True):
        assert torch.equal(row, uniform(0, "noise", 3, sample[None], shape)[0])
    for other in (uniform(1, "noise", 3, index, shape), uniform(0, "noise", 4, index, shape)):
        assert not torch.equal(noise, other)


def test_uniform_is_uniform() -> None:
    noise = uniform(0, "noise", 0, torch.arange(2_000), (500,)).double()
    assert noise.min() >= 0
    assert noise.max() < 1
    assert abs(noise.mean() - 0.5) < 1e-3
    assert abs(noise.var() - 1 / 12) < 1e-3
    counts = torch.histc(noise, 100, 0, 1)
    chi_squared = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi_squared < 150  # 99 degrees of freedom: p < 0.001 beyond 149
    # neighbours in a sample and in the split are uncorrelated (standard error 0.001)
    centred = noise - 0.5
    assert abs((centred[:, 1:] * centred[:, :-1]).mean() * 12) < 0.005
    assert abs((centred[1:] * centred[:-1]).mean() * 12) < 0.005
