"""Sample mask: Algorithm 2 as a callback."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ntdh_bench.contract import Distilling
from ntdh_bench.divergence import ncjsd
from ntdh_bench.errors import UserError
from ntdh_bench.masks.base import Mask, Removes, keep_mask, removal_order
from ntdh_bench.seeding import generator


class SampleMask(Mask):
    """Drops samples (pixels or points in dense tasks) from the distillation term (Algorithm 2).

    In each batch ``round(ratio * N)`` of the N rows are dropped, ranked by the NCJSD between
    teacher and student at that step. The task loss keeps all rows. With ``ratio: 1`` no row is
    left and the distillation term is 0.

    Args:
        ratio: part of the rows that is removed, in [0, 1].
        removes: ``most_divergent`` (the paper's True mask), ``least_divergent`` (False) or
            ``random``, drawn from (seed, epoch, batch).
        seed: of random masks, linked to the run's seed by the command line.

    Raises:
        UserError: a value out of range.
    """

    def __init__(self, ratio: float, removes: Removes = "most_divergent", seed: int = 0) -> None:
        super().__init__(ratio, removes, seed)

    @torch.no_grad()
    def keep_rows(
        self,
        logits_teacher: Tensor,
        logits_student: Tensor,
        target: Tensor,
        epoch: int,
        batch_idx: int,
    ) -> Tensor:
        """Return the rows that stay, in order: int64 ``(N - round(ratio * N),)``.

        Args:
            logits_teacher: ``(N, C)``, any floating dtype; rows with an ignored target are left
                out by the caller.
            logits_student: ``(N, C)``.
            target: int64 ``(N,)``.
            epoch: current epoch.
            batch_idx: number of the batch in the epoch.
        """
        if self.removes == "random":
            divergence = torch.zeros(len(target), device=target.device)
        else:
            divergence = ncjsd(logits_teacher, logits_student, target)
        stream = self._stream(epoch, batch_idx)
        return keep_mask(divergence, self.ratio, self.removes, stream).nonzero().squeeze(1)

    @staticmethod
    @torch.no_grad()
    def keep_rows_of_members(
        members: Sequence[SampleMask],
        logits_teacher: Tensor,
        logits_student: Tensor,
        target: Tensor,
        epoch: int,
        batch_idx: int,
    ) -> Tensor:
        """Return the rows that stay for each member of a stack, in order: int64 ``(K, kept)``.

        Args:
            members: K masks that differ in their seeds alone.
            logits_teacher: ``(K, N, C)``.
            logits_student: ``(K, N, C)``.
            target: int64 ``(K, N)``, none of them ignored.
            epoch: current epoch.
            batch_idx: number of the batch in the epoch.
        """
        mask, count = members[0], target.shape[1]
        if mask.removes == "random":
            streams = {member.seed: member._stream(epoch, batch_idx) for member in members}
            orders = {s: torch.randperm(count, generator=stream) for s, stream in streams.items()}
            order = torch.stack([orders[member.seed] for member in members]).to(target.device)
        else:
            teacher, student = logits_teacher.flatten(0, 1), logits_student.flatten(0, 1)
            divergence = ncjsd(teacher, student, target.flatten()).view(target.shape)
            order = removal_order(divergence, mask.removes)
        return order[:, round(mask.ratio * count) :].sort(dim=1).values

    def _stream(self, epoch: int, batch_idx: int) -> torch.Generator:
        """Return what the rows that a batch loses at random are drawn from."""
        return generator(self.seed, "sample_mask", epoch, batch_idx)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the mask to the module, which applies it in its training step (Lightning hook)."""
        if not isinstance(pl_module, Distilling):
            raise UserError(
                "SampleMask works on modules with a distillation term (DistillationModule, "
                f"PMFModule, TwoDPASSModule), not on a {type(pl_module).__name__}: remove the mask"
            )
        pl_module.sample_mask = self

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the mask from the module (Lightning hook)."""
        if isinstance(pl_module, Distilling):
            pl_module.sample_mask = None
