"""A run's pictures: in its folder, and in its TensorBoard log."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from ntdh_bench.pictures.drawings import drawings
from ntdh_bench.pictures.file import Pictures, write_pictures
from ntdh_bench.runs.run import Run


def keep_pictures(run: Run, trainer: Trainer, pictures: Pictures) -> None:
    """Write what was gathered to the run's folder, and draw it in the log of the first process.

    Raises:
        UserError: the folder cannot be written.
    """
    write_pictures(run.folder, pictures)
    boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    if not boards:
        return
    for name, image in drawings(pictures, run.data.metric).items():
        for board in boards:
            board.experiment.add_image(name, image, trainer.global_step, dataformats="HWC")
    for board in boards:
        board.save()
