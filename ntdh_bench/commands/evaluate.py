"""``ntdh-bench validate | test | predict``: one checkpoint on validation or test data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ntdh_bench.cache import write_atomic
from ntdh_bench.commands.fit import source_note
from ntdh_bench.commands.summary import metrics_by_name, print_summary, teacher_measure
from ntdh_bench.commands.teacher import cached_teacher, saved_teacher
from ntdh_bench.commands.training import EvaluateCLI, run_command
from ntdh_bench.errors import UserError


def main(argv: list[str]) -> int:
    """Run ``ntdh-bench validate``, ``test`` or ``predict``; returns the exit status."""
    return run_command(lambda: _run(EvaluateCLI(argv[0], argv[1:])))


def _run(cli: EvaluateCLI) -> None:
    if cli.command == "validate" and not cli.datamodule.has_validation:
        raise UserError(f"{cli.datamodule.name} has no validation split here: use `test`")
    if hasattr(cli.model, "teacher_module"):
        cli.model.load_teacher(saved_teacher(cli) or cached_teacher(cli))
    common: dict[str, Any] = {
        "model": cli.model, "datamodule": cli.datamodule, "ckpt_path": cli.config.ckpt_path,
    }  # fmt: skip
    if cli.command == "predict":
        results = cli.trainer.predict(**common)
    else:
        results = getattr(cli.trainer, cli.command)(**common, verbose=False)
    if cli.trainer.is_global_zero:
        _report(cli, cli.command, results)


def _report(cli: EvaluateCLI, command: str, results: Any) -> None:
    notes = {"source": source_note(cli.datamodule.source), "checkpoint": cli.config.ckpt_path}
    rows: dict[str, Any] = {}
    if command == "predict":
        checkpoint = Path(cli.config.ckpt_path).resolve()
        path = checkpoint.with_name(f"predictions-{checkpoint.stem}.npz")
        _save_predictions(results, path)
        notes["saved"] = str(path)
    else:
        metrics = metrics_by_name(results)
        if teacher := teacher_measure(metrics):
            rows["teacher"] = teacher
        rows["student"] = metrics
    split = "validation" if command == "validate" else "test"
    print_summary(f"{cli.datamodule.name}, {split} set", rows, notes)


def _save_predictions(batches: list[dict[str, torch.Tensor]], path: Path) -> None:
    arrays: dict[str, Any] = {
        name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]
    }
    with write_atomic(path) as temporary:
        np.savez(temporary, **arrays)
