from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule

from ntdh_bench.cli import main
from ntdh_bench.contract import BenchModule, Distilling, described
from tests.helpers import distillation


def test_a_plain_module_has_the_answers_of_one() -> None:
    plain = described(LightningModule())
    assert (plain.arm, plain.method, plain.modality, plain.frozen_teacher) == (None,) * 4
    assert (plain.parameter_counts(), list(plain.test_per_class)) == ({}, [])
    with pytest.raises(NotImplementedError):
        plain.teacher_module("joint")


def test_a_module_of_others_answers_what_it_defines() -> None:
    class Other(LightningModule):
        arm = "kd"

        def __init__(self) -> None:
            super().__init__()
            self.test_per_class: list[float] = []

        def parameter_counts(self) -> dict[str, int]:
            return {"student": 3}

    other = Other()
    found = described(other)
    other.test_per_class = [0.5]
    assert (found.arm, found.method, found.parameter_counts()) == ("kd", None, {"student": 3})
    assert found.test_per_class == [0.5]
    assert not isinstance(other, Distilling)


def test_a_module_of_the_suite_answers_itself() -> None:
    module = distillation(None)
    assert isinstance(module, BenchModule)
    assert described(module) is module
    assert isinstance(module, Distilling)


OWN = """
import torch
from lightning.pytorch import LightningModule

class Own(LightningModule):
    method = "own"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(12, num_classes)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch["student"]), batch["target"])

    def test_step(self, batch, batch_idx):
        self.log("test/own_score", self.layer(batch["student"]).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""


def test_a_module_of_others_is_trained_and_recorded(
    tmp_path: Path, write_module: Callable[[str, str], Path]
) -> None:
    write_module("own_module.py", OWN)
    words = [
        "fit", "--run_dir", str(tmp_path / "runs"), "--model", "own_module.Own",
        "--data", "SyntheticDataModule", "--data.n_features", "12", "--data.decisive", "5",
        "--data.n_samples", "100",
        "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false",
    ]  # fmt: skip
    assert main(words) == 0
    (path,) = (tmp_path / "runs").glob("*/record.json")
    record = json.loads(path.read_text())
    assert (record["arm"], record["method"], record["teacher_hash"]) == ("single", "own", None)
    assert record["parameters"] == {}
    assert "own_score" in record["metrics"]["last"]["test"]
