from __future__ import annotations

from typing import Any

import pytest
import torch

from ntdh_bench import seeding
from ntdh_bench.seeding import derive_seed, generator, seeded, uniform
from tests.fake_gpu import GPU, fake_gpu


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


# What a GPU runs, here with tensors of the CPU: integers are the same everywhere.
drawn_on_device = seeding._drawn_on_device


@pytest.mark.parametrize("size", [0, 1, 2, 7, 784, 2351])
@pytest.mark.parametrize("samples", [
    range(130), [0, 0, 59_999], [2**31 - 1, 2**31, 2**32 + 1, 2**53 + 1, 2**62 + 7, 2**63 - 1],
])  # fmt: skip
def test_a_device_draws_the_same_bits(size: int, samples: Any) -> None:
    index = torch.tensor(list(samples), dtype=torch.int64)
    for seed, epoch in [(0, 0), (1, 0), (0, 49), (2**40 + 1, 3), (-5, 2**33)]:
        noise = uniform(seed, "noise", epoch, index, (size,))
        assert torch.equal(noise, drawn_on_device(derive_seed(seed, "noise", epoch), index, size))


def test_a_device_draws_the_same_bits_of_extreme_keys() -> None:
    index = torch.tensor([3, 0, 77])
    for key in (0, 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1):
        assert torch.equal(seeding._drawn(key, index, 33), drawn_on_device(key, index, 33))


def test_noise_is_drawn_where_the_samples_are() -> None:
    index = torch.arange(5)
    with fake_gpu():  # and without waiting for it
        noise = uniform(0, "noise", 0, index.to(GPU), (1, 28, 28))
    assert (noise.device, noise.dtype, noise.shape) == (GPU, torch.float32, (5, 1, 28, 28))
