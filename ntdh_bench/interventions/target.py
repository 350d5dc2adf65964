"""Interventions on the target: the non-target distribution stays, and with it NCKL and NCJSD."""

from __future__ import annotations

import torch
from torch import Tensor

from ntdh_bench.batch import Split
from ntdh_bench.ranges import check_at_least
from ntdh_bench.seeding import generator

from .base import Intervention, Rows, SharedIntervention
from .functional import shift_target, target_lead


class ShuffleTarget(SharedIntervention):
    """Exchanges how clearly the teacher is right, or wrong, among a share of the samples.

    The target's lead over the largest other logit changes its size, not its sign: TCJSD rises with
    the share; the non-target distribution and the teacher's accuracy stay. Sizes go from sample to
    sample among those on which the teacher is right, and among those on which it is wrong, as it
    was when the split was looked at first.
    """

    dense = False
    least_classes = 2

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self._sizes: dict[Split, Tensor] = {}

    def forget(self) -> None:
        """Drop the sizes."""
        self._sizes = {}

    def changed(self, rows: Rows) -> Tensor:
        """Return the changed logits ``(N, C)``."""
        if rows.split not in self._sizes:
            self._sizes[rows.split] = self._exchanged(rows.split).to(rows.logits.device)
        lead = target_lead(rows.logits, rows.target)
        sizes = self._sizes[rows.split][rows.index]
        shift = torch.copysign(sizes, lead) - lead
        moved = shift_target(rows.logits, rows.target, shift)
        return torch.where(self.chosen(rows), moved, rows.logits)

    def _exchanged(self, split: Split) -> Tensor:
        """Return the size of the lead that each sample of a split is given, ``(N,)``."""
        ignored, parts = self.source.ignore_index, []
        for logits, target in self.source.rows(split):
            counted = target != ignored
            lead = target_lead(logits, target.where(counted, 0))
            parts.append(lead.where(counted, torch.nan).cpu())
        leads = torch.cat(parts)
        sizes = leads.abs()
        stream = generator(self.source.seed, f"ShuffleTarget:{split}")
        for group in (leads > 0, leads <= 0):
            members = group.nonzero()[:, 0]
            sizes[members] = sizes[members[torch.randperm(len(members), generator=stream)]]
        return sizes


class ScaleTarget(Intervention):
    """Multiplies or divides how clearly the teacher is right, or wrong, at random.

    The target's lead over the largest other logit keeps its sign: TCJSD rises with the factor; the
    non-target distribution and the teacher's accuracy stay.

    Args:
        factor: of the lead, or of what it is divided by, with probability 1/2 each; at least 1.

    Raises:
        UserError: it is below 1.
    """

    least_classes = 2

    def __init__(self, factor: float) -> None:
        check_at_least("model.intervention.factor", factor, 1)
        self.factor = factor

    def changed(self, rows: Rows) -> Tensor:
        """Return the changed logits ``(N, C)``."""
        lead = target_lead(rows.logits, rows.target)
        factor = torch.where(rows.draw("sign", 1)[:, 0] < 0.5, 1 / self.factor, self.factor)
        return shift_target(rows.logits, rows.target, lead * factor - lead)


class ShiftTarget(Intervention):
    """Adds or subtracts the same from the target's log-odds of all samples, at random.

    The non-target distribution stays. Where the teacher is weak, what is added makes it right: its
    accuracy moves as well, and TCJSD may fall; ScaleTarget keeps the one and raises the other.

    Args:
        shift: in nats, at least 0.

    Raises:
        UserError: it is negative.
    """

    least_classes = 2

    def __init__(self, shift: float) -> None:
        check_at_least("model.intervention.shift", shift, 0)
        self.shift = shift

    def changed(self, rows: Rows) -> Tensor:
        """Return the changed logits ``(N, C)``."""
        sign = torch.where(rows.draw("sign", 1)[:, 0] < 0.5, -1.0, 1.0)
        return shift_target(rows.logits, rows.target, self.shift * sign)
