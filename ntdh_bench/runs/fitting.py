"""A run of a config: teacher, mask, distillation, test, summary and record."""

from __future__ import annotations

import math
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from ntdh_bench import records
from ntdh_bench.batch import PairedData
from ntdh_bench.checkpoints import TRAINED, read_checkpoint, write_checkpoint
from ntdh_bench.runs import control
from ntdh_bench.runs.checkpoint_files import check_run_folder
from ntdh_bench.runs.logs import log_results
from ntdh_bench.commands.summary import metrics_by_name, print_summary, teacher_measure
from ntdh_bench.runs.teacher import TEACHER_FILE, prepare_teacher
from ntdh_bench.runs.training import FitCLI, running
from ntdh_bench.contract import described
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.masks import FeatureMask
from ntdh_bench.notices import notice
from ntdh_bench.provenance import plugins

STUDENT = {
    "kd": "student with KD",
    "without_kd": "student without KD",
    "matched": "student without KD, larger task weight",
    "single": "network",
}
_ORIGINS = {
    "given": "given: model.teacher_checkpoint, or the one beside the checkpoint",
    "trained": "trained in this run",
}
_PARTS = {
    "teacher": "teacher", "retrained": "retrained teacher", "control": "student",
    "saliency": "Algorithm 1",
}  # fmt: skip


def run(cli: FitCLI, in_sweep: bool = False) -> dict[str, Any]:
    """Train teacher and student, test, print the summary; returns the record.

    Args:
        cli: the parsed command.
        in_sweep: leave no record in the folder, which is scratch; train a student without KD once
            and keep it for runs that differ in what it never sees: the teacher and its mask.
    """
    with running(cli):
        return _run(cli, in_sweep)


def _run(cli: FitCLI, in_sweep: bool) -> dict[str, Any]:
    started = time.monotonic()
    teacher = None
    if described(cli.model).frozen_teacher:
        if isinstance(cli.mask, FeatureMask):  # before minutes are spent on the teacher
            cli.mask.check(cli.model.frozen_teacher)
        teacher = prepare_teacher(cli)
        if cli.trainer.is_global_zero and not cli.fast_dev_run:
            check_run_folder(cli.folder)
            cli.model.frozen_teacher.save(cli.folder / TEACHER_FILE)
    if in_sweep and control.is_control(cli):
        outcome = control.measure(cli, lambda: fit(cli), lambda: measure(cli, None))
    else:
        fit(cli)
        outcome = {
            "epochs": cli.trainer.current_epoch,
            "metrics": measure_checkpoints(cli),
            "curves": cli.curves.values,
        }
    record = make_record(cli, outcome, teacher, time.monotonic() - started)
    if cli.trainer.is_global_zero:
        finish(cli, record, in_sweep)
    return record


def fit(cli: FitCLI) -> None:
    """Train the student, naming the last good checkpoint if that fails."""
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path)
    except UserError as error:
        last = cli.last_checkpoint
        kept = f"; the last good checkpoint is {last}" if last.is_file() else ""
        raise UserError(f"{error}{kept}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if cli.config.ckpt_path is None or cli.restored.all:
            raise
        raise FileError(
            f"{cli.config.ckpt_path}: damaged, what training goes on from cannot be restored "
            f"({type(error).__name__}); give a sound checkpoint, or start anew without --ckpt_path"
        ) from error
    if cli.keeps_checkpoints:
        _settle(cli)


def _settle(cli: FitCLI) -> None:
    """Let last.ckpt hold what training ended with.

    Callbacks that average weights may change them after the last epoch was saved; the trained ones
    stay in the file, to go on from. Where no step was left to do, nothing was saved.
    """
    last, trainer = cli.last_checkpoint, cli.trainer
    if trainer.strategy.broadcast(last.is_file()):
        if trainer.is_global_zero:
            _keep_averaged(cli.model, last)
    elif cli.config.ckpt_path is None:
        trainer.save_checkpoint(last)
    elif trainer.is_global_zero:
        write_checkpoint(read_checkpoint(cli.config.ckpt_path), last)
    trainer.strategy.barrier()


def _keep_averaged(model: LightningModule, last: Path) -> None:
    saved = read_checkpoint(last)
    trained, ended = saved["state_dict"], model.state_dict()
    if any(not torch.equal(trained[name], value.cpu()) for name, value in ended.items()):
        write_checkpoint({**saved, "state_dict": ended, TRAINED: trained}, last)


def measure_checkpoints(cli: FitCLI) -> dict[str, Any]:
    """Return the metrics of the last epoch and of the best one on validation data (or None)."""
    loggers, path = cli.trainer.loggers, cli.last_checkpoint if cli.keeps_checkpoints else None
    last = {"checkpoint": path and path.name, **measure(cli, path)}
    log_results(loggers, "last", last, cli.trainer.global_step)
    if cli.best is None:
        return {"last": last, "best": None}
    if not cli.best.best_model_path:
        notice(
            "no best checkpoint: no epoch was followed by validation, see trainer.max_epochs, "
            "limit_val_batches and check_val_every_n_epoch"
        )
        return {"last": last, "best": None}
    path = Path(cli.best.best_model_path)
    best = {"checkpoint": path.name, **measure(cli, path)}
    if loggers:  # a sweep's runs have none, and the step costs a look into the file
        log_results(loggers, "best", best, read_checkpoint(path)["global_step"])
    return {"last": last, "best": best}


def measure(cli: FitCLI, path: Path | None) -> dict[str, Any]:
    """Return the metrics of each split, of a checkpoint or (None) of the model as it is.

    ``test_per_class`` holds the student's IoU of each class that is evaluated, where the data are
    judged by the mean IoU.
    """
    trainer = cli.measuring_trainer()
    common: dict[str, Any] = {
        "model": cli.model, "datamodule": cli.datamodule, "ckpt_path": path, "verbose": False,
    }  # fmt: skip
    result: dict[str, Any] = {}
    if cli.datamodule.has_validation and trainer.limit_val_batches:
        result["val"] = metrics_by_name(trainer.validate(**common))
    result["test"] = metrics_by_name(trainer.test(**common))
    if per_class := described(cli.model).test_per_class:
        names = cli.datamodule.class_names or map(str, range(len(per_class)))
        named = zip(names, per_class, strict=True)
        result["test_per_class"] = {name: iou for name, iou in named if not math.isnan(iou)}
    return result


def make_record(
    cli: FitCLI, outcome: dict[str, Any], teacher: str | None, seconds: float
) -> dict[str, Any]:
    """Return the record of a finished run, plain values only.

    A module that is no DistillationModule may name its ``arm`` and ``method`` itself.

    Args:
        cli: the parsed command.
        outcome: ``epochs``, ``metrics`` and ``curves``, and what else a command measures.
        teacher: where the teacher came from.
        seconds: wall time.
    """
    identity, model = cli.run_identity, described(cli.model)
    if isinstance(cli.mask, FeatureMask) and cli.mask.from_cache:
        cli.from_cache["saliency"] = cli.mask.from_cache
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "config_hash": records.config_hash(identity),
        "baseline_hash": records.baseline_hash(identity),
        "arm": model.arm or records.arm(identity),
        "method": model.method,
        "seed": identity["seed"],
        "dataset": cli.datamodule.name,
        "source": cli.datamodule.source,
        "data_fingerprint": cli.datamodule.fingerprint,
        "measure": cli.datamodule.metric,
        "parameters": model.parameter_counts(),
        **outcome,
        "teacher": teacher,
        "teacher_hash": model.frozen_teacher.hash if model.frozen_teacher else None,
        "from_cache": {
            part: {name: entry[name] for name in ("key", "created")}
            for part, entry in cli.from_cache.items()
        },
        "resumed_from": cli.config.ckpt_path,
        "seconds": round(seconds, 2),
        "precision": str(cli.trainer.precision),  # a CPU has no float16: bfloat16 runs there
        "environment": records.environment(),
        "plugins": plugins(identity.get("third_party", {})),
        "config": identity,
    }


def finish(cli: FitCLI, record: dict[str, Any], in_sweep: bool) -> None:
    """Write the record, unless a sweep does, and print the summary table."""
    notes = {
        "source": source_note(cli.datamodule.source),
        **scoring_note(cli.datamodule),
        **origin_notes(cli, record["teacher"]),
    }
    if cli.fast_dev_run:
        notes["saved"] = "nothing: fast_dev_run is a trial"
    elif not in_sweep:
        path = cli.folder / "record.json"
        check_run_folder(cli.folder)
        records.write_record(path, record)
        notes |= saved_files(cli.folder)
    best, last = record["metrics"]["best"], record["metrics"]["last"]
    test = last["test"]
    rows: dict[str, Any] = {}
    if teacher := teacher_measure(test):
        rows["teacher"] = teacher
        if records.arm(cli.run_identity) == "kd" and not cli.fast_dev_run:
            without = records.find_without_kd(cli.folder.parent, cli.run_identity)
            rows["student without KD"] = without and _comparable(without, record)
            if without and records.threads(without) != records.threads(record):
                notes["threads"] = (
                    f"{records.threads(record)}, without KD {records.threads(without)}: part of "
                    "the gain may be rounding, as bits repeat on equal threads only"
                )
    student = f"student of {record['method']}" if record["method"] else STUDENT[record["arm"]]
    rows[f"{student}, last epoch"] = test
    if best:
        rows[f"{student}, best on validation"] = best["test"]
    if per_class := last.get("test_per_class"):
        values = ", ".join(f"{name} {100 * iou:.1f}" for name, iou in per_class.items())
        notes = {"IoU %": f"{values} (last epoch)", **notes}
    print_summary(f"{record['dataset']}, test set, seed {record['seed']}", rows, notes)


def _comparable(without: dict[str, Any], record: dict[str, Any]) -> dict[str, float]:
    """Return the measures without KD; the divergences only if they are from the same teacher."""
    metrics: dict[str, float] = without["metrics"]["last"]["test"]
    same_mask = without["config"]["mask"] == record["config"]["mask"]
    if same_mask and without["teacher_hash"] == record["teacher_hash"]:
        return metrics
    own = ("accuracy", "miou", "point_miou", "completion_")
    return {name: value for name, value in metrics.items() if name.startswith(own)}


def source_note(source: str) -> str:
    """Say plainly whether the numbers come from real data."""
    if source == "simulated":
        return "SIMULATED data: these numbers say nothing about the published data set"
    return "real data"


def origin_notes(cli: FitCLI, teacher: str | None) -> dict[str, str]:
    """Say where the teacher came from, and what else came from the cache."""
    notes = {"teacher": _ORIGINS[teacher]} if teacher in _ORIGINS else {}
    return notes | {
        _PARTS[part]: f"from the cache, made {entry['created']}: {entry['path']}"
        for part, entry in cli.from_cache.items()
    }


def scoring_note(data: PairedData) -> dict[str, str]:
    """Say that scenes are not scored by the default protocol, with which nothing compares."""
    if data.protocol == "pooled":
        return {}
    return {"scoring": "as SSCNet's script: unknown voxels are empty, completion a mean of scenes"}


def saved_files(folder: Path) -> dict[str, str]:
    """Return what a run folder holds, for the summary."""
    return {
        "run": str(folder),
        "record": str(folder / "record.json"),
        "checkpoints": str(folder / "checkpoints"),
        "settings": str(folder / "config.yaml"),
        "curves": f"tensorboard --logdir {folder}",
    }
