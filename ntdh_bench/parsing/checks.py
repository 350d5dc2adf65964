"""What the Trainer can be told and a run cannot do: refused before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.plugins import MixedPrecision, Precision

from ntdh_bench.composition import as_list
from ntdh_bench.errors import UserError
from ntdh_bench.ranges import check_at_least

_PRECISIONS = {"32-true", "32", "16-mixed", "16", "bf16-mixed", "bf16"}
_MAX_DEVICES = 256  # of a machine: on CPUs each is a process, however many are asked for
_SPAWNING = ("spawn", "fork", "notebook")  # parts of the names of Lightning's strategies


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings of the Trainer that no command can follow.

    Raises:
        UserError: steps over no batch, a negative bound of gradients, a precision of the weights
            other than float32, batches to overfit, too many
            devices, a strategy whose processes are copies of this one, or a callback that changes
            what is given.
    """
    _check_devices(settings.get("devices"))
    _check_precision(settings.get("precision"), as_list(settings.get("plugins")))
    check_at_least("trainer.accumulate_grad_batches", settings.get("accumulate_grad_batches"), 1)
    check_at_least("trainer.gradient_clip_val", settings.get("gradient_clip_val"), 0)
    if settings.get("overfit_batches"):
        raise UserError(
            f"trainer.overfit_batches is {settings['overfit_batches']}: the order of batches is "
            "derived from the seed here and cannot be replaced; use trainer.limit_train_batches"
        )
    strategy = settings.get("strategy")
    method = strategy if isinstance(strategy, str) else getattr(strategy, "_start_method", "")
    if any(part in method for part in _SPAWNING):
        raise UserError(
            f"trainer.strategy starts its processes by {method!r}, which leave their results "
            "behind: choose ddp, whose processes are commands of their own"
        )
    for callback in as_list(settings.get("callbacks")):
        if isinstance(callback, (LearningRateFinder, BatchSizeFinder)):
            raise UserError(
                f"trainer.callbacks has a {type(callback).__name__}, which changes settings while "
                "it runs: a run keeps those it was given; set them yourself"
            )


def _check_devices(devices: Any) -> None:
    """Refuse a number of devices that no machine has; the Trainer says what else is wrong."""
    number = str(devices).strip()
    if number.isdecimal() and (len(number) > 9 or int(number) > _MAX_DEVICES):
        raise UserError(
            f"trainer.devices is {number}: a process would be started for each, expected at most "
            f"{_MAX_DEVICES}"
        )


def _check_precision(precision: Any, plugins: list[Any]) -> None:
    own = [plugin.precision for plugin in plugins if _changes_weights(plugin)]
    if precision is not None and str(precision) not in _PRECISIONS:
        own.append(precision)
    if own:
        raise UserError(
            f"trainer.precision is {own[0]}: weights are float32 here, since runs share their "
            "teachers; choose 32-true, bf16-mixed or 16-mixed"
        )


def _changes_weights(plugin: Any) -> bool:
    mixed = isinstance(plugin, MixedPrecision)
    return isinstance(plugin, Precision) and not mixed and plugin.precision != "32-true"
