"""What feature masks and sample masks share: which part is removed, and how it is found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ntdh_bench.errors import UserError

Removes: TypeAlias = Literal["most_divergent", "least_divergent", "random"]


class Mask(Callback, ABC):
    """Base of the masks.

    Args:
        removes: ``most_divergent`` (the paper's True mask, T), ``least_divergent`` (False, F) or
            ``random`` (R, a seeded choice without replacement).
        seed: linked to the run's seed by the command line.

    Raises:
        UserError: an unknown ``removes``.
    """

    def __init__(self, removes: Removes, seed: int) -> None:
        if removes not in get_args(Removes):
            raise UserError(f"mask.removes is {removes!r}: choose {', '.join(get_args(Removes))}")
        self.removes: Removes = removes
        self.seed = seed

    @abstractmethod
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the module that is run, or tell it of the mask (Lightning hook)."""


def removal_order(divergence: Tensor, removes: Removes) -> Tensor:
    """Return the positions along the last dimension in the order in which they are removed.

    Equal values are ranked by position, so that the choice is deterministic.
    """
    return divergence.argsort(stable=True, dim=-1, descending=removes == "most_divergent")


def keep_mask(
    divergence: Tensor, removed: int, removes: Removes, generator: torch.Generator
) -> Tensor:
    """Return which entries stay when ``removed`` of them go.

    Args:
        divergence: ``(N,)``; of ``random`` only the length counts.
        removed: how many, at most N.
        removes: which end of the ranking, or ``random``.
        generator: used by ``random`` alone.

    Returns:
        bool ``(N,)`` on the device of ``divergence``.
    """
    count = len(divergence)
    if removes == "random":
        order = torch.randperm(count, generator=generator)
        order = order.to(divergence.device, non_blocking=True)
    else:
        order = removal_order(divergence, removes)
    keep = torch.ones(count, dtype=torch.bool, device=divergence.device)
    keep[order[:removed]] = False
    return keep
