"""Rows of all processes of a distributed run."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class Share(NamedTuple):
    """Which of the rows of all ranks, in the order of the ranks, are those of this one.

    Attributes:
        first: position of its first row.
        rows: how many it has.
        total: how many all have.
        ranks: how many ranks there are.
    """

    first: int
    rows: int
    total: int
    ranks: int = 1

    @property
    def weight(self) -> float:
        """Factor of a mean over its rows: the mean over ranks is then that over all rows."""
        return self.rows * self.ranks / max(self.total, 1)


def rank() -> int:
    """Return the number of this process, 0 outside a distributed run."""
    return dist.get_rank() if _distributed() else 0


def share_of(rows: int, device: torch.device) -> Share:
    """Return which rows of all ranks are the ``rows`` of this one; all ranks must call it."""
    if not _distributed():
        return Share(0, rows, rows)
    counts, own = _counts(rows, device), rank()
    return Share(sum(counts[:own]), rows, sum(counts), len(counts))


def gather_rows(x: Tensor) -> Tensor:
    """Concatenate ``(B_r, ...)`` of all ranks r in their order, without gradient.

    All ranks must call it; their batches may differ in size. Outside a distributed run: ``x``.
    """
    return _concatenate(x, _counts(len(x), x.device)) if _distributed() else x


def gather_sides(*sides: Tensor) -> tuple[Tensor, ...]:
    """Concatenate tensors ``(B_r, ...)`` of as many rows each of all ranks, with gradient.

    For a loss that every rank computes of all rows. A rank's rows get their gradient times the
    number of ranks, and those of others none: DDP and FSDP take the mean over ranks, which is then
    the gradient of one process with all rows. All ranks must call it, those without rows too, and
    nothing is exchanged in backward. Outside a distributed run: ``sides``.
    """
    if not _distributed():
        return sides
    counts = _counts(len(sides[0]), sides[0].device)
    return tuple(_Gathered.apply(side, counts) for side in sides)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        first = sum(counts[: rank()])
        ctx.own, ctx.ranks = slice(first, first + len(x)), len(counts)
        return _concatenate(x, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.own] * ctx.ranks, None


def _counts(rows: int, device: torch.device) -> list[int]:
    """Return how many rows each rank has."""
    own = torch.tensor([rows], device=device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    return torch.cat(counts).tolist()


def _concatenate(x: Tensor, counts: list[int]) -> Tensor:
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
