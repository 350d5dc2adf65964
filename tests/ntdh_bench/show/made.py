"""Run folders made of a record, without training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ntdh_bench.pictures.file import Pictures, write_pictures
from ntdh_bench.records.files import write_record
from ntdh_bench.records.identity import arm, baseline_hash
from tests.ntdh_bench.report.rows import make_record

KD = {"class_path": "ntdh_bench.distillers.KD", "init_args": {"temperature": 4.0}}
MEASURED = {"accuracy": 0.5, "teacher_accuracy": 0.75, "ncjsd": 0.25, "tcjsd": 0.125}


def settings(seed: int = 0, distiller: Any = KD, lr: float = 0.1, **data: Any) -> dict[str, Any]:
    """Settings as a record has them."""
    arguments = {
        "student_network": {"class_path": "ntdh_bench.models.MLPClassifier"},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": lr}},
        "distiller": distiller,
        "task_weight": 1.0,
        "distill_weight": 1.0,
    }
    return {
        "seed": seed,
        "model": {"class_path": "ntdh_bench.models.DistillationModule", "init_args": arguments},
        "data": {"class_path": "X", "init_args": {}, "fingerprint": f"data of {seed}", **data},
        "mask": None,
        "trainer": {"max_epochs": 2},
    }


def made_run(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    pictures: Pictures | None = None,
    **metrics: float,
) -> Path:
    """Write a run's folder: its record, its config and, if given, its pictures."""
    identity = dict(config or settings())
    record = make_record(
        arm=arm(identity),
        seed=identity["seed"],
        baseline_hash=baseline_hash(identity),
        data_fingerprint=identity["data"]["fingerprint"],
        measure="accuracy",
        curves={"accuracy": [0.25, 0.5]},
        config=identity,
        metrics={"last": {"test": {**MEASURED, **metrics}}, "best": None},
    )
    folder.mkdir(parents=True)
    write_record(folder / "record.json", record)
    (folder / "config.yaml").write_text(yaml.safe_dump(identity))
    if pictures is not None:
        write_pictures(folder, pictures)
    return folder
