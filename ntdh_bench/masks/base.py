"""What feature masks and sample masks share: how much is removed, and which part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol, TypeAlias, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from ntdh_bench.errors import UserError

Removes: TypeAlias = Literal["most_divergent", "least_divergent", "random"]


class Distilling(Protocol):
    """What a mask needs of the module that distils."""

    teacher: nn.Module
    companion: nn.Module | None
    teacher_hash: str
    sample_mask: Any


class Mask(Callback, ABC):
    """Base of the masks; the paper's γ is ``ratio``.

    Args:
        ratio: part that is removed, in [0, 1].
        removes: ``most_divergent`` (the paper's True mask, T), ``least_divergent`` (False, F) or
            ``random`` (R, a seeded choice without replacement).
        seed: linked to the run's seed by the command line.

    Raises:
        UserError: ``ratio`` outside [0, 1], or an unknown ``removes``.
    """

    def __init__(self, ratio: float, removes: Removes, seed: int) -> None:
        if not 0 <= ratio <= 1:
            raise UserError(f"mask.ratio is {ratio}: it must lie in [0, 1]")
        if removes not in get_args(Removes):
            raise UserError(f"mask.removes is {removes!r}: choose {', '.join(get_args(Removes))}")
        self.ratio = ratio
        self.removes: Removes = removes
        self.seed = seed

    @abstractmethod
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the module that is run, or tell it of the mask (Lightning hook)."""

    def removed(self, count: int) -> int:
        """Return how many of ``count`` are removed: the nearest integer, halves to even."""
        return round(self.ratio * count)

    def select(self, divergence: Tensor, generator: torch.Generator) -> Tensor:
        """Return which entries stay: bool like ``divergence`` (N,), on its device.

        Equal values are ranked by position, so that the choice is deterministic.

        Args:
            divergence: ``(N,)``; of ``random`` only the length counts.
            generator: used by ``random`` alone.
        """
        if self.removes == "random":
            order = torch.randperm(len(divergence), generator=generator).to(divergence.device)
        else:
            order = divergence.argsort(descending=self.removes == "most_divergent", stable=True)
        keep = torch.ones(len(divergence), dtype=torch.bool, device=divergence.device)
        keep[order[: self.removed(len(divergence))]] = False
        return keep
