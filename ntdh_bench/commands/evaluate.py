"""``ntdh-bench validate | test | predict``: one checkpoint on validation or test data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ntdh_bench.cache import write_atomic
from ntdh_bench.commands.fit import quiet_lightning, source_note
from ntdh_bench.commands.parser import run_folder
from ntdh_bench.commands.summary import print_summary
from ntdh_bench.commands.teacher import cached_teacher, saved_teacher
from ntdh_bench.commands.training import EvaluateCLI
from ntdh_bench.errors import UserError


def main(argv: list[str]) -> int:
    """Run ``ntdh-bench validate``, ``test`` or ``predict``; returns the exit status."""
    quiet_lightning()
    command = argv[0]
    cli = EvaluateCLI(command, argv[1:])
    if not cli.config.ckpt_path:
        raise UserError(
            f"`ntdh-bench {command}` measures a checkpoint: give --ckpt_path "
            "<run>/checkpoints/last.ckpt"
        )
    if hasattr(cli.model, "teacher_module"):
        cli.model.load_teacher(saved_teacher(cli) or cached_teacher(cli))
    results = _run(cli, command)
    if cli.trainer.is_global_zero:
        _report(cli, command, results)
    return 0


def _run(cli: EvaluateCLI, command: str) -> Any:
    common: dict[str, Any] = {
        "model": cli.model, "datamodule": cli.datamodule, "ckpt_path": cli.config.ckpt_path,
    }  # fmt: skip
    try:
        if command == "predict":
            return cli.trainer.predict(**common)
        return getattr(cli.trainer, command)(**common, verbose=False)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        detail = str(error).splitlines()[1].strip()
        raise UserError(
            f"{cli.config.ckpt_path} is a checkpoint of another network: {detail}"
        ) from None


def _report(cli: EvaluateCLI, command: str, results: Any) -> None:
    notes = {"source": source_note(cli.datamodule.source), "checkpoint": cli.config.ckpt_path}
    rows: dict[str, Any] = {}
    if command == "predict":
        path = run_folder(cli.config.ckpt_path) / "predictions.npz"
        _save_predictions(results, path)
        notes["saved"] = str(path)
    else:
        metrics = {name.partition("/")[2]: value for name, value in results[0].items()}
        if "teacher_accuracy" in metrics:
            rows["teacher"] = {"accuracy": metrics["teacher_accuracy"]}
        rows["student"] = metrics
    split = "validation" if command == "validate" else "test"
    print_summary(f"{cli.datamodule.name}, {split} set", rows, notes)


def _save_predictions(batches: list[dict[str, torch.Tensor]], path: Path) -> None:
    arrays: dict[str, Any] = {
        name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]
    }
    with write_atomic(path) as temporary:
        np.savez(temporary, **arrays)
