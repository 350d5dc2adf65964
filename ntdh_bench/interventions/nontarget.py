"""Interventions on the non-target distribution: p_target stays, and with it TCKL and TCJSD.

At temperatures other than 1, which distillers may have, p_target stays if classes are permuted, and
not if distributions are mixed: at T = 4 it falls by up to some points as they get flatter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ntdh_bench.ranges import check_within

from .base import Intervention, Rows, SharedIntervention
from .functional import mix_nontarget, nontarget_log_probs, permute_nontarget

_SMALLEST = 1e-38  # no class is impossible, as no logit may be infinite


class ShuffleNontarget(SharedIntervention):
    """Permutes the non-target probabilities of a share of the samples.

    NCJSD rises with the share; p_target, TCJSD and the teacher's accuracy stay.
    """

    def changed(self, rows: Rows) -> Tensor:
        """Return the changed logits ``(N, C)``."""
        keys = rows.draw("order", rows.logits.shape[1] - 1)
        permuted = permute_nontarget(rows.logits, rows.target, keys)
        return torch.where(self.chosen(rows), permuted, rows.logits)


class ClassNontarget(SharedIntervention):
    """Gives a share of the samples the mean non-target distribution of their class.

    The mean is the teacher's over the training split, so that what is specific to the sample goes;
    p_target and TCJSD stay.
    """

    _means: Tensor | None = None

    def forget(self) -> None:
        """Drop the means."""
        self._means = None

    def changed(self, rows: Rows) -> Tensor:
        """Return the changed logits ``(N, C)``."""
        if self._means is None:
            self._means = self._mean_log_probs(rows.logits.shape[1]).to(rows.logits.device)
        means = self._means[rows.target]
        replaced = mix_nontarget(rows.logits, rows.target, means, 1.0)
        return torch.where(self.chosen(rows), replaced, rows.logits)

    def _mean_log_probs(self, classes: int) -> Tensor:
        """Return the log of each class's mean non-target distribution, ``(C, C - 1)``.

        That of a class without training samples is uniform.
        """
        sums = torch.zeros(classes, classes - 1, dtype=torch.float64)
        for logits, target in self.source.rows("train"):
            counted = target != self.source.ignore_index
            labels = target[counted]
            shares = nontarget_log_probs(logits.movedim(1, -1)[counted], labels).double().exp()
            sums.index_add_(0, labels.cpu(), shares.cpu())
        sums[sums.sum(1) == 0] = 1.0
        return (sums / sums.sum(1, keepdim=True)).clamp(min=_SMALLEST).log().float()


class _MixedNontarget(Intervention):
    """Base of those that mix all samples' non-target distributions with another.

    Args:
        share: weight of the other distribution, in [0, 1].

    Raises:
        UserError: it is not in [0, 1].
    """

    def __init__(self, share: float) -> None:
        check_within("model.intervention.share", share, 0, 1)
        self.share = share


class UniformNontarget(_MixedNontarget):
    """Mixes the non-target distribution with the uniform one.

    With share 1 the teacher says nothing of the non-target classes; p_target and TCJSD stay.

    Args:
        share: weight of the uniform distribution, in [0, 1].
    """

    def changed(self, rows: Rows) -> Tensor:
        """Return the changed logits ``(N, C)``."""
        others = rows.logits.shape[1] - 1
        uniform = rows.logits.new_full((len(rows.logits), others), -math.log(others))
        return mix_nontarget(rows.logits, rows.target, uniform, self.share)


class AlignNontarget(_MixedNontarget):
    """Mixes the non-target distribution with that of the student trained without KD.

    NCJSD before distillation falls to 0 with share 1; p_target and TCJSD stay.

    Args:
        share: weight of the student's distribution, in [0, 1].
    """

    needs_reference = True

    def changed(self, rows: Rows) -> Tensor:
        """Return the changed logits ``(N, C)``."""
        assert rows.reference is not None
        student = nontarget_log_probs(rows.reference, rows.target)
        return mix_nontarget(rows.logits, rows.target, student, self.share)
