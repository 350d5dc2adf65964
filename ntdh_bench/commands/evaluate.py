"""``ntdh-bench validate | test | predict``: one checkpoint on validation or test data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ntdh_bench.cache import write_atomic
from ntdh_bench.commands.summary import metrics_by_name, print_summary, teacher_measure
from ntdh_bench.contract import described
from ntdh_bench.errors import UserError
from ntdh_bench.runs.fitting import scoring_note, source_note
from ntdh_bench.runs.predictions import PredictionFiles
from ntdh_bench.runs.teacher import cached_teacher, saved_teacher
from ntdh_bench.runs.training import EvaluateCLI, run_command


def main(argv: list[str]) -> int:
    """Run ``ntdh-bench validate``, ``test`` or ``predict``; returns the exit status."""
    return run_command(lambda: _run(EvaluateCLI(argv[0], argv[1:])))


def _run(cli: EvaluateCLI) -> None:
    if cli.command == "validate" and not cli.datamodule.has_validation:
        raise UserError(f"{cli.datamodule.name} has no validation split here: use `test`")
    if frozen_teacher := described(cli.model).frozen_teacher:
        frozen_teacher.load(saved_teacher(cli) or cached_teacher(cli))
    common: dict[str, Any] = {
        "model": cli.model, "datamodule": cli.datamodule, "ckpt_path": cli.config.ckpt_path,
    }  # fmt: skip
    notes = {
        "source": source_note(cli.datamodule.source),
        **scoring_note(cli.datamodule),
        "checkpoint": cli.config.ckpt_path,
    }
    rows: dict[str, Any] = {}
    if cli.command == "predict":
        notes["saved"] = str(_predict(cli, common))
    else:
        metrics = metrics_by_name(getattr(cli.trainer, cli.command)(**common, verbose=False))
        if teacher := teacher_measure(metrics):
            rows["teacher"] = teacher
        rows["student"] = metrics
    split = "validation" if cli.command == "validate" else "test"
    if cli.trainer.is_global_zero:
        print_summary(f"{cli.datamodule.name}, {split} set", rows, notes)


def _predict(cli: EvaluateCLI, common: dict[str, Any]) -> Path:
    """Write the predictions batch by batch; returns their folder.

    Raises:
        UserError: it is there already, or cannot be written.
    """
    path = _predictions_folder(cli)
    if path.exists():
        raise UserError(f"{path} is there already: remove it, or name another folder by --output")
    with write_atomic(path) as temporary:
        temporary.mkdir()
        with PredictionFiles(temporary, cli.config.logits) as files:
            cli.trainer.callbacks.append(files)  # type: ignore[attr-defined]
            cli.trainer.predict(**common, return_predictions=False)
    return path


def _predictions_folder(cli: EvaluateCLI) -> Path:
    if cli.config.output:
        return Path(cli.config.output).absolute()
    checkpoint = Path(cli.config.ckpt_path).resolve()
    limit = cli.config.trainer.limit_predict_batches
    whole = limit is None or (isinstance(limit, float) and limit == 1)  # 1 is one batch
    part = cli.config.trainer.fast_dev_run or not whole
    return checkpoint.with_name(f"predictions-{checkpoint.stem}{'-part' if part else ''}")
