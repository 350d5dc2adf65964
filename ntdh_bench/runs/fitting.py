"""A run of a config: teacher, mask, distillation, test and record."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from ntdh_bench.checkpoints import TRAINED, read_checkpoint, write_checkpoint
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.frozen_teacher import FrozenTeacher
from ntdh_bench.masks import FeatureMask
from ntdh_bench.notices import notice
from ntdh_bench.pictures.gathering import Gathering
from ntdh_bench.provenance import plugins
from ntdh_bench.records.files import write_record
from ntdh_bench.records.identity import arm, baseline_hash, config_hash, environment
from ntdh_bench.runs import control
from ntdh_bench.runs.checkpoint_files import check_run_folder
from ntdh_bench.runs.logs import log_results
from ntdh_bench.runs.measuring import measure_splits
from ntdh_bench.runs.pictures import keep_pictures
from ntdh_bench.runs.run import Run
from ntdh_bench.runs.session import running
from ntdh_bench.runs.teacher import TEACHER_FILE, prepare_teacher
from ntdh_bench.runs.trainers import Student, student_trainer


def fit(run: Run, *, record: bool = True, share_control: bool = False) -> dict[str, Any]:
    """Train teacher and student, and test; returns the record.

    Args:
        run: is used once.
        record: whether the record is written to the run's folder as well; a trial leaves none.
        share_control: train a student without KD once, and keep it for runs that differ in what it
            never sees: the teacher and its mask.

    Raises:
        UserError: the run cannot be done as its config says.
    """
    with running(run):
        started = time.monotonic()
        student = student_trainer(run)
        frozen = run.described.frozen_teacher
        teacher = _give_teacher(run, frozen) if frozen else None
        gathering = Gathering(run.mask) if record and not run.is_trial else None
        outcome = _trained(run, student, share_control, gathering)
        seconds = time.monotonic() - started
        made = make_record(run, student.trainer, outcome, teacher, seconds)
        if record and run.processes.is_first and not run.is_trial:
            check_run_folder(run.folder)
            write_record(run.folder / "record.json", made)
            assert gathering is not None
            keep_pictures(run, student.trainer, gathering.pictures(run.data))
    return made


def _give_teacher(run: Run, teacher: FrozenTeacher) -> str:
    """Load or train the teacher, and keep a copy in the run's folder; returns its origin."""
    teacher.check(run.data)  # before minutes are spent on the teacher
    if isinstance(run.mask, FeatureMask):
        run.mask.check_module(run.model)
        run.mask.check(teacher, run.data)
    origin = prepare_teacher(run, teacher)
    if run.processes.is_first and not run.is_trial:
        check_run_folder(run.folder)
        teacher.save(run.folder / TEACHER_FILE)
    return origin


def _trained(
    run: Run, student: Student, share_control: bool, gathering: Gathering | None
) -> dict[str, Any]:
    """Train the student; returns its epochs, metrics and curves."""
    if share_control and control.is_control(run):
        train, test = lambda: train_student(run, student), lambda: measure_splits(run, None)
        return control.measure(run, student, train, test)
    train_student(run, student)
    if run.processes.divide_weights:
        run.model = _whole(run)
    estimates = run.described.estimates()  # of the last epoch
    return {
        **({"estimates": estimates} if estimates else {}),
        "epochs": student.trainer.current_epoch,
        "metrics": _measure_checkpoints(run, student, gathering),
        "curves": student.curves.values,
    }


def train_student(run: Run, student: Student) -> None:
    """Train the student, naming the last good checkpoint if that fails."""
    try:
        student.trainer.fit(run.model, datamodule=run.data, ckpt_path=run.checkpoint)
    except UserError as error:
        last = run.last_checkpoint
        kept = f"; the last good checkpoint is {last}" if last.is_file() else ""
        raise UserError(f"{error}{kept}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if run.checkpoint is None or student.restored.all:
            raise
        raise FileError(
            f"{run.checkpoint}: damaged, what training goes on from cannot be restored "
            f"({type(error).__name__}); give a sound checkpoint, or start anew without --ckpt_path"
        ) from error
    if run.keeps_checkpoints:
        _settle(run, student)


def _whole(run: Run) -> Any:
    """Return the trained module made anew, of whose weights this process was left a part."""
    module = Run.parse(run.command, config=run.config).model
    if run.described.frozen_teacher:
        module.frozen_teacher = run.model.frozen_teacher
    saved = read_checkpoint(run.last_checkpoint)
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"])
    return module


def _settle(run: Run, student: Student) -> None:
    """Let last.ckpt hold what training ended with.

    Callbacks that average weights may change them after the last epoch was saved; the trained ones
    stay in the file, to go on from. Where no step was left to do, nothing was saved.
    """
    last, trainer = run.last_checkpoint, student.trainer
    if trainer.strategy.broadcast(last.is_file()):
        if trainer.is_global_zero and not run.processes.divide_weights:
            _keep_averaged(run.model, last)
    elif run.checkpoint is None:
        trainer.save_checkpoint(last)
    elif trainer.is_global_zero:
        write_checkpoint(read_checkpoint(run.checkpoint), last)
    trainer.strategy.barrier()


def _keep_averaged(model: LightningModule, last: Path) -> None:
    saved = read_checkpoint(last)
    trained, ended = saved["state_dict"], model.state_dict()
    if any(not torch.equal(trained[name], value.cpu()) for name, value in ended.items()):
        write_checkpoint({**saved, "state_dict": ended, TRAINED: trained}, last)


def _measure_checkpoints(run: Run, student: Student, gathering: Gathering | None) -> dict[str, Any]:
    """Return the metrics of the last epoch and of the best one on validation data (or None)."""
    watching = [] if gathering is None else [gathering]
    loggers, path = student.trainer.loggers, run.last_checkpoint if run.keeps_checkpoints else None
    last = {"checkpoint": path and path.name, **measure_splits(run, path, watching)}
    log_results(loggers, "last", last, student.trainer.global_step)
    if student.best is None:
        return {"last": last, "best": None}
    if not student.best.best_model_path:
        notice(
            "no best checkpoint: no epoch was followed by validation, see trainer.max_epochs, "
            "limit_val_batches and check_val_every_n_epoch"
        )
        return {"last": last, "best": None}
    path = Path(student.best.best_model_path)
    best = {"checkpoint": path.name, **measure_splits(run, path)}
    if loggers:  # a sweep's runs have none, and the step costs a look into the file
        log_results(loggers, "best", best, read_checkpoint(path)["global_step"])
    return {"last": last, "best": best}


def make_record(
    run: Run, trainer: Trainer, outcome: dict[str, Any], teacher: str | None, seconds: float
) -> dict[str, Any]:
    """Return the record of a finished run, plain values only.

    Args:
        run: that is finished.
        trainer: of its student.
        outcome: ``epochs``, ``metrics`` and ``curves``, and what else a command measures.
        teacher: where the teacher came from.
        seconds: wall time.
    """
    identity, model = run.identity, run.described
    if isinstance(run.mask, FeatureMask) and run.mask.from_cache:
        run.from_cache["saliency"] = run.mask.from_cache
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "config_hash": config_hash(identity),
        "baseline_hash": baseline_hash(identity),
        "arm": model.arm or arm(identity),
        "method": model.method,
        "seed": identity["seed"],
        "dataset": run.data.name,
        "source": run.data.source,
        "data_fingerprint": run.data.fingerprint,
        "measure": run.data.metric,
        "parameters": model.parameter_counts(),
        **outcome,
        "teacher": teacher,
        "teacher_hash": model.frozen_teacher.hash if model.frozen_teacher else None,
        "from_cache": {
            part: {name: entry[name] for name in ("key", "created")}
            for part, entry in run.from_cache.items()
        },
        "resumed_from": run.checkpoint,
        "seconds": round(seconds, 2),
        "precision": str(trainer.precision),  # a CPU has no float16: bfloat16 runs there
        "environment": environment(),
        "plugins": plugins(identity.get("third_party", {})),
        "config": identity,
    }
