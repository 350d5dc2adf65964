"""Optimisation of networks with two branches: two optimisers as one, and PMF's schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ntdh_bench.errors import UserError


class OptimizerPair(Optimizer):
    """Two optimisers, each for its part of the parameters, as one.

    So a Trainer's gradient clipping, accumulation, loss scaling and step count work as with one
    optimiser, and so does a schedule, which scales the learning rate of each.

    Args:
        first: of some parameters.
        second: of the others.
    """

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        self._pair = first, second
        super().__init__([*first.param_groups, *second.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run both; returns what ``closure`` does, which is called once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self._pair:
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state of both."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for optimizer in self._pair:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state


class WarmupCosine(LambdaLR):
    """Learning rate that rises over the warm-up epochs, then falls to 0 along a cosine.

    Args:
        optimizer: whose learning rates are scaled.
        epochs: of the whole training, warm-up included; stays at its last value after them.
            ``None``: as many as the Trainer has; a module with such a schedule sets them.
        warmup: epochs that rise, below the full rate.

    Raises:
        UserError: the warm-up does not end before the training does.
    """

    def __init__(self, optimizer: Optimizer, epochs: int | None = None, warmup: int = 1) -> None:
        if warmup < 0 or (epochs is not None and warmup >= epochs):
            raise UserError(
                f"the schedule has {epochs} epochs and a warm-up of {warmup}: give more epochs, or "
                "a shorter warm-up"
            )
        self.epochs = epochs
        self.warmup = warmup
        super().__init__(optimizer, self._factor)

    def _factor(self, epoch: int) -> float:
        if epoch < self.warmup:
            return (epoch + 1) / (self.warmup + 1)
        if epoch == self.warmup:
            return 1.0
        if self.epochs is None:
            raise UserError("the schedule does not know how many epochs there are: give it epochs")
        share = (epoch - self.warmup) / max(self.epochs - self.warmup, 1)
        return (1 + math.cos(math.pi * min(share, 1.0))) / 2
