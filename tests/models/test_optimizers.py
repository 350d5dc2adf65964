from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from ntdh_bench.errors import UserError
from ntdh_bench.models import TeacherModule, WarmupCosine
from tests.helpers import CLASSES, network, optimizer, quiet_trainer, small_data


class Watch(Callback):
    """Notes the learning rate of every epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note it (Lightning hook)."""
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(folder: Path, schedule_epochs: int | None, **settings: int) -> list[float]:
    watch = Watch()
    schedule = partial(WarmupCosine, epochs=schedule_epochs)
    module = TeacherModule(network, CLASSES, optimizer=optimizer, scheduler=schedule)
    trainer = quiet_trainer(folder, callbacks=[watch], **settings)
    trainer.fit(module, datamodule=small_data())
    return watch.rates


def test_a_schedule_without_epochs_has_those_of_the_trainer(tmp_path: Path) -> None:
    assert rates(tmp_path, None, epochs=3) == rates(tmp_path, 3, epochs=3)
    assert rates(tmp_path, None, epochs=3) == pytest.approx([0.05, 0.1, 0.05])
    assert rates(tmp_path, 6, epochs=3) != rates(tmp_path, 3, epochs=3)
    assert rates(tmp_path, None, epochs=1) == [0.05]


def test_a_schedule_needs_a_number_of_epochs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer.max_epochs, which is not set"):
        rates(tmp_path, None, epochs=-1, max_steps=2)
    with pytest.raises(UserError, match="a warm-up of -1"):
        WarmupCosine(optimizer(network().parameters()), epochs=3, warmup=-1)
