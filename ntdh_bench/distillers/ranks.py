"""Rows of all processes of a distributed run."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return the number of this process, 0 outside a distributed run."""
    return dist.get_rank() if _distributed() else 0


def gather_rows(x: Tensor) -> Tensor:
    """Concatenate ``(B_r, ...)`` of all ranks r in their order, without gradient.

    All ranks must call it; their batches may differ in size. Outside a distributed run: ``x``.
    """
    if not _distributed():
        return x
    size = torch.tensor([len(x)], device=x.device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    counts = [int(s) for s in sizes]
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
