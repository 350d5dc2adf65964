"""``ntdh-bench validate | test | predict``: one checkpoint on validation or test data."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from ntdh_bench.runs import Run, measure, predict
from ntdh_bench.runs.session import quiet_lightning
from ntdh_bench.runs.summary import data_notes, print_summary, teacher_row


def main(argv: list[str]) -> int:
    """Run ``ntdh-bench validate``, ``test`` or ``predict``; returns the exit status."""
    with quiet_lightning():
        run = Run.parse(argv[0], argv[1:])
        rows: dict[str, Any] = {}
        saved: dict[str, str] = {}
        if run.command == "predict":
            path = predict(run, run.config["output"], run.config["logits"])
            saved["saved"] = str(path)
        else:
            metrics = measure(run, "val" if run.command == "validate" else "test")
            rows = {**teacher_row(metrics), "student": metrics}
        notes = {**data_notes(run.data), "checkpoint": str(run.checkpoint), **saved}
        split = "validation" if run.command == "validate" else "test"
        rank_zero_only(print_summary)(f"{run.data.name}, {split} set", rows, notes)
    return 0
