"""The teacher of a distillation run: given, cached, or trained now."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from lightning.pytorch import LightningModule, Trainer

from ntdh_bench import __version__
from ntdh_bench.cache import default_cache_dir, digest, is_intact, is_usable, locked, seal
from ntdh_bench.errors import UserError
from ntdh_bench.frozen_teacher import FrozenTeacher
from ntdh_bench.layers import INPUT, mask_layer
from ntdh_bench.masks import FeatureMask
from ntdh_bench.notices import notice
from ntdh_bench.parsing.parser import run_folder
from ntdh_bench.provenance import named_in
from ntdh_bench.records.identity import baseline_hash
from ntdh_bench.runs.callbacks import cut_short
from ntdh_bench.runs.run import Run
from ntdh_bench.runs.trainers import teacher_trainer

Part: TypeAlias = Literal["teacher", "retrained", "reference"]
TEACHER_FILE = "teacher.ckpt"
_VERSION = 1  # of how teachers are trained: raised when the same settings give another teacher
_TEACHER_SETTINGS = (
    "teacher_network", "teacher_fusion", "student_network", "teacher", "teacher_inputs",
    "teacher_dist_weight", "teacher_dist",
    "optimizer", "scheduler", "ignore_index", "class_weights",
)  # fmt: skip


def saved_teacher(run: Run) -> Path | None:
    """Return the teacher named in the config or kept beside the checkpoint in use, if any."""
    if run.described.teacher_checkpoint:
        return Path(run.described.teacher_checkpoint)
    if run.checkpoint:
        beside = run_folder(run.checkpoint) / TEACHER_FILE
        return beside if beside.is_file() else None
    return None


def prepare_teacher(run: Run, teacher: FrozenTeacher) -> str:
    """Load the teacher, first training it if it is nowhere, anew on kept inputs if asked to.

    Returns:
        ``given``, ``cached`` or ``trained``.
    """
    origin = load_pair(run, teacher)
    resumed = run.checkpoint is not None  # then the retrained teacher lies beside it
    if isinstance(run.mask, FeatureMask) and run.mask.fill == "retrain" and not resumed:
        _retrain_on_kept_inputs(run, teacher, run.mask)
    return origin


def load_pair(run: Run, teacher: FrozenTeacher) -> str:
    """Load the teacher (and f_b, if joint) into the DistillationModule; returns its origin.

    The student trained without KD, if an intervention asks for it, is trained first if need be.
    """
    given = saved_teacher(run)
    if given:
        resumed = run.checkpoint is not None  # a new run has a student, and a seed, of its own
        teacher.load(given, with_reference=resumed)
    if teacher.needs_reference and teacher.reference is None:
        module = run.model.reference_module()
        teacher.refer_to(_train_once(run, module, "reference", reference_key(run))[0])
    if given:
        return "given"
    module = run.model.teacher_module(teacher.kind)
    path, found = _train_once(run, module, "teacher", teacher_key(run))
    teacher.load(path)
    return found


def load_trained(run: Run, teacher: FrozenTeacher) -> None:
    """Load what was trained for the configured run, for commands that train nothing.

    Raises:
        UserError: it was never trained here, or is damaged.
    """
    teacher.load(saved_teacher(run) or _cached(run, "teacher", teacher_key(run)))
    if teacher.needs_reference and teacher.reference is None:
        teacher.refer_to(_cached(run, "reference", reference_key(run)))


def _cached(run: Run, part: Part, key: str) -> Path:
    path = cache_path(part, key)
    if not is_intact(path):
        raise UserError(
            f"no {part} beside {run.checkpoint} and none in the cache for these settings "
            f"({path}): give --model.teacher_checkpoint <run>/{TEACHER_FILE}, or "
            "--config <run>/config.yaml"
        )
    return path


def cache_path(part: Part, key: str) -> Path:
    """Return where the cache keeps a trained teacher."""
    return default_cache_dir() / "teachers" / f"{part}-{key}.ckpt"


def teacher_key(run: Run) -> str:
    """Return the hash of everything that a trained teacher depends on."""
    identity = run.identity
    init_args = identity["model"]["init_args"]
    trainer = identity["trainer"]
    if init_args["teacher_epochs"] is not None:
        trainer = {**trainer, "max_epochs": init_args["teacher_epochs"], "max_steps": -1}
    depends = {
        "module": identity["model"]["class_path"],
        "model": {name: init_args[name] for name in _TEACHER_SETTINGS if name in init_args},
        "data": identity["data"],
        "trainer": trainer,
        "seed": identity["seed"],
    }
    versions = {"version": _VERSION, "ntdh-bench": __version__, "torch": str(torch.__version__)}
    code = named_in(depends, identity.get("third_party", {}))
    return digest({**depends, **versions, "third_party": code})


def reference_key(run: Run) -> str:
    """Return the hash of everything that a student without KD depends on."""
    identity = run.identity
    versions = {"version": _VERSION, "ntdh-bench": __version__, "torch": str(torch.__version__)}
    return digest({"student": baseline_hash(identity), **versions})


def _retrain_on_kept_inputs(run: Run, teacher: FrozenTeacher, mask: FeatureMask) -> None:
    mask.prepare(teacher, run.data)
    module = run.model.teacher_module("independent")
    assert mask.keep is not None
    mask_layer(module.network, INPUT, mask.layer_mask())
    kept = digest({"key": teacher_key(run), "kept": mask.keep.tolist()})
    path, _ = _train_once(run, module, "retrained", kept)
    teacher.replace(path)


def _train_once(
    run: Run, module: LightningModule, part: Part, key: str
) -> tuple[Path, Literal["cached", "trained"]]:
    """Train ``module`` unless the cache has it; processes that want the same one wait."""
    path, private = cache_path(part, key), run.folder / f"{part}-{key}.ckpt"
    if run.is_trial:
        return _save(_trained(run, module, part), private), "trained"
    # The processes of one multi-device run train together: they must not wait for each other.
    with locked(path) if run.processes.alone else nullcontext():
        if run.processes.agree(run.uses_cache and is_usable(path)):
            run.take_cached(part, path)
            return path, "cached"
        trainer = _trained(run, module, part)
        if cut_short(trainer):
            notice(f"trainer.max_time cut the training of the {part} short: it is not cached")
            return _save(trainer, private), "trained"
        _save(trainer, path)
        if trainer.is_global_zero:
            seal(path, path)
    return path, "trained"


def _trained(run: Run, module: LightningModule, part: Part) -> Trainer:
    trainer = teacher_trainer(run, part)
    trainer.fit(module, datamodule=run.data)
    return trainer


def _save(trainer: Trainer, path: Path) -> Path:
    trainer.save_checkpoint(path, weights_only=True)  # whole or not at all: WholeCheckpoints
    return path
