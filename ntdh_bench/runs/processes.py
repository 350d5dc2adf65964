"""The processes that share a run: one, or several that Lightning or a launcher started."""

from __future__ import annotations

import copy
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

    @property
    def divide_weights(self) -> bool:
        """Whether a training leaves each a part of the weights."""
        return isinstance(self._strategy, FSDPStrategy)

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


def build_trainer(settings: Mapping[str, Any], *, trains: bool = True) -> Trainer:
    """Return a Trainer; one of a single process pays no attention to a cluster's variables.

    Args:
        settings: of the Trainer.
        trains: whether it may leave each process a part of the weights; one that measures takes
            ``ddp`` in place of FSDP.

    Raises:
        UserError: the Trainer refuses the settings.
    """
    plugins = as_list(settings.get("plugins"))
    if _is_alone(settings) and not any(isinstance(p, ClusterEnvironment) for p in plugins):
        alone = LightningEnvironment()
        alone.set_global_rank(0)  # SLURM_PROCID and the like may say otherwise
        plugins = [*plugins, alone]
    # A strategy belongs to the Trainer that it is given to, and a run has several.
    own = {"plugins": plugins or None, "strategy": copy.deepcopy(settings.get("strategy", "auto"))}
    try:
        trainer = Trainer(**{**settings, **own})
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UserError(f"the Trainer refuses its settings: {error}") from error
    if trainer.world_size > 1 and isinstance(trainer.strategy, ModelParallelStrategy):
        raise UserError(
            f"trainer.strategy is {settings['strategy']}, for networks that say how they are "
            "divided, which those of a run do not: choose ddp or fsdp, or a single device"
        )
    if not trains and trainer.world_size > 1 and isinstance(trainer.strategy, FSDPStrategy):
        return build_trainer({**settings, "strategy": "ddp"})
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
