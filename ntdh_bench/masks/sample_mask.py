"""Sample mask: Algorithm 2 as a callback."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ntdh_bench.batch import Split
from ntdh_bench.contract import Distilling
from ntdh_bench.divergence import ncjsd
from ntdh_bench.errors import NotStackable, UserError
from ntdh_bench.masks.base import Mask, Removes, keep_mask, removal_order
from ntdh_bench.ranges import check_choice, check_within
from ntdh_bench.rank_correlation import kendall_tau
from ntdh_bench.seeding import generator

SampleScore: TypeAlias = Literal["ncjsd", "kendall"]


class SampleMask(Mask):
    """Drops samples (pixels or points in dense tasks) from the distillation term (Algorithm 2).

    In each batch rows are dropped by the divergence between teacher and student at that step: its
    NCJSD, or how little the two agree on the order of the classes (Kendall's tau-b of the logits,
    negated). The task loss keeps all rows. Where no row is left the distillation term is 0.

    Of a student without KD the mask changes nothing but what is measured: its divergences are those
    of the rows that the mask would leave of each batch of validation or test data (at least one, so
    that there is something to measure), so that they say how far teacher and student are apart
    *before* distilling with this mask. Whatever counts right answers counts all rows.

    ``score: kendall`` with ``threshold: 0`` is the on-the-fly selection distillation of C2KD (Huo
    et al., "C2KD: Bridging the Modality Gap for Cross-Modal Knowledge Distillation", CVPR 2024), on
    the networks' own logits instead of those of proxies. As many rows as do not agree better than
    the threshold are dropped: with ``most_divergent`` just these, with the other two their number.

    Args:
        ratio: part of the rows that is removed, in [0, 1]: ``round(ratio * N)``, halves to even.
        removes: ``most_divergent`` (the paper's True mask), ``least_divergent`` (False) or
            ``random``, drawn from (seed, epoch, batch); where it is measured, from (seed, split,
            first sample of the batch).
        seed: of random masks, linked to the run's seed by the command line.
        score: ``ncjsd``, or ``kendall``.
        threshold: tau-b in [-1, 1] that a row must exceed, instead of ``ratio``; of ``kendall``.

    Raises:
        UserError: a value out of range, neither or both of ``ratio`` and ``threshold``, or a
            threshold of another score.
    """

    def __init__(
        self,
        ratio: float | None = None,
        removes: Removes = "most_divergent",
        seed: int = 0,
        score: SampleScore = "ncjsd",
        threshold: float | None = None,
    ) -> None:
        super().__init__(removes, seed)
        check_choice("mask.score", score, get_args(SampleScore))
        if (ratio is None) == (threshold is None):
            raise UserError(
                f"SampleMask has mask.ratio {ratio} and mask.threshold {threshold}: give one of "
                "them, the part of the rows that is removed or, with mask.score kendall, the "
                "agreement that they must exceed"
            )
        if threshold is not None and score != "kendall":
            raise UserError(
                f"mask.threshold is one of rank correlation, but mask.score is {score}: set it to "
                "kendall, or give mask.ratio instead"
            )
        check_within("mask.ratio", 0 if ratio is None else ratio, 0, 1)
        check_within("mask.threshold", 0 if threshold is None else threshold, -1, 1)
        self.ratio = ratio
        self.score: SampleScore = score
        self.threshold = threshold

    def __str__(self) -> str:
        """Say which rows are dropped, in a few words."""
        which = self.removes.replace("_", " ")
        if self.ratio is None:
            return f"as many as have a tau-b up to {self.threshold:g}, {which}"
        by = " by tau-b" if self.score == "kendall" and self.removes != "random" else ""
        return f"{self.ratio:.0%}, {which}{by}"

    @property
    def stack_key(self) -> Hashable:
        """What members of a stack have in common.

        Raises:
            NotStackable: with a threshold, as the rows left of each member differ in number.
        """
        if self.threshold is not None:
            raise NotStackable("mask.threshold leaves each member another number of rows")
        return self.ratio, self.removes, self.score

    @torch.no_grad()
    def keep_rows(
        self,
        logits_teacher: Tensor,
        logits_student: Tensor,
        target: Tensor,
        epoch: int,
        batch_idx: int,
    ) -> Tensor:
        """Return the rows that stay, in order: int64 ``(kept,)``.

        Args:
            logits_teacher: ``(N, C)``, any floating dtype; rows with an ignored target are left
                out by the caller.
            logits_student: ``(N, C)``.
            target: int64 ``(N,)``.
            epoch: current epoch.
            batch_idx: number of the batch in the epoch.

        Example:
            >>> teacher = torch.tensor([[0.0, 4.0, 0.0], [0.0, 4.0, 0.0], [0.0, 1.0, 1.0]])
            >>> student = torch.tensor([[0.0, 4.0, 0.0], [0.0, 0.0, 4.0], [0.0, 1.0, 0.0]])
            >>> mask = SampleMask(ratio=1 / 3)
            >>> mask.keep_rows(teacher, student, torch.zeros(3).long(), epoch=0, batch_idx=0)
            tensor([0, 2])
        """
        stream = self._stream(epoch, batch_idx)
        return self._left(logits_teacher, logits_student, target, stream)

    @torch.no_grad()
    def keep_measured(
        self,
        logits_teacher: Tensor,
        logits_student: Tensor,
        target: Tensor,
        split: Split,
        first: int,
    ) -> Tensor:
        """Return the rows that it would leave of a batch that is measured: int64 ``(kept,)``.

        At least one is left.

        Args:
            logits_teacher: ``(N, C)``, as those of :meth:`keep_rows`.
            logits_student: ``(N, C)``.
            target: int64 ``(N,)``.
            split: the batch's.
            first: index of its first sample.
        """
        stream = self._stream_measured(split, first)
        return self._left(logits_teacher, logits_student, target, stream, least=1)

    def _left(
        self,
        teacher: Tensor,
        student: Tensor,
        target: Tensor,
        stream: torch.Generator,
        least: int = 0,
    ) -> Tensor:
        if self.removes == "random" and self.threshold is None:
            divergence = torch.zeros(len(target), device=target.device)
        else:
            divergence = self._divergence(teacher, student, target)
        removed = min(self._removed(divergence), max(len(target) - least, 0))
        return keep_mask(divergence, removed, self.removes, stream).nonzero().squeeze(1)

    def _divergence(self, teacher: Tensor, student: Tensor, target: Tensor) -> Tensor:
        """Return what rows ``(N, C)`` are ranked by, ``(N,)``: the larger, the more divergent."""
        if self.score == "kendall":
            return -kendall_tau(student, teacher)
        return ncjsd(teacher, student, target)

    def _removed(self, divergence: Tensor) -> int:
        if self.threshold is not None:
            return int((divergence >= -self.threshold).sum())
        assert self.ratio is not None
        return round(self.ratio * len(divergence))

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
            members: K masks of one :attr:`stack_key`.
            logits_teacher: ``(K, N, C)``.
            logits_student: ``(K, N, C)``.
            target: int64 ``(K, N)``, none of them ignored.
            epoch: current epoch.
            batch_idx: number of the batch in the epoch.
        """
        streams = {member.seed: member._stream(epoch, batch_idx) for member in members}
        return SampleMask._left_of_members(members, logits_teacher, logits_student, target, streams)

    @staticmethod
    @torch.no_grad()
    def keep_measured_of_members(
        members: Sequence[SampleMask],
        logits_teacher: Tensor,
        logits_student: Tensor,
        target: Tensor,
        split: Split,
        first: Sequence[int],
    ) -> Tensor:
        """Return what :meth:`keep_measured` does for each member of a stack: int64 ``(K, kept)``.

        Args:
            members: K masks of one :attr:`stack_key`; those of one seed have one batch.
            logits_teacher: ``(K, N, C)``.
            logits_student: ``(K, N, C)``.
            target: int64 ``(K, N)``, none of them ignored.
            split: the batches'.
            first: index of the first sample of each member's batch.
        """
        streams = {
            member.seed: member._stream_measured(split, sample)
            for member, sample in zip(members, first, strict=True)
        }
        return SampleMask._left_of_members(
            members, logits_teacher, logits_student, target, streams, least=1
        )

    @staticmethod
    def _left_of_members(
        members: Sequence[SampleMask],
        logits_teacher: Tensor,
        logits_student: Tensor,
        target: Tensor,
        streams: Mapping[int, torch.Generator],
        least: int = 0,
    ) -> Tensor:
        """Return the rows that stay ``(K, kept)``; random ones by the stream of each seed."""
        mask, count = members[0], target.shape[1]
        if mask.removes == "random":
            orders = {s: torch.randperm(count, generator=stream) for s, stream in streams.items()}
            order = torch.stack([orders[member.seed] for member in members]).to(target.device)
        else:
            teacher, student = logits_teacher.flatten(0, 1), logits_student.flatten(0, 1)
            divergence = mask._divergence(teacher, student, target.flatten()).view(target.shape)
            order = removal_order(divergence, mask.removes)
        assert mask.ratio is not None  # see stack_key
        removed = min(round(mask.ratio * count), max(count - least, 0))
        return order[:, removed:].sort(dim=1).values

    def _stream(self, epoch: int, batch_idx: int) -> torch.Generator:
        """Return what the rows that a batch loses at random are drawn from."""
        return generator(self.seed, "sample_mask", epoch, batch_idx)

    def _stream_measured(self, split: Split, first: int) -> torch.Generator:
        return generator(self.seed, f"sample_mask/{split}", first)

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
