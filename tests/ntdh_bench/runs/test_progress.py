from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, TQDMProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel

from ntdh_bench.notices import logged_to, speaking
from ntdh_bench.runs.progress import StageProgress, progress_of


class Measured(BoringModel):
    """Logs what the suite's modules do: losses at the end of an epoch, a score on validation."""

    def on_train_epoch_end(self) -> None:
        self.log("train/loss", torch.tensor(0.25))
        self.log("train/task", torch.tensor(0.125))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/accuracy", torch.tensor(0.5))


def trainer(folder: Path, epochs: int = 2, **more: Any) -> Trainer:
    callbacks = [*more.pop("callbacks", []), StageProgress("teacher")]
    return Trainer(
        default_root_dir=folder, max_epochs=epochs, limit_train_batches=3, limit_val_batches=1,
        limit_test_batches=2, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=callbacks, **more,
    )  # fmt: skip


def lines(text: str) -> list[str]:
    return [re.sub(r"\d+\.\d s$", "_ s", line) for line in text.splitlines()]


EPOCHS = [
    "teacher: 2 epochs, 3 batches an epoch",
    "teacher, epoch 1/2: loss 0.25, accuracy 50.00 %, _ s",
    "teacher, epoch 2/2: loss 0.25, accuracy 50.00 %, _ s",
]


def test_a_line_an_epoch_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path).fit(Measured())
    assert lines(capsys.readouterr().err) == EPOCHS
    with speaking(30):
        trainer(tmp_path).fit(Measured())
    assert capsys.readouterr().err == ""
    with speaking(10):
        trainer(tmp_path).fit(Measured())
    assert "train/task 0.125" in capsys.readouterr().err


def test_a_bar_a_stage_on_a_terminal_and_the_lines_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with logged_to(tmp_path / "run.log"):
        made = trainer(tmp_path)
        made.fit(Measured())
        made.test(made.lightning_module, verbose=False)
    shown = capsys.readouterr().err
    assert "100%" in shown
    assert "loss 0.25, accuracy 50.00 %, " not in shown  # no lines between the bars
    logged = [line.split("  ", 1)[1] for line in (tmp_path / "run.log").read_text().splitlines()]
    assert lines("\n".join(logged)) == EPOCHS


def test_a_training_that_ends_early_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = EarlyStopping("val/accuracy", patience=1, mode="max")
    trainer(tmp_path, epochs=9, callbacks=[stop]).fit(Measured())
    assert lines(capsys.readouterr().err)[-1] == "teacher: ended after 2 of 9 epochs"


def test_a_training_of_as_long_as_it_takes_names_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = EarlyStopping("val/accuracy", patience=1, mode="max")
    trainer(tmp_path, epochs=-1, callbacks=[stop]).fit(Measured())
    assert lines(capsys.readouterr().err)[0].startswith("teacher: no fixed number of epochs, ")


def test_a_bar_of_the_users_own_stands_alone() -> None:
    assert len(progress_of({}, "student")) == 1
    assert progress_of({"enable_progress_bar": False}, "student") == []
    assert progress_of({"callbacks": TQDMProgressBar()}, "student") == []
