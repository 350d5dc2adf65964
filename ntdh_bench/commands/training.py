"""The Trainer of a run and its folder: settings, log, checkpoints, and what a resume may change."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from ntdh_bench import records
from ntdh_bench.cache import write_atomic
from ntdh_bench.checkpoints import read_checkpoint
from ntdh_bench.commands.callbacks import (
    BestCheckpoint,
    Curves,
    ProgressBar,
    RememberIdentity,
)
from ntdh_bench.commands.parser import BenchCLI
from ntdh_bench.errors import UserError

LAST = "last.ckpt"
# Lightning's advice that does not apply to data sets held in memory, or is done here.
_ADVICE = (
    ".*does not have many workers.*",
    ".*number of training batches.*",
    ".*GPU available but not used.*",
    ".*LeafSpec.*",
    ".*callbacks used to create the checkpoint.*",
    ".*The dirpath has changed.*",
)
RUN_VARIABLE = "NTDH_RUN"  # the other processes of a multi-device run write where the first does
# A resumed run may be prolonged; which teacher it uses is checked by the teacher's own hash.
_MAY_DIFFER = {"trainer.max_epochs", "trainer.max_steps", "given_teacher"}


class FitCLI(BenchCLI):
    """Adds what a run needs to the Trainer: its folder, logger, checkpoints and mask.

    Args:
        command: the command's name, for its help page.
        args: the words after the command.
        folder: of the run, empty; default: a new one in ``--run_dir``.
    """

    folder: Path
    run_identity: dict[str, Any]
    best: BestCheckpoint | None

    def __init__(self, command: str, args: Sequence[str], folder: Path | None = None) -> None:
        self._given_folder = folder
        self.curves = Curves()
        super().__init__(command, args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the student's Trainer (hook of LightningCLI), and the run's folder before it."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")  # wrong data end the command before a folder is made
        self.run_identity = self.identity()
        if self.config.ckpt_path:
            check_resume(self.config.ckpt_path, self.run_identity)
        self.folder = self._temporary_folder() if self.fast_dev_run else self._run_folder()
        self.best = self._best_checkpoint()
        callbacks: list[Callback] = [RememberIdentity(self.run_identity), self.curves]
        callbacks += [callback for callback in (self.best, self.mask) if callback is not None]
        if self._keeps_checkpoints:
            # Two callbacks: `save_last` of the best one would follow the best epoch, not the last.
            callbacks.append(ModelCheckpoint(filename="last", **self._checkpointing()))
        return self.make_trainer(self.folder, extra_callbacks=callbacks)

    @property
    def fast_dev_run(self) -> bool:
        """Whether this is a trial that leaves nothing behind."""
        return bool(self.config.trainer.fast_dev_run)

    def make_trainer(
        self, folder: Path, extra_callbacks: list[Callback], **changes: Any
    ) -> Trainer:
        """Return a Trainer with the configured settings that logs to ``folder``."""
        settings = {**self.config_init.trainer, "default_root_dir": str(folder), **changes}
        if settings.get("logger") in (None, True) and not self.fast_dev_run:
            settings["logger"] = TensorBoardLogger(folder, name="tensorboard", version="")
        configured = settings.get("callbacks") or []
        configured = configured if isinstance(configured, list) else [configured]
        bar = [] if settings.get("enable_progress_bar") is False else [ProgressBar()]
        settings["callbacks"] = [*configured, *extra_callbacks, *bar]
        return Trainer(**settings)

    def teacher_trainer(self) -> Trainer:
        """Return the Trainer of the teacher: the same settings, its own epochs and log."""
        changes: dict[str, Any] = {"enable_checkpointing": False, "callbacks": None}
        if self.model.teacher_epochs is not None:
            changes |= {"max_epochs": self.model.teacher_epochs, "max_steps": -1}
        return self.make_trainer(self.folder / "teacher", [], **changes)

    @property
    def _keeps_checkpoints(self) -> bool:
        return self.config.trainer.enable_checkpointing is not False and not self.fast_dev_run

    def _checkpointing(self) -> dict[str, Any]:
        return {
            "dirpath": self.folder / "checkpoints",
            "save_on_train_epoch_end": True,
            "enable_version_counter": False,
        }

    def _best_checkpoint(self) -> BestCheckpoint | None:
        if not self._keeps_checkpoints or not self.datamodule.has_validation:
            return None
        return BestCheckpoint(
            self.config.ckpt_path,
            filename="best-{epoch}",
            monitor=f"val/{self.datamodule.metric}",
            mode="max",
            **self._checkpointing(),
        )

    def _run_folder(self) -> Path:
        if shared := os.environ.get(RUN_VARIABLE):
            return Path(shared)
        root = Path(self.config.run_dir)
        try:
            folder = self._given_folder or _new_folder(root, self.run_identity)
            self._save_config(folder)
        except OSError as error:
            raise UserError(
                f"cannot make a run folder in {root}: {error.strerror}; give --run_dir a folder "
                "that can be written"
            ) from None
        os.environ[RUN_VARIABLE] = str(folder.resolve())
        return folder

    def _save_config(self, folder: Path) -> None:
        with write_atomic(folder / "config.yaml") as temporary:
            settings = {**self.plain_config(), "ckpt_path": None}  # it repeats the run, whole
            temporary.write_text(yaml.safe_dump(settings, sort_keys=False))

    def _temporary_folder(self) -> Path:
        if shared := os.environ.get(RUN_VARIABLE):
            return Path(shared)
        self._temporary = tempfile.TemporaryDirectory(prefix="ntdh-fast-dev-run-")
        os.environ[RUN_VARIABLE] = self._temporary.name
        return Path(self._temporary.name)


class EvaluateCLI(BenchCLI):
    """Makes a Trainer that measures: no log, no checkpoints, the mask if there is one."""

    def before_instantiate_classes(self) -> None:
        """Refuse to measure nothing (hook of LightningCLI)."""
        if not self.config.ckpt_path:
            raise UserError(
                f"`ntdh-bench {self.command}` measures a checkpoint: give --ckpt_path "
                "<run>/checkpoints/last.ckpt"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer (hook of LightningCLI)."""
        self.datamodule.prepare_data()
        self.datamodule.setup("test")
        check_mask(self.config.ckpt_path, self.identity()["mask"])
        callbacks = [] if self.mask is None else [self.mask]
        settings = {**self.config_init.trainer, "logger": False, "enable_checkpointing": False}
        if self.command == "predict":  # several processes would each return a part
            settings |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
        return Trainer(**{**settings, "callbacks": callbacks})


def run_command(action: Callable[[], Any]) -> int:
    """Run a command's action quietly; what Lightning refuses becomes one clear line.

    Raises:
        UserError: the settings do not go together, or a checkpoint is of another network.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _ADVICE:
        warnings.filterwarnings("ignore", message)
    try:
        action()
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        detail = str(error).splitlines()[1].strip()
        raise UserError(f"the checkpoint is of another network: {detail}") from error
    finally:
        os.environ.pop(RUN_VARIABLE, None)
    return 0


def _new_folder(root: Path, identity: dict[str, Any]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{_short_name(identity)}"
    for number in range(1, 1000):
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{root} has 999 runs called {name}: give another --run_dir")


def _short_name(identity: dict[str, Any]) -> str:
    """Name the run after its data, method and mask: for people, not for programs."""
    model = identity["model"]
    distiller = (model.get("init_args") or {}).get("distiller")
    parts = [identity["data"]["class_path"], model["class_path"]]
    if records.arm(identity) != "single":
        parts[1] = distiller["class_path"] if distiller else records.arm(identity)
    if identity["mask"]:
        parts.append(identity["mask"]["class_path"])
    short = "-".join(part.rpartition(".")[2].replace("DataModule", "") for part in parts)
    return f"{short}-seed{identity['seed']}"


def check_resume(path: str, identity: dict[str, Any]) -> None:
    """Raise a UserError if a checkpoint was made with other settings than those given."""
    saved = _flatten(read_checkpoint(path).get("identity") or {})
    given = _flatten(identity)
    for name in sorted(saved.keys() | given.keys()):
        if name not in _MAY_DIFFER and saved.get(name) != given.get(name):
            raise UserError(
                f"{name} is {given.get(name)!r}, but {path} was made with {saved.get(name)!r}: a "
                "resumed run keeps its settings; drop the flag, or start a new run without "
                "--ckpt_path"
            )


def check_mask(path: str, mask: Any) -> None:
    """Raise a UserError if a checkpoint was made with another mask than the one given."""
    saved = (read_checkpoint(path).get("identity") or {}).get("mask")
    if saved != mask:
        raise UserError(
            f"{path} was made with the mask {saved}, but here it is {mask}: leave out --config to "
            "use the settings of its run"
        )


def _flatten(plain: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(plain, dict):
        return {prefix: plain}
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat
