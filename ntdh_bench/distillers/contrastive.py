"""The contrastive loss of CRD, of M members at once.

The gradient is found in the same pass, so that the banks can be updated before backward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntdh_bench.distillers.negatives import Block, Negatives, cells_of, flat, given
from ntdh_bench.stacks.layers import beside

# Added to the noise term by the authors' code; part of the reference values.
EPSILON = 1e-7
# log(1 + exp(x)) is x from here on, in float64 too.
_LINEAR = 60.0

# Temperature, log of Z and noise, batch size times temperature: of one member or ``(M, 1, 1)``.
Numbers = tuple[float | Tensor, Tensor, float | Tensor]


def crd(
    student: Tensor,
    teacher: Tensor,
    student_memory: Tensor,
    teacher_memory: Tensor,
    contrast: Tensor,
    log_z: Tensor,
    temperature: float = 0.07,
) -> Tensor:
    """Contrastive representation distillation: student and teacher against each other's bank.

    Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020, Eq. 9-11, with
    the score ``exp(<memory, embedding> / T) / Z`` of the memory-bank version of Wu et al.,
    CVPR 2018.

    Args:
        student: normalised embeddings ``(B, D)``.
        teacher: normalised embeddings ``(B, D)``.
        student_memory: bank ``(n_data, D)`` that the teacher is scored against.
        teacher_memory: bank ``(n_data, D)`` that the student is scored against.
        contrast: int64 ``(B, 1 + K)`` rows of the banks; column 0 is the positive.
        log_z: log normalisers ``(2,)`` of the student's and of the teacher's scores.
        temperature: T > 0.

    Returns:
        Scalar in nats, mean over rows of the sum over K + 1 contrasts and both directions.

    Example:
        >>> student = teacher = torch.eye(2)  # unit rows
        >>> banks = torch.eye(2), torch.eye(2)
        >>> contrast = torch.tensor([[0, 1], [1, 0]])  # each row's own, then a negative
        >>> log_z = torch.zeros(2)
        >>> round(crd(student, teacher, *banks, contrast, log_z, temperature=1.0).item(), 4)
        2.5349
    """
    negatives = given(contrast[None, :, 1:], len(student_memory))
    contrasts = contrast[None, :, 0], negatives, temperature
    memories = teacher_memory[None], student_memory[None]
    with torch.autocast(device_type=student.device.type, enabled=False):
        sides = torch.stack([student, teacher])[:, None]
        return contrast_losses(sides, memories, log_z[:, None], *contrasts)[0]


def contrast_losses(
    sides: Tensor,
    memories: Sequence[Tensor],
    log_z: Tensor,
    positives: Tensor,
    negatives: Negatives,
    temperature: float | Tensor,
) -> Tensor:
    """Return the noise-contrastive losses ``(M,)`` of M members, both directions together.

    Args:
        sides: normalised embeddings of student and teacher, ``(2, M, B, D)``; only they get a
            gradient.
        memories: banks ``(M, n_data, D)`` that each is scored against: the other's.
        log_z: log normalisers ``(2, M)``.
        positives: int64 ``(M, B)`` rows of the banks.
        negatives: of all samples.
        temperature: T > 0, or one for each member ``(M,)``.
    """
    if not sides.shape[2]:
        return sides.sum((0, 2, 3))
    contrasts = positives, negatives, temperature
    losses: Tensor = _ContrastLoss.apply(sides, memories, log_z, *contrasts)
    return losses


@torch.no_grad()
def log_scores_sum(
    sides: Tensor,
    memories: Sequence[Tensor],
    positives: Tensor,
    negatives: Negatives,
    temperature: float | Tensor,
) -> Tensor:
    """Return ``log sum exp(<memory, embedding> / T)`` ``(2, M)`` over all contrasts of a batch.

    Arguments as in :func:`contrast_losses`.
    """
    divisor = beside(temperature, sides[0])
    totals = sides.new_full(sides.shape[:2], -math.inf)
    if not negatives.with_positives:
        scores = (sides * torch.stack([rows_of(m, positives) for m in memories])).sum(3, True)
        totals = (scores / divisor).flatten(2).logsumexp(2)
    for block in negatives.blocks(memories, positives):
        for total, side, bank in zip(totals, sides, block.banks, strict=True):
            scores = torch.bmm(side[block.members, block.samples], bank.mT)
            if block.picks is not None:
                scores = scores.gather(2, block.picks)
            scores /= _of(divisor, block)
            if block.counts is not None:
                scores += block.counts.to(scores.dtype).log()
            sums = torch.stack([one.flatten().logsumexp(0) for one in scores])
            total[block.members] = torch.logaddexp(total[block.members], sums)
    return totals


def rows_of(memory: Tensor, index: Tensor) -> Tensor:
    """Return the rows ``index``, ``(M, B)``, of banks ``(M, n_data, D)``."""
    rows = memory.flatten(0, 1).index_select(0, flat(index, memory.shape[1]))
    return rows.view(*index.shape, memory.shape[2])


class _ContrastLoss(torch.autograd.Function):
    """With score h and noise c = K / n_data: ``-log h/(h + c) - sum log c/(h + c)``.

    Every term is a softplus of ``log h - log c``, its slope a sigmoid.
    """

    @staticmethod
    def forward(
        ctx: Any,
        sides: Tensor,
        memories: Sequence[Tensor],
        log_z: Tensor,
        positives: Tensor,
        negatives: Negatives,
        temperature: float | Tensor,
    ) -> Tensor:
        size, noise = sides.shape[2], negatives.number / memories[0].shape[1]
        log_noise = math.log(noise + EPSILON)
        offset = (log_z + log_noise)[..., None, None]
        divisor, scale = beside(temperature, sides[0]), beside(size * temperature, sides[0])
        room = _Room(sides)
        losses = torch.zeros_like(log_z[0], dtype=torch.float64)
        gradient = torch.zeros_like(sides)
        if not negatives.with_positives:
            rows = torch.stack([rows_of(memory, positives) for memory in memories])
            scores = (sides * rows).sum(3, keepdim=True)
            for score, own in zip(scores, offset, strict=True):
                losses += _terms(score, (divisor, own, scale), room, positive=True)[0]
            torch.mul(rows, scores, out=gradient)
        for block in negatives.blocks(memories, positives):
            for side, own, slope, bank in zip(sides, offset, gradient, block.banks, strict=True):
                anchors = side[block.members, block.samples]
                numbers = _of(divisor, block), own[block.members], _of(scale, block)
                total, slopes = _block_terms(anchors, bank, block, numbers, room)
                losses[block.members].add_(total)
                slope[block.members, block.samples].baddbmm_(slopes, bank)
        losses /= size
        if negatives.number:
            losses += 2 * negatives.number * (log_noise - math.log(noise))
        ctx.save_for_backward(gradient)
        return losses.to(sides.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad[:, None, None] * gradient, None, None, None, None, None


def _block_terms(
    anchors: Tensor, bank: Tensor, block: Block, numbers: Numbers, room: _Room
) -> tuple[Tensor, Tensor]:
    """Return sums ``(M',)`` of a block's terms, and the slopes ``(M', B', W)`` of its rows."""
    scores = room("scores", (*anchors.shape[:2], bank.shape[1]))
    torch.bmm(anchors, bank.mT, out=scores)
    if block.picks is None:
        return _terms(scores, numbers, room, block.counts)
    total = scores.new_zeros(len(scores), dtype=torch.float64)
    samples = max(1, cells_of(scores) // scores[:, 0].numel())
    for start in range(0, scores.shape[1], samples):
        rows, picks = (x[:, start : start + samples] for x in (scores, block.picks))
        picked = torch.gather(rows, 2, picks, out=room("picked", picks.shape))
        part, slopes = _terms(picked, numbers, room, positive=True)
        total += part
        rows.zero_().scatter_add_(2, picks, slopes)
    return total, scores


def _terms(
    scores: Tensor,
    numbers: Numbers,
    room: _Room,
    counts: Tensor | None = None,
    positive: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the sums ``(M',)`` of the terms of scores ``(M', B', W)``, and their slopes.

    The slopes overwrite the scores. ``positive``: those in column 0 are of the positives.
    """
    temperature, offset, scale = numbers
    odds = scores.div_(temperature).sub_(offset)
    if positive:
        odds[..., 0].neg_()
    values = _softplus(odds, room)
    slopes = _sigmoid_(odds).div_(scale)
    if positive:
        slopes[..., 0].neg_()
    if counts is not None:
        counts = counts.to(odds.dtype)
        values, slopes = values.mul_(counts), slopes.mul_(counts)
    return values.sum(2).sum(1, dtype=torch.float64), slopes


def _of(number: float | Tensor, block: Block) -> float | Tensor:
    """Return a number of the members, ``(M, 1, 1)`` where they differ, of those of a block."""
    return number[block.members] if isinstance(number, Tensor) else number


def _softplus(x: Tensor, room: _Room) -> Tensor:
    """Return ``log(1 + exp(x))``.

    On a CPU log1p is several times slower than log. The log of the rounded 1 + e is corrected by
    what rounding has lost, so that tiny terms count.
    """
    if x.device.type != "cpu":
        return F.softplus(x, threshold=_LINEAR)
    e = torch.clamp(x, max=_LINEAR, out=room("e", x.shape)).exp_()
    above = torch.add(e, 1.0, out=room("above", x.shape))
    lost = torch.sub(above, 1.0, out=room("lost", x.shape))
    torch.sub(e, lost, out=lost)
    values = torch.log(above, out=room("values", x.shape)).addcdiv_(lost, above)
    return torch.maximum(values, x, out=values)


def _sigmoid_(x: Tensor) -> Tensor:
    """Overwrite ``(M, ...)`` by the sigmoid, with the bits that each member has alone.

    On a CPU the last few numbers of a tensor are rounded otherwise than those before them.
    """
    for one in x if x.device.type == "cpu" else (x,):
        one.sigmoid_()
    return x


class _Room:
    """Tensors that are written again and again in one pass, so that they stay in the cache."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return the tensor of that name, in a shape, holding anything."""
        size = math.prod(shape)
        if name not in self._held or self._held[name].numel() < size:
            self._held[name] = self._like.new_empty(size)
        return self._held[name][:size].view(shape)
