"""Randomness derived from (seed, purpose, numbers) instead of carried in a global state.

A stream that depends only on its name cannot be changed by resuming, workers, ranks or caching.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def derive_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed that depends on every argument and on nothing else."""
    name = ":".join([str(seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """Return a CPU generator for one purpose, for example ``generator(0, "shuffle", epoch)``."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *numbers))


@contextmanager
def seeded(seed: int, purpose: str, *numbers: int) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them after it.

    For code that draws from the global generators only, such as the initialisation of layers.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, purpose, *numbers))
        yield


def _mix(x: np.ndarray) -> np.ndarray:
    """Finalise 64-bit counters in place (SplitMix64; Steele, Lea and Flood, OOPSLA 2014)."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def uniform(seed: int, purpose: str, epoch: int, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw U[0, 1) noise for the samples ``index`` (B,): float32 ``(B, *shape)``.

    Counter based: a value depends on (seed, purpose, epoch, its sample, its position) alone, so
    batches, workers and ranks see the same noise for the same sample. 24 random bits a value.
    """
    size = prod(shape)
    words = (size + 1) // 2
    key = np.uint64(derive_seed(seed, purpose, epoch))
    with np.errstate(over="ignore"):
        rows = _mix(index.numpy().astype(np.uint64) * _GOLDEN + key)
        bits = _mix(rows[:, None] + np.arange(1, words + 1, dtype=np.uint64) * _GOLDEN)
    halves = bits.view(np.uint32)[:, :size] >> np.uint32(8)
    noise = np.multiply(halves, np.float32(2**-24), dtype=np.float32)
    return torch.from_numpy(noise).reshape(len(index), *shape)
