"""Rank correlation of two networks' logits, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from ntdh_bench.divergence import promote


def kendall_tau(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Kendall's tau-b between the classes' order in one network and in the other, per row.

    Kendall, "The Treatment of Ties in Ranking Problems", Biometrika 1945. Every pair of classes is
    looked at, C (C - 1) / 2 a row; the memory is that of a few copies of the logits.

    Args:
        student_logits: ``(..., C)``.
        teacher_logits: the same shape.

    Returns:
        ``(...)`` in [-1, 1], without gradient; 0 where the logits of a row are all equal in one of
        them, so that there is no order to agree on.

    Raises:
        ValueError: shapes differ.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"logits of student {tuple(student_logits.shape)} and teacher "
            f"{tuple(teacher_logits.shape)} differ"
        )
    # Class-major: classes that are some places apart are compared in whole, contiguous blocks.
    student, teacher = (
        logits.detach().movedim(-1, 0).contiguous()
        for logits in promote(student_logits, teacher_logits)
    )
    agreeing, untied, untied_teacher = student.new_zeros(3, *student.shape[1:])
    for apart in range(1, len(student)):
        ours = (student[apart:] - student[:-apart]).sign_()
        theirs = (teacher[apart:] - teacher[:-apart]).sign_()
        agreeing += (ours * theirs).sum(0)
        untied += ours.abs_().sum(0)
        untied_teacher += theirs.abs_().sum(0)
    pairs = (untied * untied_teacher).sqrt()
    tau: Tensor = agreeing / torch.where(pairs > 0, pairs, 1)
    return tau.clamp(-1, 1)
