"""One checkpoint, tested by two processes and by one: the same numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ntdh_bench.datamodules import NYUDepthV2DataModule
from ntdh_bench.distillers import KD
from ntdh_bench.models import DDRNet, DistillationModule, EncoderDecoder
from tests.helpers import quiet_trainer, run_two_processes

TASKS = ("semantic_segmentation", "scene_completion")
GRID = (60, 36, 60)


def data(task: str, batch_size: int) -> NYUDepthV2DataModule:
    """Eight simulated rooms to train on and three to test on, which two processes cannot share."""
    return NYUDepthV2DataModule(
        task,  # type: ignore[arg-type]
        source="simulated",
        simulated_rooms=8,
        scale=0.25,
        batch_size=batch_size,
    )


def module(task: str) -> DistillationModule:
    """An untrained teacher and student; both guess differently."""
    networks: list[Any] = (
        [partial(EncoderDecoder, channels, 40, 4, 8) for channels in (3, 1)]
        if task == "semantic_segmentation"
        else [partial(DDRNet, channels, grid=GRID) for channels in (3, 1)]
    )
    classes = 40 if task == "semantic_segmentation" else 12
    found = DistillationModule(*networks, classes, KD(4.0), teacher="independent")
    found.frozen_teacher.hold(networks[0]())
    return found


WORKER = """
from tests.ddp.test_nyuv2 import TASKS, data, module
from tests.helpers import quiet_trainer
result = {}
for task in TASKS:
    owner = module(task)
    owner.frozen_teacher.load(folder / f"{task}-teacher.ckpt")
    owner.load_state_dict(torch.load(folder / f"{task}.ckpt"))
    trainer = quiet_trainer(folder, devices=2, strategy="ddp")
    result[task] = trainer.test(owner, datamodule=data(task, 1), verbose=False)[0]
"""


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    alone = {}
    for task in TASKS:
        torch.manual_seed(0)
        owner = module(task)
        owner.frozen_teacher.save(tmp_path / f"{task}-teacher.ckpt")
        torch.save(owner.state_dict(), tmp_path / f"{task}.ckpt")
        trainer = quiet_trainer(tmp_path)
        alone[task] = dict(trainer.test(owner, datamodule=data(task, 3), verbose=False)[0])
    assert alone["scene_completion"].keys() >= {
        f"test/completion_{name}" for name in ("iou", "precision", "recall")
    }
    assert all(0 < alone[task]["test/miou"] < 1 for task in TASKS)
    for measured in run_two_processes(WORKER, tmp_path):
        for task in TASKS:
            assert measured[task] == pytest.approx(alone[task], rel=1e-5)
