"""Divergences as torchmetrics, summed over batches and processes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ntdh_bench.divergence import flatten_dense, kl, ncjsd, nckl, tcjsd, tckl


class _MeanDivergence(Metric):
    """Mean of a per-sample divergence over the samples (pixels, voxels) that are not ignored."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits_teacher: Tensor, logits_student: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            logits_teacher: ``(N, C, *spatial)``.
            logits_student: the same shape.
            target: int64 ``(N, *spatial)``.

        Raises:
            ValueError: shapes do not fit, or a target is neither in ``[0, C)`` nor ignored.
        """
        with torch.no_grad():
            teacher, labels = flatten_dense(logits_teacher, target, self.ignore_index)
            student, _ = flatten_dense(logits_student, target, self.ignore_index)
            values = self._divergence(teacher, student, labels)
        self.total += values.sum(dtype=torch.float64)
        self.count += len(values)

    def compute(self) -> Tensor:
        """Return the mean in nats, float64; NaN if no sample was added."""
        return self.total / self.count

    @abstractmethod
    def _divergence(self, teacher: Tensor, student: Tensor, target: Tensor) -> Tensor:
        """Return the divergence of each sample, ``(N,)``."""


class _MeanTargetDivergence(_MeanDivergence):
    """Mean of a divergence of the target class, with or without the term of "any other class"."""

    def __init__(self, ignore_index: int = 255, binary: bool = False, **kwargs: Any) -> None:
        super().__init__(ignore_index, **kwargs)
        self.binary = binary


class TargetJSD(_MeanTargetDivergence):
    """Mean TCJSD between teacher and student (NTDH paper, Eq. 5).

    Args:
        ignore_index: target value that is left out.
        binary: whether to add the term of "any other class" (see ``divergence.tcjsd``).
        kwargs: options of ``torchmetrics.Metric``.
    """

    def _divergence(self, teacher: Tensor, student: Tensor, target: Tensor) -> Tensor:
        return tcjsd(teacher, student, target, self.binary)


class NonTargetJSD(_MeanDivergence):
    """Mean NCJSD between teacher and student (NTDH paper, Eq. 6).

    Args:
        ignore_index: target value that is left out.
        kwargs: options of ``torchmetrics.Metric``.
    """

    def _divergence(self, teacher: Tensor, student: Tensor, target: Tensor) -> Tensor:
        return ncjsd(teacher, student, target)


class TeacherStudentKL(_MeanDivergence):
    """Mean KL divergence from teacher to student over all classes (NTDH paper, Eq. 16).

    Args:
        ignore_index: target value that is left out.
        kwargs: options of ``torchmetrics.Metric``.
    """

    def _divergence(self, teacher: Tensor, student: Tensor, target: Tensor) -> Tensor:
        return kl(teacher, student)


class TargetKL(_MeanTargetDivergence):
    """Mean TCKL from teacher to student (NTDH paper, Eq. 19); it may be negative.

    Args:
        ignore_index: target value that is left out.
        binary: whether to add the term of "any other class" (see ``divergence.tckl``).
        kwargs: options of ``torchmetrics.Metric``.
    """

    def _divergence(self, teacher: Tensor, student: Tensor, target: Tensor) -> Tensor:
        return tckl(teacher, student, target, self.binary)


class NonTargetKL(_MeanDivergence):
    """Mean NCKL from teacher to student (NTDH paper, Eq. 20).

    Args:
        ignore_index: target value that is left out.
        kwargs: options of ``torchmetrics.Metric``.
    """

    def _divergence(self, teacher: Tensor, student: Tensor, target: Tensor) -> Tensor:
        return nckl(teacher, student, target)
