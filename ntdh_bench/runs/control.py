"""The student without KD, trained once for all teachers and masks that it never sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ntdh_bench import __version__
from ntdh_bench.cache import default_cache_dir, digest, is_usable, locked, seal
from ntdh_bench.checkpoints import load_network, read_checkpoint, weights_of, write_checkpoint
from ntdh_bench.notices import notice
from ntdh_bench.records.columns import CONTROLS
from ntdh_bench.records.identity import arm, baseline_hash, environment, task_weight
from ntdh_bench.runs.callbacks import cut_short
from ntdh_bench.runs.checkpoint_files import LAST
from ntdh_bench.runs.run import Run
from ntdh_bench.runs.trainers import Student

_VERSION = 1  # of how controls are trained: raised when the same settings give another student


def is_control(run: Run) -> bool:
    """Return whether the run is a student without KD that can be shared."""
    alone = run.processes.alone and not run.is_trial
    return alone and arm(run.identity) in CONTROLS


def measure(
    run: Run, student: Student, train: Callable[[], None], test: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Measure the control against the teacher at hand; ``train`` it only if no run did yet.

    Returns:
        ``epochs``, ``metrics``, ``curves`` and ``control_environment`` (where it was trained) of
        the record.
    """
    path = _train_once(run, student, train)
    saved = read_checkpoint(path)
    metrics: dict[str, Any] = {"last": None, "best": None}
    for name, checkpoint in saved["checkpoints"].items():
        load_network(run.model.student, saved["state_dict"], name, str(path))
        metrics[name] = {"checkpoint": checkpoint, **test()}
    trained = {name: saved[name] for name in ("epochs", "curves", "control_environment")}
    return {**trained, "metrics": metrics}


def kept(run: Run, curves: dict[str, list[float]]) -> dict[str, Any]:
    """Return what is kept of the training: ``curves`` and ``control_environment`` of the record.

    Divergences along the way are from one teacher, and other runs have other masks.
    """
    own = {name: values for name, values in curves.items() if name == run.data.metric}
    return {"curves": own, "control_environment": environment()}


def _train_once(run: Run, student: Student, train: Callable[[], None]) -> Path:
    """Train the control unless the cache has it; returns where it is."""
    path = _path(run, student.trainer.strategy.root_device)
    with locked(path):
        if run.uses_cache and is_usable(path):
            run.take_cached("control", path)
            return path
        train()
        if cut_short(student.trainer):
            notice("trainer.max_time cut the training of the control short: it is not cached")
            return _save(run, student, run.folder / "control.ckpt")
        _save(run, student, path)
        seal(path, path)
    return path


def _path(run: Run, device: torch.device) -> Path:
    """Return where the student is kept; the number of threads changes only its last bits."""
    identity = run.identity
    key = {
        "version": _VERSION,
        "ntdh-bench": __version__,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "student": baseline_hash(identity),
        "task_weight": task_weight(identity["model"]["init_args"]),
    }
    return default_cache_dir() / "students" / f"{digest(key)}.ckpt"


def _save(run: Run, student: Student, path: Path) -> Path:
    students = {"last": run.model.student.state_dict()}
    checkpoints = {"last": LAST}
    if student.best is not None and student.best.best_model_path:
        checkpoints["best"] = Path(student.best.best_model_path).name
        weights = read_checkpoint(student.best.best_model_path)["state_dict"]
        students["best"] = weights_of(weights, "student")
    saved = {
        "state_dict": {
            f"{checkpoint}.{name}": value.cpu()
            for checkpoint, state in students.items()
            for name, value in state.items()
        },
        "checkpoints": checkpoints,
        "epochs": student.trainer.current_epoch,
        **kept(run, student.curves.values),
    }
    write_checkpoint(saved, path)
    return path
