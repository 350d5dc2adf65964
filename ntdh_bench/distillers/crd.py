"""CRD: contrast student and teacher against memory banks of all training samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ntdh_bench.distillers.base import Distiller, with_numbers
from ntdh_bench.distillers.contrastive import contrast_losses, log_scores_sum, rows_of
from ntdh_bench.distillers.negatives import Draws, Negatives, flat, given
from ntdh_bench.distillers.precision import unit_rows
from ntdh_bench.distillers.ranks import Share, gather_rows, share_of
from ntdh_bench.divergence import promote
from ntdh_bench.errors import UserError
from ntdh_bench.ranges import check_above, check_at_least, check_within
from ntdh_bench.seeding import seeded
from ntdh_bench.stacks.layers import StackedLinear, beside

T = TypeVar("T")


class CRD(Distiller):
    """Contrastive representation distillation (Tian, Krishnan and Isola, ICLR 2020).

    Trained: a linear embedding of each network's features. Kept in the checkpoint: the two banks,
    the normalisers (fixed at the first training batch) and the step. Negatives are drawn uniformly
    from all training samples, from a stream derived from (seed, step, rank). With several processes
    the banks take in the embeddings of all of them, so they stay equal everywhere. In eval mode
    nothing is updated. Each member of a stack has embeddings, banks and normalisers of its own, so
    no score is that of another; what those of one seed share is the draw.

    Args:
        student_dim: size of dimension 1 of the student's features; ``None``: set by ``build``.
        teacher_dim: the same of the teacher.
        n_data: number of training samples.
        feat_dim: size of the embeddings; 128 in the paper.
        negatives: K, drawn for each sample; 16,384 in the paper.
        temperature: T; 0.07 in the authors' code.
        momentum: share of the old row when the bank is updated, in [0, 1]; 0.5.
        weight: factor of the term; 0.8 in the paper.
        shared_negatives: a variant, not the published sampling: K negatives are drawn once a batch
            for all of its samples, so that only their rows of the banks are read.
        gather: whether the processes draw together as one with the samples of all would, and the
            mean is over these: each then draws for all, and uses what its own samples have drawn.
        layers: ``layer``, ``student_layer`` and ``teacher_layer`` of a :class:`Distiller`; the
            paper takes the features before the head.

    Raises:
        UserError: a number outside its range.
    """

    student_memory: Tensor
    teacher_memory: Tensor
    log_z: Tensor
    step: Tensor

    def __init__(
        self,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        n_data: int | None = None,
        feat_dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        weight: float = 0.8,
        shared_negatives: bool = False,
        gather: bool = False,
        **layers: str | None,
    ) -> None:
        super().__init__(weight, **layers)
        check_at_least("distiller.feat_dim", feat_dim, 1)
        check_at_least("distiller.negatives", negatives, 1)
        check_above("distiller.temperature", temperature, 0)
        check_within("distiller.momentum", momentum, 0, 1)
        self.feat_dim = feat_dim
        self.negatives = negatives
        self.temperature: float | Tensor = temperature
        self.momentum: float | Tensor = momentum
        self.shared_negatives = shared_negatives
        self.gather = gather
        self.seed = 0
        self.student_embedding: nn.Linear | StackedLinear | None = None
        self.teacher_embedding: nn.Linear | StackedLinear | None = None
        self._draws = Draws([self.seed], negatives, shared_negatives)
        self._step = _Known(int)
        self._are_fixed = _Known(_without_nan)
        if student_dim is not None and teacher_dim is not None and n_data is not None:
            self._create(student_dim, teacher_dim, n_data)

    def build(
        self, student: Mapping[str, int], teacher: Mapping[str, int], n_data: int, seed: int
    ) -> None:
        """Take the run's seed; create embeddings and banks from it if there are none yet."""
        self.seed = seed
        self._draws = Draws([seed], self.negatives, self.shared_negatives)
        sizes = student[self.student_layers[0]], teacher[self.teacher_layers[0]], n_data
        if self.student_embedding is None:
            with seeded(seed, "crd"):
                self._create(*sizes)
        elif self._sizes() != sizes:
            raise UserError(
                f"CRD(student_dim, teacher_dim, n_data) is {self._sizes()}, but the layers and the "
                f"data have {sizes}: leave them out"
            )

    @property
    def stack_key(self) -> Hashable:
        """What members have in common: how many negatives, how drawn, and the step as well."""
        step = int(self.step) if self.student_embedding is not None else None
        return super().stack_key, self.negatives, self.shared_negatives, step

    @classmethod
    def batched(cls, members: Sequence[CRD]) -> CRD:
        """Return members as one."""
        one = with_numbers(members, "temperature", "momentum")
        one._draws = Draws([member.seed for member in members], one.negatives, one.shared_negatives)
        for name in ("student_embedding", "teacher_embedding"):
            setattr(one, name, StackedLinear.of([getattr(member, name) for member in members]))
        for name in ("student_memory", "teacher_memory", "log_z"):
            setattr(one, name, torch.stack([getattr(member, name) for member in members]))
        return one

    def extra_arguments(self, target: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """Return the positions in the training split."""
        return (index,)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        index: Tensor,
        negative_index: Tensor | None = None,
    ) -> Tensor:
        """Return the unweighted loss, then update the banks (in training mode).

        Args:
            student: ``(B, student_dim)``; feature maps ``(B, student_dim, *spatial)`` are averaged.
                Of a stack everything is ``(M, B, ...)``.
            teacher: ``(B, teacher_dim)``, likewise.
            index: int64 ``(B,)``, the samples' positions in the training split: the positives.
            negative_index: int64 ``(B, K)`` positions of the negatives, ``(K,)`` where all samples
                share them; ``None`` draws them.

        Returns:
            Scalar in nats, mean over rows of the sum over all contrasts and both directions; of a
            stack ``(M,)``.

        Raises:
            UserError: never built, or an index outside the training split.
        """
        if self.student_embedding is None or self.teacher_embedding is None:
            raise UserError(
                "CRD has no embeddings: give student_dim, teacher_dim and n_data, or build()"
            )
        self._check(index)
        with torch.autocast(device_type=student.device.type, enabled=False):
            embedded = (
                self._embed(student, self.student_embedding),
                self._embed(teacher, self.teacher_embedding),
            )
            sides = unit_rows(torch.stack(embedded))
            index = self._members(index)
            share = self._share(index)
            negatives = self._negatives(index, share, negative_index)
            contrasts = index, negatives, self.temperature
            log_z = self._normalisers(sides, index, negatives)
            losses = contrast_losses(sides, self._memories()[::-1], log_z.T, *contrasts)
            if self.training:
                self._update(sides.detach(), index)
        return losses if self.stacked else losses[0] * share.weight

    def _sizes(self) -> tuple[int, int, int]:
        assert isinstance(self.student_embedding, nn.Linear)
        assert isinstance(self.teacher_embedding, nn.Linear)
        dims = self.student_embedding.in_features, self.teacher_embedding.in_features
        return *dims, len(self.student_memory)

    def _create(self, student_dim: int, teacher_dim: int, n_data: int) -> None:
        self.student_embedding = nn.Linear(student_dim, self.feat_dim)
        self.teacher_embedding = nn.Linear(teacher_dim, self.feat_dim)
        bound = math.sqrt(3.0 / self.feat_dim)  # rows of expected squared norm 1
        for name in ("student_memory", "teacher_memory"):
            rows = torch.empty(n_data, self.feat_dim).uniform_(-bound, bound)
            self.register_buffer(name, rows)
        # Log normalisers of the student's scores (against teacher_memory) and of the teacher's.
        self.register_buffer("log_z", torch.full((2,), math.nan))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def _members(self, x: Tensor) -> Tensor:
        """Return ``(M, ...)``: alone, a distiller is its only member."""
        return x if self.stacked else x[None]

    def _check(self, index: Tensor) -> None:
        n_data = self.student_memory.shape[-2]
        inside = ((index >= 0) & (index < n_data)).all()
        if index.device.type != "cpu":
            torch._assert_async(inside)
        elif not inside:
            raise UserError(
                f"CRD got sample {int(index.max())}, but its memory has {n_data} rows: n_data must "
                "be the number of training samples"
            )

    def _memories(self) -> tuple[Tensor, Tensor]:
        """Return the banks of student and teacher, ``(M, n_data, feat_dim)``."""
        return self._members(self.student_memory), self._members(self.teacher_memory)

    def _embed(self, features: Tensor, embedding: nn.Linear | StackedLinear) -> Tensor:
        """Return the embedded features ``(M, B, feat_dim)``."""
        spatial = 2 + self.stacked
        if features.dim() > spatial:
            features = features.flatten(spatial).mean(spatial)
        (embedded,) = promote(embedding(features.to(embedding.weight.dtype)))
        return self._members(embedded)

    def _of_all_ranks(self, *sides: Tensor) -> tuple[Tensor, ...]:
        """Leave the samples where they are: those of others are in the banks."""
        return sides

    def _share(self, index: Tensor) -> Share:
        """Return the samples ``(M, B)`` among those that draw together."""
        rows = index.shape[1]
        together = self.gather and not self.stacked
        return share_of(rows, index.device) if together else Share(0, rows, rows)

    def _negatives(self, index: Tensor, share: Share, negative_index: Tensor | None) -> Negatives:
        n_data = self.student_memory.shape[-2]
        if negative_index is not None:
            return given(self._members(negative_index), n_data)
        return self._draws.at(self._step(self.step), share, n_data, index.device)

    @torch.no_grad()
    def _normalisers(self, sides: Tensor, index: Tensor, negatives: Negatives) -> Tensor:
        """Return log Z ``(M, 2)``; at the first training batch, fix it over those of all ranks."""
        log_z = self._members(self.log_z)
        if self._are_fixed(self.log_z):
            return log_z
        memories = self._memories()[::-1]
        sums = log_scores_sum(sides, memories, index, negatives, self.temperature)
        count = torch.full_like(sums[:1], sides.shape[2] * (1.0 + negatives.number))
        totals = torch.cat([sums, count.log()])[None]
        if self.training:
            totals = gather_rows(totals)
        *log_sums, log_count = totals.logsumexp(dim=0)
        found = torch.stack(log_sums, dim=1) - log_count[:, None] + math.log(memories[0].shape[1])
        log_z = torch.where(log_z.isnan().any(dim=1, keepdim=True), found, log_z)
        if self.training:
            self.log_z.copy_(log_z.view_as(self.log_z))
        return log_z

    @torch.no_grad()
    def _update(self, sides: Tensor, index: Tensor) -> None:
        index, memories = _gather_samples(index, 1), self._memories()
        old = torch.stack([rows_of(memory, index) for memory in memories])
        new = _gather_samples(sides, 2).to(old.dtype)
        momentum, rest = (beside(m, old[0]) for m in (self.momentum, 1.0 - self.momentum))
        rows = unit_rows(momentum * old + rest * new).flatten(1, 2)
        # A sample that occurs twice gets the same value twice, so the order cannot matter.
        rows = rows.index_select(1, flat(_last_occurrence(index), index.shape[1]))
        where = flat(index, memories[0].shape[1])
        for memory, values in zip(memories, rows, strict=True):
            memory.flatten(0, 1).index_copy_(0, where, values)
        step = self._step(self.step) + 1
        self.step += 1
        self._step.set(self.step, step)


class _Known(Generic[T]):
    """What a buffer holds: a look at a GPU's waits for it, so there is one only after changes."""

    def __init__(self, read: Callable[[Tensor], T]) -> None:
        self._read = read
        self._last: tuple[Tensor, int, T] | None = None

    def __call__(self, buffer: Tensor) -> T:
        """Return what the buffer holds."""
        if self._last is not None and not buffer.is_inference():
            of, version, value = self._last
            if of is buffer and version == buffer._version:
                return value
        value = self._read(buffer)
        self.set(buffer, value)
        return value

    def set(self, buffer: Tensor, value: T) -> None:
        """Take note of what the buffer holds."""
        self._last = None if buffer.is_inference() else (buffer, buffer._version, value)


def _without_nan(x: Tensor) -> bool:
    return not x.isnan().any()


def _gather_samples(x: Tensor, dim: int) -> Tensor:
    """Return a tensor with the samples of all ranks; a stack has no other ranks."""
    return gather_rows(x.movedim(dim, 0)).movedim(0, dim)


def _last_occurrence(index: Tensor) -> Tensor:
    """Return for each entry of ``(M, B)`` the last position in its row with the same value."""
    positions = torch.arange(index.shape[1], device=index.device)
    if not index.numel():
        return positions.expand_as(index)
    same = index[:, :, None] == index[:, None, :]
    return torch.where(same, positions, -1).amax(dim=2)
