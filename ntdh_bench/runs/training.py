"""The Trainer of a run and its folder: settings, log, checkpoints, and what a resume may change."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO

from ntdh_bench import records
from ntdh_bench.cache import is_unwritable, unwritable, write_atomic
from ntdh_bench.checkpoints import read_checkpoint
from ntdh_bench.runs.callbacks import (
    BestCheckpoint,
    Curves,
    LastCheckpoint,
    ProgressBar,
    RememberIdentity,
    Restored,
    StopAtOnce,
)
from ntdh_bench.runs.checkpoint_files import BEST, LAST, WholeCheckpoints, check_run_folder
from ntdh_bench.parsing.checks import as_list, check_measured, check_settings
from ntdh_bench.parsing.configs import for_measuring, with_absolute_paths
from ntdh_bench.runs.logs import Prefixed
from ntdh_bench.parsing.parser import CONFIG, BenchCLI
from ntdh_bench.stopping import raise_stopped, stoppable
from ntdh_bench.composition import Config
from ntdh_bench.errors import UserError
from ntdh_bench.masks import FeatureMask
from ntdh_bench.notices import notice

# Lightning's advice that does not apply to data sets held in memory, or is done here.
_ADVICE = (
    ".*does not have many workers.*",
    ".*number of training batches.*",
    ".*GPU available but not used.*",
    ".*LeafSpec.*",
    ".*callbacks used to create the checkpoint.*",
    ".*The dirpath has changed.*",
    ".*infer the batch indices.*",
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
        self._trainers: list[Trainer] = []
        self.curves = Curves()
        self.restored = Restored()
        #: What came from a cache: part (``teacher``, ``control`` ...) to its :func:`cache.origin`.
        self.from_cache: dict[str, dict[str, str]] = {}
        super().__init__(command, args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what only training commands take (hook of LightningCLI)."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--no-cache",
            action="store_true",
            help="Train and compute all anew: no teacher or saliency that an earlier run left.",
        )

    @property
    def uses_cache(self) -> bool:
        """Whether what earlier runs left may be used."""
        return not self.config.no_cache

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the student's Trainer (hook of LightningCLI), and the run's folder before it."""
        settings = self.config_init.trainer
        check_settings(settings)
        self.load_data("fit")  # wrong data end the command before a folder is made
        if not self.fast_dev_run:
            check_measured(settings.limit_test_batches, self.datamodule, "test")
        self.run_identity = self.identity()
        if isinstance(self.mask, FeatureMask):
            self.mask.anew = not self.uses_cache
        if self.config.ckpt_path:
            check_resume(self.config.ckpt_path, self.run_identity)
        self.folder = self._temporary_folder() if self.fast_dev_run else self._run_folder()
        self.best = self._best_checkpoint()
        logged = settings.enable_autolog_hparams is not False
        callbacks: list[Callback] = [RememberIdentity(self.run_identity, logged), self.curves]
        callbacks += [callback for callback in (self.best, self.mask) if callback is not None]
        callbacks.append(self.restored)
        if self.keeps_checkpoints:
            # Two callbacks: `save_last` of the best one would follow the best epoch, not the last.
            callbacks.append(
                LastCheckpoint(filename=LAST.removesuffix(".ckpt"), **self._checkpointing())
            )
        return self.make_trainer(self.folder, extra_callbacks=callbacks)

    @property
    def owns_folder(self) -> bool:
        """Whether the run's folder stays, and is not a sweep's scratch."""
        return self._given_folder is None

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
            settings["logger"] = TensorBoardLogger(
                folder, name="tensorboard", version="", default_hp_metric=False
            )
        bar = [] if settings.get("enable_progress_bar") is False else [ProgressBar()]
        callbacks = [*as_list(settings.get("callbacks")), StopAtOnce(), *extra_callbacks, *bar]
        settings["callbacks"] = callbacks
        settings["enable_autolog_hparams"] = False  # RememberIdentity logs all of them
        plugins = as_list(settings.get("plugins"))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, WholeCheckpoints(self.folder)]
        trainer = build_trainer({**settings, "plugins": plugins})
        self._trainers.append(trainer)
        return trainer

    def stop_processes(self) -> None:
        """Stop the other processes of the run, those that the first Trainer of them started."""
        for trainer in self._trainers:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGTERM)

    def teacher_trainer(self, stage: str) -> Trainer:
        """Return the Trainer of a teacher: the same settings, its own epochs and log.

        Args:
            stage: which of the run's teachers, for the log: ``teacher`` or ``retrained``.
        """
        changes: dict[str, Any] = {"enable_checkpointing": False, "callbacks": None}
        loggers = as_list(self.config_init.trainer.logger)
        if all(isinstance(logger, Logger) for logger in loggers) and loggers:
            changes["logger"] = [Prefixed(logger, stage) for logger in loggers]
        if self.model.teacher_epochs is not None:
            changes |= {"max_epochs": self.model.teacher_epochs, "max_steps": -1}
        return self.make_trainer(self.folder / stage, [], **changes)

    def measuring_trainer(self) -> Trainer:
        """Return a Trainer that measures checkpoints as they are on disk.

        Callbacks of the training would restore their state from them, or change the weights.
        """
        mask = [] if self.mask is None else [self.mask]
        changes = {"enable_checkpointing": False, "callbacks": None, "logger": False}
        return self.make_trainer(self.folder, mask, **changes)

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether the run keeps the last epoch, and the best one."""
        return self.config.trainer.enable_checkpointing is not False and not self.fast_dev_run

    def _checkpointing(self) -> dict[str, Any]:
        return {
            "dirpath": self.folder / "checkpoints",
            "save_on_train_epoch_end": True,
            "enable_version_counter": False,
        }

    def _best_checkpoint(self) -> BestCheckpoint | None:
        if not self.keeps_checkpoints or not self.datamodule.has_validation:
            return None
        return BestCheckpoint(
            self.config.ckpt_path,
            filename=BEST + "{epoch}",
            monitor=f"val/{self.datamodule.metric}",
            mode="max",
            **self._checkpointing(),
        )

    @property
    def last_checkpoint(self) -> Path:
        """Where the run's last epoch is kept."""
        return self.folder / "checkpoints" / LAST

    def _run_folder(self) -> Path:
        shared = None if self._given_folder else os.environ.get(RUN_VARIABLE)
        if shared and not _is_first_process():
            return Path(shared)
        root = Path(self.config.run_dir)
        try:
            if shared:
                folder = _unused_folder(Path(shared))
            else:
                folder = self._given_folder or _new_folder(root, self.run_identity)
            self._save_config(folder)
        except OSError as error:
            raise UserError(
                f"cannot make a run folder in {root}: {error.strerror}; give --run_dir a folder "
                "that can be written"
            ) from None
        return folder

    def _save_config(self, folder: Path) -> None:
        with write_atomic(folder / CONFIG) as temporary:
            # It repeats the run, whole and from any folder.
            settings = {**with_absolute_paths(self.plain_config()), "ckpt_path": None}
            del settings["no_cache"]
            temporary.write_text(yaml.safe_dump(settings, sort_keys=False))

    def _temporary_folder(self) -> Path:
        if shared := os.environ.get(RUN_VARIABLE):
            return Path(shared)
        self._temporary = tempfile.TemporaryDirectory(prefix="ntdh-fast-dev-run-")
        return Path(self._temporary.name)


class EvaluateCLI(BenchCLI):
    """Makes a Trainer that measures: no log, no checkpoints, the mask if there is one."""

    run_identity: dict[str, Any]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what and where to predict (hook of LightningCLI)."""
        super().add_arguments_to_parser(parser)
        if self.command == "predict":
            parser.add_argument(
                "--output",
                type=str | None,
                default=None,
                help="New folder of the predictions; default: predictions-<checkpoint> beside it.",
            )
            parser.add_argument(
                "--logits",
                action="store_true",
                help="Write logits also where a sample has many targets (pixels, voxels, points).",
            )

    def run_config(self, words: Sequence[str]) -> Config:
        """Return what of the checkpoint's run it takes to measure it."""
        config = super().run_config(words)
        return config and for_measuring(config)

    def before_instantiate_classes(self) -> None:
        """Refuse to measure nothing (hook of LightningCLI)."""
        if not self.config.ckpt_path:
            raise UserError(
                f"`ntdh-bench {self.command}` measures a checkpoint: give --ckpt_path "
                "<run>/checkpoints/last.ckpt"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer (hook of LightningCLI)."""
        self.load_data("test")
        self.run_identity = self.identity()
        check_evaluated(self.config.ckpt_path, self.run_identity)
        callbacks = [] if self.mask is None else [self.mask]
        settings = {**self.config_init.trainer, "logger": False, "enable_checkpointing": False}
        check_settings(settings)
        split = "val" if self.command == "validate" else self.command
        check_measured(settings[f"limit_{split}_batches"], self.datamodule, split)
        if self.command == "predict":  # several processes would each return a part
            settings |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
        return build_trainer({**settings, "callbacks": callbacks})


def build_trainer(settings: dict[str, Any]) -> Trainer:
    """Return a Trainer; one of a single process pays no attention to a cluster's variables.

    Raises:
        UserError: the Trainer refuses the settings.
    """
    plugins = as_list(settings.get("plugins"))
    if _is_alone(settings) and not any(isinstance(p, ClusterEnvironment) for p in plugins):
        alone = LightningEnvironment()
        alone.set_global_rank(0)  # SLURM_PROCID and the like may say otherwise
        plugins = [*plugins, alone]
    try:
        return Trainer(**{**settings, "plugins": plugins or None})
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UserError(f"the Trainer refuses its settings: {error}") from error


def _is_alone(settings: dict[str, Any]) -> bool:
    """Return whether a Trainer of these settings has one process."""
    if settings.get("num_nodes", 1) != 1 or settings.get("strategy", "auto") != "auto":
        return False
    devices = settings.get("devices", "auto")
    if devices == "auto":
        cpu = settings.get("accelerator") == "cpu"
        return cpu or torch.cuda.device_count() < 2
    return str(devices) == "1" or (isinstance(devices, list) and len(devices) == 1)


def run_command(action: Callable[[], Any]) -> int:
    """Run a command's action quietly; what Lightning refuses becomes one clear line.

    Raises:
        UserError: the settings do not go together, or a checkpoint is of another network.
        Stopped: by Ctrl-C or SIGTERM.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _ADVICE:
        warnings.filterwarnings("ignore", message)
    try:
        with stoppable():
            action()
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        detail = str(error).splitlines()[1].strip()
        raise UserError(f"the checkpoint is of another network: {detail}") from error
    return 0


@contextmanager
def running(cli: FitCLI) -> Iterator[None]:
    """Tell processes started meanwhile of the run's folder; say how to go on if it is stopped.

    Raises:
        Stopped: by Ctrl-C or SIGTERM.
        UserError: the run's folder was removed or cannot be written.
    """
    before = os.environ.get(RUN_VARIABLE)
    os.environ[RUN_VARIABLE] = str(cli.folder.resolve())
    hook = threading.excepthook
    threading.excepthook = _quiet
    try:
        yield
    except BaseException as error:
        cli.stop_processes()
        raise_stopped(error, _how_to_go_on(cli))
        if isinstance(error, OSError):
            check_run_folder(cli.folder)
            if is_unwritable(error):
                raise unwritable(cli.folder, error) from None
        raise
    finally:
        threading.excepthook = hook
        del os.environ[RUN_VARIABLE]
        if before is not None:
            os.environ[RUN_VARIABLE] = before


def _quiet(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of a log's writer: its error is raised where the log is next used."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _how_to_go_on(cli: FitCLI) -> str:
    if cli.fast_dev_run or not cli.owns_folder:
        return ""
    checkpoint = cli.last_checkpoint if cli.last_checkpoint.is_file() else cli.config.ckpt_path
    if checkpoint:
        words = f"--ckpt_path {shlex.quote(str(checkpoint))}"
        return f"go on with `ntdh-bench {cli.command} {words}`"
    config = shlex.quote(str(cli.folder / CONFIG))
    return f"no epoch was finished; start again with `ntdh-bench {cli.command} --config {config}`"


def _is_first_process() -> bool:
    """Return whether this is the first process of a run, on the first machine."""
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return getattr(rank_zero_only, "rank", 0) == 0 and node == "0"


def _unused_folder(folder: Path) -> Path:
    if (folder / CONFIG).exists():
        raise UserError(
            f"{RUN_VARIABLE} names {folder}, which holds a run already: name an empty folder, or "
            "unset it"
        )
    return folder


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
    made_with = read_checkpoint(path).get("identity") or {}
    for name in _changed_code(made_with, identity):
        raise UserError(
            f"the code of {name} is not that which {path} was made with: a resumed run keeps its "
            "code; restore it, or start a new run without --ckpt_path"
        )
    saved, given = (
        _flatten({name: value for name, value in settings.items() if name != "third_party"})
        for settings in (made_with, identity)
    )
    for name in sorted(saved.keys() | given.keys()):
        if name not in _MAY_DIFFER and saved.get(name) != given.get(name):
            raise UserError(
                f"{name} is {given.get(name)!r}, but {path} was made with {saved.get(name)!r}: a "
                "resumed run keeps its settings; drop the flag, or start a new run without "
                "--ckpt_path"
            )


def _changed_code(saved: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """Return what third-party code is not what it was; what no one noted may differ."""
    before, now = (settings.get("third_party", {}) for settings in (saved, identity))
    return sorted(name for name in before.keys() & now.keys() if before[name] != now[name])


def check_evaluated(path: str, identity: dict[str, Any]) -> None:
    """Raise a UserError if a checkpoint was made with another mask; say if with other code."""
    saved = read_checkpoint(path).get("identity") or {}
    if saved.get("mask") != identity["mask"]:
        raise UserError(
            f"{path} was made with the mask {saved.get('mask')}, but here it is "
            f"{identity['mask']}: leave out --config to use the settings of its run"
        )
    for name in _changed_code(saved, identity):
        notice(f"the code of {name} is not that which {path} was trained with")


def _flatten(plain: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(plain, dict):
        return {prefix: plain}
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat
