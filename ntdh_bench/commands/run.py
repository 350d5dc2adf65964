"""``ntdh-bench fit | saliency | validate | test | predict``: the commands that run models."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from ntdh_bench.runs import Run, fit, map_divergence, measure, predict
from ntdh_bench.runs.session import quiet_lightning
from ntdh_bench.runs.summary import data_notes, print_fit, print_maps, print_summary, teacher_row


def main(argv: list[str]) -> int:
    """Run the command that comes first in ``argv``; returns the exit status."""
    with quiet_lightning():
        run = Run.parse(argv[0], argv[1:])
        if run.command == "fit":
            record = fit(run)
            if run.processes.is_first:
                print_fit(run, record)
        elif run.command == "saliency":
            record, paths = map_divergence(run)
            if run.processes.is_first:
                print_maps(run, record, paths)
        else:
            _evaluate(run)
    return 0


def _evaluate(run: Run) -> None:
    """Measure one checkpoint on validation or test data, or write its predictions."""
    rows: dict[str, Any] = {}
    saved: dict[str, str] = {}
    if run.command == "predict":
        saved["saved"] = str(predict(run, run.config["output"], run.config["logits"]))
    else:
        metrics = measure(run, "val" if run.command == "validate" else "test")
        rows = {**teacher_row(metrics), "student": metrics}
    notes = {**data_notes(run.data), "checkpoint": str(run.checkpoint), **saved}
    split = "validation" if run.command == "validate" else "test"
    rank_zero_only(print_summary)(f"{run.data.name}, {split} set", rows, notes)
