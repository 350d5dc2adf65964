"""What an intervention on a teacher's output is, and what it may know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch, PairedData, Split
from ntdh_bench.errors import UserError
from ntdh_bench.layers import LOGITS
from ntdh_bench.ranges import check_within
from ntdh_bench.seeding import uniform

#: All of a split in batches: logits ``(B, C, *spatial)`` of the untouched teacher, and targets.
SplitRows: TypeAlias = Callable[[Split], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Source:
    """What an intervention may know of the run that it is part of.

    Attributes:
        seed: of the run.
        ignore_index: target that does not count.
        rows: what the untouched teacher says of a split.
        reference: the student trained without KD, frozen; for interventions that ask for it.
    """

    seed: int
    ignore_index: int
    rows: SplitRows
    reference: nn.Module | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of a batch that count.

    Attributes:
        logits: of the teacher, ``(N, C)``.
        target: int64 ``(N,)``.
        split: the batch's.
        draw: from a purpose and a width to U[0, 1) float32 ``(N, width)``, by seed, split and
            sample: the same in every epoch, batch, worker and process.
        index: int64 ``(N,)``, the sample of each row.
        reference: logits of the student trained without KD, ``(N, C)``.
    """

    logits: Tensor
    target: Tensor
    split: Split
    draw: Callable[[str, int], Tensor]
    index: Tensor
    reference: Tensor | None = None


class Intervention(ABC):
    """Base: changes a frozen teacher's logits, knowing the target, before anything uses them.

    What it changes is decided by seed, split and sample, never by epoch. The teacher is measured as
    it teaches. Features of layers stay as they are.

    Attributes:
        needs_reference: whether it asks for the student trained without KD.
        dense: whether it works where each position has a target of its own.
        least_classes: C that it needs.
    """

    needs_reference = False
    dense = True
    least_classes = 3

    _source: Source | None = None

    def check(self, data: PairedData) -> None:
        """Refuse data on which it is not defined.

        Args:
            data: set up.

        Raises:
            UserError: too few classes, or targets of positions where it needs one a sample.
        """
        name = type(self).__name__
        if data.num_classes < self.least_classes:
            raise UserError(
                f"{name} needs at least {self.least_classes} classes, but {data.name} has "
                f"{data.num_classes}: remove model.intervention"
            )
        if not self.dense and next(data.batches("train", batch_size=1))["target"].dim() > 1:
            raise UserError(
                f"{name} exchanges samples, but each position of {data.name} has a target of its "
                "own: choose another model.intervention"
            )

    def bind(self, source: Source) -> None:
        """Tell it of the run, before it is used."""
        self._source = source
        self.forget()

    def forget(self) -> None:  # noqa: B027 (most learn nothing)
        """Drop what was learned of the teacher."""

    @property
    def settings(self) -> tuple[Any, ...]:
        """What tells one intervention from another: its class, and its arguments in order."""
        given = ((name, value) for name, value in vars(self).items() if name[0] != "_")
        return type(self), *sorted(given)

    @property
    def source(self) -> Source:
        """What it was told of the run."""
        assert self._source is not None, "bind() comes first"
        return self._source

    @abstractmethod
    def changed(self, rows: Rows) -> Tensor:
        """Return the changed logits ``(N, C)``."""

    @torch.no_grad()
    def __call__(self, logits: Tensor, batch: PairedBatch, split: Split) -> Tensor:
        """Return the changed logits of a batch of ``split``, ``(B, C, *spatial)``."""
        target, source = batch["target"], self.source
        counted = target != source.ignore_index
        reference = None
        if self.needs_reference:
            assert source.reference is not None
            found: Tensor = source.reference.to(logits.device)(batch["student"])
            reference = found.movedim(1, -1)[counted]
        spatial = target.shape[1:]
        index = batch["index"].view(-1, *[1] * len(spatial)).expand_as(target)

        def draw(purpose: str, width: int) -> Tensor:
            name = f"{type(self).__name__}:{purpose}:{split}"
            return uniform(source.seed, name, 0, batch["index"], (*spatial, width))[counted]

        rows = Rows(
            logits.movedim(1, -1)[counted], target[counted], split, draw, index[counted], reference
        )
        changed = self.changed(rows)
        result = logits.movedim(1, -1).to(changed.dtype, copy=True)
        result[counted] = changed
        return result.movedim(-1, 1)


class SharedIntervention(Intervention):
    """Base of those that act on a share of the samples.

    Args:
        share: of the samples that are changed, in [0, 1]. A larger one changes the same and more.

    Raises:
        UserError: it is not in [0, 1].
    """

    def __init__(self, share: float) -> None:
        check_within("model.intervention.share", share, 0, 1)
        self.share = share

    def chosen(self, rows: Rows) -> Tensor:
        """Return which rows are changed, bool ``(N, 1)``."""
        return rows.draw("chosen", 1) < self.share


def check_distiller(teacher_layers: list[str]) -> None:
    """Refuse a distiller that never looks at the teacher's logits.

    Raises:
        UserError: it compares features alone, which no intervention changes.
    """
    if teacher_layers and LOGITS not in teacher_layers:
        raise UserError(
            "model.intervention changes the teacher's logits, but the distiller compares "
            f"{', '.join(teacher_layers)} alone: choose a method that compares logits, such as KD"
        )
