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

from ntdh_bench.distillers.negatives import Block, Negatives, cells_of, given
from ntdh_bench.stacks.layers import beside

# Added to the noise term by the authors' code; part of the reference values.
EPSILON = 1e-7
# log(1 + exp(x)) is x from here on, in float64 too.
_LINEAR = 60.0


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
    contrasts = contrast[:, 0], given(contrast[None, :, 1:], len(student_memory)), temperature
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
        positives: int64 ``(M B,)`` rows of all banks one after the other: see ``negatives.flat``.
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
    anchors = embedding / beside(temperature, embedding)
    total = (anchors * rows_of(memory, positives)).sum(2).logsumexp(1)
    for block in negatives.blocks(memory, embedding.shape[1]):
        scores = torch.bmm(anchors[block.members, block.samples], block.bank.mT)
        if block.counts is not None:
            scores += block.counts.to(scores.dtype).log()
        if block.picks is not None:
            scores = scores.gather(2, block.picks.expand(len(scores), -1, -1))
        part = total[block.members]
        total[block.members] = torch.logaddexp(part, scores.flatten(1).logsumexp(1))
    return total


def rows_of(memory: Tensor, places: Tensor) -> Tensor:
    """Return rows ``(M, B, D)`` of banks ``(M, n_data, D)``, of places as in ``negatives.flat``."""
    rows = memory.flatten(0, 1).index_select(0, places)
    return rows.view(len(memory), len(places) // len(memory), memory.shape[2])


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
        temperature = beside(temperature, embedding)
        anchors, bias = embedding / temperature, -(log_z + log_noise)[:, None, None]
        rows = rows_of(memory, positives)
        odds = (anchors * rows).sum(2, keepdim=True).add_(bias).neg_()
        losses = _total(F.softplus(odds, threshold=_LINEAR))
        gradient = rows.mul_(odds.sigmoid_().neg_())
        room = _Room(embedding)
        for block in negatives.blocks(memory, size):
            own = block.members, block.samples
            odds = room("odds", (*anchors[own].shape[:2], block.bank.shape[1]))
            torch.baddbmm(bias[block.members], anchors[own], block.bank.mT, out=odds)
            total, slopes = _terms(odds, block, room)
            losses[block.members] += total
            gradient[own].baddbmm_(slopes, block.bank)
        losses /= size
        if negatives.number:
            losses += negatives.number * (log_noise - math.log(noise))
        ctx.save_for_backward(gradient.div_(size * temperature))
        return losses.to(embedding.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad[:, None, None] * gradient, None, None, None, None, None


def _terms(odds: Tensor, block: Block, room: _Room) -> tuple[Tensor, Tensor]:
    """Return sums ``(M',)`` of a block's terms and the slopes of its rows; overwrites the odds."""
    if block.picks is None:
        values, slopes = _softplus(odds, room)
        if block.counts is not None:
            counts = block.counts.to(odds.dtype)
            values, slopes = values.mul_(counts), slopes.mul_(counts)
        return _total(values), slopes
    total = odds.new_zeros(len(odds), dtype=torch.float64)
    samples = max(1, cells_of(odds) // odds[:, 0].numel())
    for start in range(0, odds.shape[1], samples):
        rows = odds[:, start : start + samples]
        picks = block.picks[:, start : start + samples].expand(len(odds), -1, -1)
        picked = torch.gather(rows, 2, picks, out=room("picked", picks.shape))
        values, slopes = _softplus(picked, room)
        total += _total(values)
        rows.zero_().scatter_add_(2, picks, slopes)
    return total, odds


def _total(values: Tensor) -> Tensor:
    """Return sums ``(M,)`` in float64 of sums of rows."""
    return values.sum(2).sum(1, dtype=torch.float64)


def _softplus(x: Tensor, room: _Room) -> tuple[Tensor, Tensor]:
    """Return ``log(1 + exp(x))`` and its slope, the sigmoid; may overwrite ``x``.

    On a CPU log1p is several times slower than log. The log of the rounded 1 + e is corrected by
    what rounding has lost, so that tiny terms count.
    """
    if x.device.type != "cpu":
        return F.softplus(x, threshold=_LINEAR), x.sigmoid_()
    e = torch.clamp(x, max=_LINEAR, out=room("e", x.shape)).exp_()
    above = torch.add(e, 1.0, out=room("above", x.shape))
    lost = torch.sub(above, 1.0, out=room("lost", x.shape))
    torch.sub(e, lost, out=lost).div_(above)
    slope = e.div_(above)
    return torch.maximum(above.log_().add_(lost), x, out=x), slope


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
