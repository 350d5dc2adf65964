"""The contrastive loss of CRD, scored against the whole memory bank in one product.

Gathering the K + 1 bank rows of every sample moves B (K + 1) D numbers, 1 GB at K = 16384. One
matrix product scores the batch against all rows, and only the scores are gathered. The gradient is
found in the same pass, so that the bank can be updated before backward.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Added to the noise term by the authors' code; part of the reference values.
EPSILON = 1e-7
# A bank this many times larger than the number of contrasts is read row by row instead.
MAX_BANK_RATIO = 64


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
    with torch.autocast(device_type=student.device.type, enabled=False):
        forward = _contrast(student, teacher_memory, contrast, log_z[0], temperature)
        return forward + _contrast(teacher, student_memory, contrast, log_z[1], temperature)


def log_scores_sum(
    embedding: Tensor, memory: Tensor, contrast: Tensor, temperature: float
) -> Tensor:
    """Return ``log sum exp(<memory, embedding> / T)`` over all contrasts, a scalar without grad."""
    with torch.no_grad(), torch.autocast(device_type=embedding.device.type, enabled=False):
        scores, _ = _scores(embedding, memory, contrast)
        return (scores / temperature).flatten().logsumexp(0)


def _contrast(
    embedding: Tensor, memory: Tensor, contrast: Tensor, log_z: Tensor, temperature: float
) -> Tensor:
    if not len(embedding):
        return embedding.sum()
    loss: Tensor = _ContrastLoss.apply(embedding, memory, contrast, log_z, temperature)
    return loss


class _ContrastLoss(torch.autograd.Function):
    """Noise-contrastive loss of ``(B, D)`` embeddings; only they get a gradient.

    With score h and noise c = K / n_data: ``-log h/(h + c) - sum log c/(h + c)``, every term a
    softplus of ``log h - log c``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embedding: Tensor,
        memory: Tensor,
        contrast: Tensor,
        log_z: Tensor,
        temperature: float,
    ) -> Tensor:
        size, negatives = len(contrast), contrast.shape[1] - 1
        noise = negatives / len(memory)
        log_noise = math.log(noise + EPSILON)
        odds, table = _scores(embedding, memory, contrast)
        odds.div_(temperature).sub_(log_z + log_noise)
        odds[:, 0].neg_()
        loss = _softplus_sum(odds) / size
        if negatives:
            loss += negatives * (log_noise - math.log(noise))
        if ctx.needs_input_grad[0]:
            slope = odds.sigmoid_().div_(size * temperature)
            slope[:, 0].neg_()
            ctx.save_for_backward(_weighted_rows(slope, memory, contrast, table))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None, None


def _scores(embedding: Tensor, memory: Tensor, contrast: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scores (B, 1 + K) of each embedding with its contrasts, and the (B, n_data) table if any."""
    if len(memory) <= MAX_BANK_RATIO * contrast.shape[1]:
        table = embedding @ memory.T
        return table.gather(1, contrast), table
    pairs = zip(embedding, contrast, strict=True)
    return torch.stack([memory[rows] @ one for one, rows in pairs]), None


def _weighted_rows(
    weights: Tensor, memory: Tensor, contrast: Tensor, table: Tensor | None
) -> Tensor:
    """Sums (B, D) of each sample's contrasts times its weights (B, 1 + K); overwrites the table."""
    if table is not None:
        return table.zero_().scatter_add_(1, contrast, weights) @ memory
    return torch.stack([w @ memory[rows] for w, rows in zip(weights, contrast, strict=True)])


def _softplus_sum(x: Tensor) -> Tensor:
    """Sum of log(1 + exp(x)); 1 + exp(-|x|) in float64, since log1p is several times slower."""
    small = x.abs().neg_().double().exp_().add_(1.0).log_().sum()
    return (x.clamp(min=0.0).sum(dtype=torch.float64) + small).to(x.dtype)
