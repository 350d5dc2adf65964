"""The teacher of a distillation run: given, cached, or trained now."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import distributed as dist

from ntdh_bench.cache import default_cache_dir, digest, locked
from ntdh_bench.commands.parser import BenchCLI, run_folder
from ntdh_bench.commands.training import FitCLI
from ntdh_bench.errors import UserError
from ntdh_bench.layers import INPUT, mask_layer
from ntdh_bench.masks import FeatureMask

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
        cli.model.load_teacher(path)
        return "given"
    path, origin = _train_once(cli, cli.model.teacher_module(), f"teacher-{teacher_key(cli)}")
    cli.model.load_teacher(path)
    return origin


def cached_teacher(cli: BenchCLI) -> Path:
    """Return the cached teacher of the configured run, for commands that train nothing.

    Raises:
        UserError: it was never trained here.
    """
    path = _cache_path(f"teacher-{teacher_key(cli)}")
    if not path.is_file():
        raise UserError(
            f"no teacher beside {cli.config.ckpt_path} and none in the cache ({path}): give "
            f"--model.teacher_checkpoint <run>/{TEACHER_FILE}"
        )
    return path


def _cache_path(name: str) -> Path:
    return default_cache_dir() / "teachers" / f"{name}.ckpt"


def teacher_key(cli: BenchCLI) -> str:
    """Return the hash of everything that a trained teacher depends on."""
    identity = cli.identity()
    init_args = identity["model"]["init_args"]
    trainer = identity["trainer"]
    if init_args["teacher_epochs"] is not None:
        trainer = {**trainer, "max_epochs": init_args["teacher_epochs"], "max_steps": -1}
    return digest(
        {
            "model": {name: init_args[name] for name in _TEACHER_SETTINGS if name in init_args},
            "data": identity["data"],
            "version": _VERSION,
            "trainer": trainer,
            "seed": identity["seed"],
        }
    )


def _retrain_on_kept_inputs(cli: FitCLI) -> None:
    mask: FeatureMask = cli.mask
    mask.prepare(cli.model.teacher, cli.model.companion, cli.model.teacher_hash, cli.datamodule)
    module = cli.model.lone_teacher_module()
    assert mask.keep is not None
    mask_layer(module.network, INPUT, mask.keep)
    kept = digest({"key": teacher_key(cli), "kept": mask.keep.tolist()})
    path, _ = _train_once(cli, module, f"retrained-{kept}")
    cli.model.replace_teacher(path)


def _train_once(cli: FitCLI, module: LightningModule, name: str) -> tuple[Path, str]:
    """Train ``module`` unless the cache has it; processes that want the same one wait."""
    if cli.fast_dev_run:
        path = cli.folder / f"{name}.ckpt"
        _train(cli, module, path)
        return path, "trained"
    path = _cache_path(name)
    # The processes of one multi-device run train together: they must not wait for each other.
    alone = cli.trainer.world_size == 1
    with locked(path) if alone else nullcontext():
        if _agreed(path.is_file(), name):
            return path, "cached"
        _train(cli, module, path)
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


def _train(cli: FitCLI, module: Any, path: Path) -> None:
    trainer = cli.teacher_trainer(path.name.partition("-")[0])
    trainer.fit(module, datamodule=cli.datamodule)
    trainer.save_checkpoint(path, weights_only=True)  # whole or not at all: WholeCheckpoints
