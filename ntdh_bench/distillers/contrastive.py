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
    """
    contrasts = contrast[None, :, 0], given(contrast[None, :, 1:], len(student_memory)), temperature
    directions = (student, teacher_memory, log_z[:1]), (teacher, student_memory, log_z[1:])
    forward, backward = (
        contrast_losses(embedding[None], memory[None], z, *contrasts)
        for embedding, memory, z in directions
    )
    return (forward + backward)[0]


def contrast_losses(
    embedding: Tensor,
    memory: Tensor,
    log_z: Tensor,
    positives: Tensor,
    negatives: Negatives,
    temperature: float | Tensor,
) -> Tensor:
    """Return the noise-contrastive losses ``(M,)`` of M members in one direction.

    Args:
        embedding: normalised, ``(M, B, D)``; only it gets a gradient.
        memory: banks ``(M, n_data, D)``.
        log_z: log normalisers ``(M,)``.
        positives: int64 ``(M, B)`` rows of the banks.
        negatives: of all samples.
        temperature: T > 0, or one for each member ``(M,)``.
    """
    if not embedding.shape[1]:
        return embedding.sum((1, 2))
    with torch.autocast(device_type=embedding.device.type, enabled=False):
        losses: Tensor = _ContrastLoss.apply(
            embedding, memory, log_z, positives, negatives, temperature
        )
    return losses


@torch.no_grad()
def log_scores_sum(
    embedding: Tensor,
    memory: Tensor,
    positives: Tensor,
    negatives: Negatives,
    temperature: float | Tensor,
) -> Tensor:
    """Return ``log sum exp(<memory, embedding> / T)`` ``(M,)`` over all contrasts of a batch.

    Arguments as in :func:`contrast_losses`.
    """
    total = embedding.new_full(embedding.shape[:1], -math.inf)
    if not negatives.with_positives:
        scores = (embedding * rows_of(memory, positives)).sum(2)
        total = (scores / beside(temperature, scores)).logsumexp(1)
    temperature = beside(temperature, embedding)
    for block in negatives.blocks(memory, positives):
        scores = torch.bmm(embedding[block.members, block.samples], block.bank.mT)
        if block.picks is not None:
            scores = scores.gather(2, block.picks)
        scores /= _of(temperature, block)
        if block.counts is not None:
            scores += block.counts.to(scores.dtype).log()
        sums = torch.stack([one.flatten().logsumexp(0) for one in scores])
        total[block.members] = torch.logaddexp(total[block.members], sums)
    return total


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
        embedding: Tensor,
        memory: Tensor,
        log_z: Tensor,
        positives: Tensor,
        negatives: Negatives,
        temperature: float | Tensor,
    ) -> Tensor:
        size, noise = embedding.shape[1], negatives.number / memory.shape[1]
        log_noise = math.log(noise + EPSILON)
        offset = (log_z + log_noise)[:, None, None]
        numbers = beside(temperature, embedding), offset, beside(size * temperature, embedding)
        room = _Room(embedding)
        losses = torch.zeros_like(log_z, dtype=torch.float64)
        gradient = torch.zeros_like(embedding)
        if not negatives.with_positives:
            bank = rows_of(memory, positives)
            scores = (embedding * bank).sum(2, keepdim=True)
            losses, slopes = _terms(scores, numbers, room, positive=True)
            gradient = bank * slopes
        for block in negatives.blocks(memory, positives):
            total, slopes = _block_terms(embedding, block, numbers, room)
            losses[block.members] += total
            gradient[block.members, block.samples].baddbmm_(slopes, block.bank)
        losses /= size
        if negatives.number:
            losses += negatives.number * (log_noise - math.log(noise))
        ctx.save_for_backward(gradient)
        return losses.to(embedding.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad[:, None, None] * gradient, None, None, None, None, None


def _block_terms(
    embedding: Tensor, block: Block, numbers: Numbers, room: _Room
) -> tuple[Tensor, Tensor]:
    """Return sums ``(M',)`` of a block's terms, and the slopes ``(M', B', W)`` of its rows."""
    anchors = embedding[block.members, block.samples]
    scores = room("scores", (*anchors.shape[:2], block.bank.shape[1]))
    torch.bmm(anchors, block.bank.mT, out=scores)
    temperature, offset, scale = numbers
    numbers = _of(temperature, block), offset[block.members], _of(scale, block)
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
    torch.sub(e, lost, out=lost).div_(above)
    return torch.maximum(above.log_().add_(lost), x, out=above)


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
        if name not in self._held or len(self._held[name]) < size:
            self._held[name] = self._like.new_empty(size)
        return self._held[name][:size].view(shape)
