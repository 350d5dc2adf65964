"""CRD's negatives: how they are drawn, and how the banks are read for them.

Gathering the K bank rows of every sample moves B K D numbers, 1 GB at K = 16384. One matrix product
scores the batch against all rows, and only the scores are gathered: or, where there are fewer rows
than draws, each row's term is counted as often as it was drawn.
"""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from ntdh_bench.distillers.ranks import Share, rank
from ntdh_bench.seeding import generator

# A bank this many times larger than the number of negatives is read row by row instead.
MAX_BANK_RATIO = 64
# Scores that are worked on at once: what stays in a core's cache, and what keeps a GPU busy.
CPU_CELLS, DEVICE_CELLS = 2**17, 2**26


class Block(NamedTuple):
    """Scores that are found in one product: of rows of the banks, each drawn once if not said.

    Attributes:
        members: of the stack, M'.
        samples: of the batch, B'.
        banks: the rows ``(M', W, D)`` of each bank.
        counts: ``(M' or 1, B', W)``, how often each sample has drawn each row.
        picks: int64 ``(M', B', 1 + K)``: each sample's positive, and the rows that it has drawn.
    """

    members: slice
    samples: slice
    banks: list[Tensor]
    counts: Tensor | None = None
    picks: Tensor | None = None


class Negatives(ABC):
    """Negatives of the samples of M members.

    Args:
        drawn: what each of S streams has drawn.
        streams: which of them each member has.
        number: K, negatives of a sample.
    """

    #: Whether the blocks hold the positives too.
    with_positives = False

    def __init__(self, drawn: Sequence[Tensor], streams: Sequence[int], number: int) -> None:
        self.drawn = drawn
        self.streams = streams
        self.number = number

    @abstractmethod
    def blocks(self, memories: Sequence[Tensor], positives: Tensor) -> Iterator[Block]:
        """Yield blocks of some ``(M, n_data, D)`` that hold every negative of a batch.

        Where ``with_positives`` says so they hold the positives ``(M, B)`` as well.
        """


class Picked(Negatives):
    """The rows that each sample has drawn, int64 ``(B, K)`` a stream; all rows are scored."""

    with_positives = True

    def blocks(self, memories: Sequence[Tensor], positives: Tensor) -> Iterator[Block]:
        """Yield the whole banks."""
        rows, size = memories[0].shape[1], positives.shape[1]
        for members, _ in _parts(memories[0], rows, size, whole=True):
            own = positives[members, :, None]
            drawn = _of_members(self.drawn, self.streams[members]).expand(len(own), -1, -1)
            picks = torch.cat([own, drawn], dim=2)
            yield Block(members, slice(None), [m[members] for m in memories], picks=picks)


class Counted(Negatives):
    """How often each sample has drawn each row of the bank: ``(B, n_data)`` a stream."""

    def blocks(self, memories: Sequence[Tensor], positives: Tensor) -> Iterator[Block]:
        """Yield all rows of the banks."""
        for members, part in _parts(memories[0], memories[0].shape[1], positives.shape[1]):
            counts = _of_members([drawn[:, part] for drawn in self.drawn], self.streams[members])
            yield Block(members, slice(None), [m[members, part] for m in memories], counts=counts)


class Listed(Negatives):
    """The rows that each sample has drawn, int64 ``(B, K)`` a stream; no others are scored."""

    def blocks(self, memories: Sequence[Tensor], positives: Tensor) -> Iterator[Block]:
        """Yield the negatives of one sample of one member at a time."""
        for member, stream in enumerate(self.streams):
            for sample, rows in enumerate(self.drawn[stream]):
                only = slice(member, member + 1), slice(sample, sample + 1)
                yield Block(*only, [m[member].index_select(0, rows)[None] for m in memories])


class Shared(Negatives):
    """The rows that a batch has drawn for all of its samples: int64 ``(K,)`` a stream."""

    def blocks(self, memories: Sequence[Tensor], positives: Tensor) -> Iterator[Block]:
        """Yield the rows drawn."""
        for members, part in _parts(memories[0], self.number, positives.shape[1]):
            drawn = [self.drawn[stream][part] for stream in self.streams[members]]
            yield Block(members, slice(None), [_rows(m[members], drawn) for m in memories])


def _rows(memory: Tensor, drawn: Sequence[Tensor]) -> Tensor:
    pairs = zip(memory, drawn, strict=True)
    return torch.stack([rows.index_select(0, some) for rows, some in pairs])


class Draws:
    """Draws for M members, uniform over all training samples; those of one seed share a draw.

    A draw depends on (seed, step, rank) alone, of ranks that draw together on (seed, step). For a
    batch on a GPU, where it takes longer than the step, the next one is made in the background.

    Args:
        seeds: of the members.
        number: K, negatives of a sample.
        shared: whether all samples of a batch have the same.
    """

    def __init__(self, seeds: Sequence[int], number: int, shared: bool = False) -> None:
        self.number = number
        self.shared = shared
        self._seeds = list(dict.fromkeys(seeds))
        self._streams = [self._seeds.index(seed) for seed in seeds]
        self._ahead: dict[tuple[int, Share], list[Future[Tensor]]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy needs: not what is being drawn."""
        return {**vars(self), "_ahead": {}}

    def at(self, step: int, share: Share, n_data: int, device: torch.device) -> Negatives:
        """Return the negatives of a batch, given its share of the samples that draw together."""
        if device.type == "cpu":
            drawn = [self._draw(seed, step, share, n_data) for seed in self._seeds]
        else:
            pending = self._ahead.get((step, share)) or self._start(step, share, n_data)
            self._ahead = {(step + 1, share): self._start(step + 1, share, n_data)}
            drawn = [future.result().to(device, non_blocking=True) for future in pending]
        return _kind(self.number, n_data, self.shared)(drawn, self._streams, self.number)

    def _start(self, step: int, share: Share, n_data: int) -> list[Future[Tensor]]:
        arguments = step, share, n_data, torch.cuda.is_available()
        return [_background().submit(self._draw, seed, *arguments) for seed in self._seeds]

    def _draw(
        self, seed: int, step: int, share: Share, n_data: int, pinned: bool = False
    ) -> Tensor:
        own = rank() if share.ranks == 1 else 0
        stream = generator(seed, "crd shared" if self.shared else "crd", step, own)
        kind = _kind(self.number, n_data, self.shared)
        shape = (self.number,) if kind is Shared else (share.total, self.number)
        drawn = torch.randint(n_data, shape, generator=stream)
        if kind is not Shared:
            drawn = drawn[share.first : share.first + share.rows]
        drawn = _counts(drawn, n_data) if kind is Counted else drawn
        return drawn.pin_memory() if pinned else drawn


def given(rows: Tensor, n_data: int) -> Negatives:
    """Return negatives by their rows, int64 ``(M, B, K)``, or ``(M, K)`` if all samples share."""
    number = rows.shape[-1]
    kind = _kind(number, n_data, shared=rows.dim() == 2)
    drawn = [_counts(one, n_data) for one in rows] if kind is Counted else list(rows)
    return kind(drawn, range(len(rows)), number)


def _kind(number: int, n_data: int, shared: bool = False) -> type[Negatives]:
    if shared:
        return Shared
    if n_data > MAX_BANK_RATIO * number:
        return Listed
    return Counted if number > n_data else Picked


def _counts(drawn: Tensor, n_data: int) -> Tensor:
    """Return how often each sample has drawn each row, ``(B, n_data)``, of rows ``(B, K)``."""
    places = flat(drawn, n_data)
    found = torch.bincount(places, minlength=len(drawn) * n_data).view(-1, n_data)
    return found.to(torch.int16 if drawn.shape[1] < 2**15 else torch.int32)


def flat(index: Tensor, size: int) -> Tensor:
    """Return positions ``(M, B)`` in rows of ``size`` as ``(M B,)`` in all rows one by one."""
    if len(index) == 1:
        return index[0]
    offsets = torch.arange(len(index), device=index.device) * size
    return (index + offsets[:, None]).flatten()


def _of_members(drawn: Sequence[Tensor], streams: Sequence[int]) -> Tensor:
    """Return what members have drawn, ``(M, ...)``: ``(1, ...)`` where that is the same."""
    if len(set(streams)) == 1:
        return drawn[streams[0]][None]
    return torch.stack([drawn[stream] for stream in streams])


def _parts(
    memory: Tensor, rows: int, batch: int, whole: bool = False
) -> Iterator[tuple[slice, slice]]:
    """Yield the members and the rows of their banks, all of them if ``whole``, of each block."""
    cells = cells_of(memory)
    group = max(1, cells // max(1, batch * rows))
    width = rows if whole else max(1, cells // max(1, group * batch))
    for member in range(0, len(memory), group):
        for row in range(0, rows, width):
            yield slice(member, member + group), slice(row, min(row + width, rows))


def cells_of(x: Tensor) -> int:
    """Return how many scores are worked on at once where ``x`` lies."""
    return CPU_CELLS if x.device.type == "cpu" else DEVICE_CELLS


@functools.cache
def _background() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="negatives")
