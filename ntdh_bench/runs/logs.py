"""What a run's loggers are told beside the metrics of its epochs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger


class Prefixed(Logger):
    """Writes to a logger that another stage of the run uses as well, under names of its own.

    Args:
        logger: gets the metrics, and is closed by the other stage.
        prefix: first part of the metrics' names.
    """

    def __init__(self, logger: Logger, prefix: str) -> None:
        super().__init__()
        self._logger = logger
        self._prefix = prefix

    @property
    def name(self) -> str | None:
        """Name of the experiment."""
        return self._logger.name

    @property
    def version(self) -> int | str | None:
        """Version of the experiment."""
        return self._logger.version

    @property
    def save_dir(self) -> str | None:
        """Folder of the log."""
        return self._logger.save_dir

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics as ``prefix/name``."""
        named = {f"{self._prefix}/{name}": value for name, value in metrics.items()}
        self._logger.log_metrics(named, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log nothing: the settings are those of the run."""

    def save(self) -> None:
        """Write what was logged."""
        self._logger.save()


def log_settings(loggers: Iterable[Logger], settings: Mapping[str, Any]) -> None:
    """Log a run's settings when it begins: model, data, mask and Trainer."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):  # shows them when there are results
            logger.hparams.update(settings)
        else:
            logger.log_hyperparams(dict(settings))
        logger.save()


def log_results(
    loggers: Iterable[Logger], name: str, metrics: Mapping[str, Any], step: int
) -> None:
    """Log what a checkpoint measured as ``name/split/metric``.

    Args:
        loggers: of the run.
        name: ``last`` or ``best``.
        metrics: by split.
        step: optimiser steps that led to the checkpoint.
    """
    named = {
        f"{name}/{split}/{metric}": value
        for split in ("val", "test")
        for metric, value in metrics.get(split, {}).items()
    }
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger) and name == "last":
            logger.log_hyperparams(logger.hparams, named, step)  # a table of settings and results
        else:
            logger.log_metrics(named, step)
        logger.save()
