"""CRD: contrast student and teacher against memory banks of all training samples."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ntdh_bench.distillers.base import Distiller
from ntdh_bench.distillers.contrastive import crd, log_scores_sum
from ntdh_bench.distillers.functional import unit_rows
from ntdh_bench.distillers.ranks import gather_rows, rank
from ntdh_bench.divergence import promote
from ntdh_bench.errors import UserError
from ntdh_bench.ranges import check_above, check_at_least, check_within
from ntdh_bench.seeding import generator, seeded


class CRD(Distiller):
    """Contrastive representation distillation (Tian, Krishnan and Isola, ICLR 2020).

    Trained: a linear embedding of each network's features. Kept in the checkpoint: the two banks,
    the normalisers (fixed at the first training batch) and the step. Negatives are drawn uniformly
    from all training samples, from a stream derived from (seed, step, rank). With several processes
    the banks take in the embeddings of all of them, so they stay equal everywhere. In eval mode
    nothing is updated.

    Args:
        student_dim: size of dimension 1 of the student's features; ``None``: set by ``build``.
        teacher_dim: the same of the teacher.
        n_data: number of training samples.
        feat_dim: size of the embeddings; 128 in the paper.
        negatives: K, drawn for each sample; 16,384 in the paper.
        temperature: T; 0.07 in the authors' code.
        momentum: share of the old row when the bank is updated, in [0, 1]; 0.5.
        weight: factor of the term; 0.8 in the paper.
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
        **layers: str | None,
    ) -> None:
        super().__init__(weight, **layers)
        check_at_least("distiller.feat_dim", feat_dim, 1)
        check_at_least("distiller.negatives", negatives, 1)
        check_above("distiller.temperature", temperature, 0)
        check_within("distiller.momentum", momentum, 0, 1)
        self.feat_dim = feat_dim
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum
        self.seed = 0
        self.student_embedding: nn.Linear | None = None
        self.teacher_embedding: nn.Linear | None = None
        if student_dim is not None and teacher_dim is not None and n_data is not None:
            self._create(student_dim, teacher_dim, n_data)

    def build(
        self, student: Mapping[str, int], teacher: Mapping[str, int], n_data: int, seed: int
    ) -> None:
        """Take the run's seed; create embeddings and banks from it if there are none yet."""
        self.seed = seed
        sizes = student[self.student_layers[0]], teacher[self.teacher_layers[0]], n_data
        if self.student_embedding is None:
            with seeded(seed, "crd"):
                self._create(*sizes)
        elif self._sizes() != sizes:
            raise UserError(
                f"CRD(student_dim, teacher_dim, n_data) is {self._sizes()}, but the layers and the "
                f"data have {sizes}: leave them out"
            )

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
            teacher: ``(B, teacher_dim)``, likewise.
            index: int64 ``(B,)``, the samples' positions in the training split: the positives.
            negative_index: int64 ``(B, K)`` positions of the negatives; ``None`` draws them.

        Returns:
            Scalar in nats, mean over rows of the sum over all contrasts and both directions.

        Raises:
            UserError: never built, or an index outside the training split.
        """
        if self.student_embedding is None or self.teacher_embedding is None:
            raise UserError(
                "CRD has no embeddings: give student_dim, teacher_dim and n_data, or build()"
            )
        self._check(index)
        with torch.autocast(device_type=student.device.type, enabled=False):
            embeddings = (
                _embed(student, self.student_embedding),
                _embed(teacher, self.teacher_embedding),
            )
            contrast = self._contrast(index, negative_index)
            log_z = self._normalisers(embeddings, contrast)
            memories = self.student_memory, self.teacher_memory
            loss = crd(*embeddings, *memories, contrast, log_z, self.temperature)
            if self.training:
                self._update(embeddings, index)
        return loss

    def _sizes(self) -> tuple[int, int, int]:
        assert self.student_embedding is not None
        assert self.teacher_embedding is not None
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

    def _check(self, index: Tensor) -> None:
        n_data = len(self.student_memory)
        inside = ((index >= 0) & (index < n_data)).all()
        if index.device.type != "cpu":
            torch._assert_async(inside)
        elif not inside:
            raise UserError(
                f"CRD got sample {int(index.max())}, but its memory has {n_data} rows: n_data must "
                "be the number of training samples"
            )

    def _contrast(self, index: Tensor, negative_index: Tensor | None) -> Tensor:
        if negative_index is None:
            stream = generator(self.seed, "crd", int(self.step), rank())
            shape = (len(index), self.negatives)
            negative_index = torch.randint(len(self.student_memory), shape, generator=stream)
            negative_index = negative_index.to(index.device, non_blocking=True)
        return torch.cat([index[:, None], negative_index], dim=1)

    @torch.no_grad()
    def _normalisers(self, embeddings: tuple[Tensor, Tensor], contrast: Tensor) -> Tensor:
        """Return log Z; at the first training batch, fix it over the batches of all ranks."""
        if not self.log_z.isnan().any():
            return self.log_z
        student, teacher = embeddings
        sums = [
            log_scores_sum(student, self.teacher_memory, contrast, self.temperature),
            log_scores_sum(teacher, self.student_memory, contrast, self.temperature),
            torch.tensor(float(contrast.numel()), device=contrast.device).log().to(student.dtype),
        ]
        totals = torch.stack(sums)[None]
        if self.training:
            totals = gather_rows(totals)
        *log_sums, log_count = totals.logsumexp(dim=0)
        log_z: Tensor = torch.stack(log_sums) - log_count + math.log(len(self.student_memory))
        if self.training:
            self.log_z.copy_(log_z)
        return log_z

    @torch.no_grad()
    def _update(self, embeddings: tuple[Tensor, Tensor], index: Tensor) -> None:
        everywhere = gather_rows(index)
        memories = self.student_memory, self.teacher_memory
        for memory, embedding in zip(memories, embeddings, strict=True):
            rows = gather_rows(embedding.detach()).to(memory.dtype)
            mixed = self.momentum * memory[everywhere] + (1.0 - self.momentum) * rows
            # A sample that occurs twice gets the same value twice, so the order cannot matter.
            memory[everywhere] = unit_rows(mixed)[_last_occurrence(everywhere)]
        self.step += 1


def _embed(features: Tensor, embedding: nn.Linear) -> Tensor:
    """Embed features and normalise the rows."""
    if features.dim() > 2:
        features = features.flatten(2).mean(dim=2)
    (embedded,) = promote(embedding(features.to(embedding.weight.dtype)))
    return unit_rows(embedded)


def _last_occurrence(index: Tensor) -> Tensor:
    """Return for each entry of ``(B,)`` the last position with the same value."""
    positions = torch.arange(len(index), device=index.device)
    if not len(index):
        return positions
    same = index[:, None] == index[None, :]
    return torch.where(same, positions, -1).amax(dim=1)
