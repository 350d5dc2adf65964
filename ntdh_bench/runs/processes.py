"""The processes that share a run: one, or several that Lightning or a launcher started."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from ntdh_bench.composition import as_list
from ntdh_bench.errors import UserError

T = TypeVar("T")
_SHARDING = (FSDPStrategy, ModelParallelStrategy)


class Processes:
    """The processes of a run, before any Trainer of it does anything.

    Args:
        settings: of the run's Trainers.

    Raises:
        UserError: the Trainer refuses the settings.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        quiet = {"callbacks": None, "logger": False, "enable_checkpointing": False}
        trainer = None if _is_alone(settings) else build_trainer({**settings, **quiet})
        self._strategy = trainer.strategy if trainer and trainer.world_size > 1 else None

    @property
    def alone(self) -> bool:
        """Whether there is but one."""
        return self._strategy is None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self._strategy is None or self._strategy.is_global_zero

    def meet(self) -> None:
        """Start the others, if that is not a launcher's task, and let all find each other."""
        if self._strategy is not None:
            launcher, set_up = self._strategy.launcher, self._strategy.setup_environment
            # As a Trainer does before it fits, which it then finds done.
            _ = set_up() if launcher is None else launcher.launch(set_up)

    def agree(self, value: T) -> T:
        """Return the value of the first process: the others may have looked at another moment."""
        return value if self._strategy is None else self._strategy.broadcast(value)

    def stop(self) -> None:
        """Stop those that :meth:`meet` started."""
        if self._strategy is not None and self._strategy.launcher is not None:
            self._strategy.launcher.kill(signal.SIGTERM)


def build_trainer(settings: Mapping[str, Any]) -> Trainer:
    """Return a Trainer; one of a single process pays no attention to a cluster's variables.

    Raises:
        UserError: the Trainer refuses the settings, or several processes would each be left with a
            part of the weights, which nothing after the training can measure.
    """
    plugins = as_list(settings.get("plugins"))
    if _is_alone(settings) and not any(isinstance(p, ClusterEnvironment) for p in plugins):
        alone = LightningEnvironment()
        alone.set_global_rank(0)  # SLURM_PROCID and the like may say otherwise
        plugins = [*plugins, alone]
    try:
        trainer = Trainer(**{**settings, "plugins": plugins or None})
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UserError(f"the Trainer refuses its settings: {error}") from error
    if trainer.world_size > 1 and isinstance(trainer.strategy, _SHARDING):
        raise UserError(
            f"trainer.strategy is {settings['strategy']}, which leaves each of "
            f"{trainer.world_size} processes a part of the weights, but a run measures them whole: "
            "choose ddp, or a single device"
        )
    return trainer


def _is_alone(settings: Mapping[str, Any]) -> bool:
    """Return whether a Trainer of these settings has one process."""
    if settings.get("num_nodes", 1) != 1 or settings.get("strategy", "auto") != "auto":
        return False
    devices = settings.get("devices", "auto")
    if devices == "auto":
        cpu = settings.get("accelerator") == "cpu"
        return cpu or torch.cuda.device_count() < 2
    return str(devices) == "1" or (isinstance(devices, list) and len(devices) == 1)
