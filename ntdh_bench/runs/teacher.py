"""The teacher of a distillation run: given, cached, or trained now."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import distributed as dist

from ntdh_bench import __version__
from ntdh_bench.cache import (
    default_cache_dir,
    digest,
    is_intact,
    is_usable,
    locked,
    origin,
    seal,
)
from ntdh_bench.runs.callbacks import cut_short
from ntdh_bench.parsing.parser import BenchCLI, run_folder
from ntdh_bench.runs.training import EvaluateCLI, FitCLI
from ntdh_bench.errors import UserError
from ntdh_bench.layers import INPUT, mask_layer
from ntdh_bench.masks import FeatureMask
from ntdh_bench.notices import notice
from ntdh_bench.provenance import named_in

Part: TypeAlias = Literal["teacher", "retrained"]
TEACHER_FILE = "teacher.ckpt"
_VERSION = 1  # of how teachers are trained: raised when the same settings give another teacher
_DECISION = "NTDH_CACHED"  # + name: whether the first process found that teacher in the cache
_TEACHER_SETTINGS = (
    "teacher_network", "student_network", "teacher", "optimizer", "scheduler", "ignore_index",
    "class_weights",
)  # fmt: skip


def saved_teacher(cli: BenchCLI) -> Path | None:
    """Return the teacher named in the config or kept beside the checkpoint in use, if any."""
    if cli.model.teacher_checkpoint:
        return Path(cli.model.teacher_checkpoint)
    if cli.config.ckpt_path:
        beside = run_folder(cli.config.ckpt_path) / TEACHER_FILE
        return beside if beside.is_file() else None
    return None


def prepare_teacher(cli: FitCLI) -> str:
    """Load the teacher, first training it if it is nowhere, anew on kept inputs if asked to.

    Returns:
        ``given``, ``cached`` or ``trained``.
    """
    origin = load_pair(cli)
    resumed = cli.config.ckpt_path is not None  # then the retrained teacher lies beside it
    if isinstance(cli.mask, FeatureMask) and cli.mask.retrain and not resumed:
        _retrain_on_kept_inputs(cli)
    return origin


def load_pair(cli: FitCLI) -> str:
    """Load the teacher (and f_b, if joint) into the DistillationModule; returns its origin."""
    if path := saved_teacher(cli):
        cli.model.frozen_teacher.load(path)
        return "given"
    module = cli.model.teacher_module(cli.model.frozen_teacher.kind)
    path, found = _train_once(cli, module, "teacher", teacher_key(cli))
    cli.model.frozen_teacher.load(path)
    return found


def cached_teacher(cli: EvaluateCLI) -> Path:
    """Return the cached teacher of the configured run, for commands that train nothing.

    Raises:
        UserError: it was never trained here, or is damaged.
    """
    path = _cache_path("teacher", teacher_key(cli))
    if not is_intact(path):
        raise UserError(
            f"no teacher beside {cli.config.ckpt_path} and none in the cache for these settings "
            f"({path}): give --model.teacher_checkpoint <run>/{TEACHER_FILE}, or "
            "--config <run>/config.yaml"
        )
    return path


def _cache_path(part: Part, key: str) -> Path:
    return default_cache_dir() / "teachers" / f"{part}-{key}.ckpt"


def teacher_key(cli: FitCLI | EvaluateCLI) -> str:
    """Return the hash of everything that a trained teacher depends on."""
    identity = cli.run_identity
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


def _retrain_on_kept_inputs(cli: FitCLI) -> None:
    mask: FeatureMask = cli.mask
    mask.prepare(cli.model.frozen_teacher, cli.datamodule)
    module = cli.model.teacher_module("independent")
    assert mask.keep is not None
    mask_layer(module.network, INPUT, mask.keep)
    kept = digest({"key": teacher_key(cli), "kept": mask.keep.tolist()})
    path, _ = _train_once(cli, module, "retrained", kept)
    cli.model.frozen_teacher.replace(path)


def _train_once(
    cli: FitCLI, module: LightningModule, part: Part, key: str
) -> tuple[Path, Literal["cached", "trained"]]:
    """Train ``module`` unless the cache has it; processes that want the same one wait."""
    path, private = _cache_path(part, key), cli.folder / f"{part}-{key}.ckpt"
    if cli.fast_dev_run:
        return _save(_trained(cli, module, part), private), "trained"
    # The processes of one multi-device run train together: they must not wait for each other.
    alone = cli.trainer.world_size == 1
    with locked(path) if alone else nullcontext():
        if _agreed(cli.uses_cache and is_usable(path), path.stem):
            cli.from_cache[part] = origin(path)
            return path, "cached"
        trainer = _trained(cli, module, part)
        if cut_short(trainer):
            notice(f"trainer.max_time cut the training of the {part} short: it is not cached")
            return _save(trainer, private), "trained"
        _save(trainer, path)
        if trainer.is_global_zero:
            seal(path, path)
    return path, "trained"


def _agreed(found: bool, name: str) -> bool:
    """Return what the first process of the run found: the others look at another moment."""
    if dist.is_available() and dist.is_initialized():
        box = [found]
        dist.broadcast_object_list(box)
        return box[0]
    variable = f"{_DECISION}_{name}"
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[variable] = str(int(found))
    return os.environ.get(variable, str(int(found))) == "1"


def _trained(cli: FitCLI, module: LightningModule, part: Part) -> Trainer:
    trainer = cli.teacher_trainer(part)
    trainer.fit(module, datamodule=cli.datamodule)
    return trainer


def _save(trainer: Trainer, path: Path) -> Path:
    trainer.save_checkpoint(path, weights_only=True)  # whole or not at all: WholeCheckpoints
    return path
