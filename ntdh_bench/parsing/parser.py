"""Configs and flags of the commands that run models, through LightningCLI."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse.typing import register_type
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from ntdh_bench import provenance
from ntdh_bench.checkpoints import file_hash
from ntdh_bench.composition import Config
from ntdh_bench.contract import described
from ntdh_bench.errors import UserError
from ntdh_bench.experiments import MAX_SEED
from ntdh_bench.masks import Mask
from ntdh_bench.parsing.classes import check_classes, take_no_files
from ntdh_bench.parsing.configs import (
    check_num_classes,
    check_seeds,
    config_words,
    inline_configs,
    is_config,
    read_configs,
    take_linked,
)
from ntdh_bench.parsing.messages import explain
from ntdh_bench.plugins import load, registered
from ntdh_bench.run_hash import CHANGED_DEFAULTS, with_epochs

register_type(torch.device)  # a default of callbacks that average weights: written as its name

CONFIG = "config.yaml"  # of a run, in its folder
# Where files lie and how many workers read them changes no number.
_NOT_DATA = {"root", "features", "cache_dir", "num_workers", "jobs"}
# Arguments of models and data that came after the first records, and what they would have been.
_LATER = {
    "class_weights": None,
    "protocol": "pooled",
    **{change.argument: change.before for change in CHANGED_DEFAULTS},
}
# Of the Trainer everything counts but what it shows, logs and keeps.
_NOT_TRAINING = {
    "logger", "log_every_n_steps", "enable_progress_bar", "enable_model_summary",
    "enable_checkpointing", "enable_autolog_hparams", "default_root_dir", "profiler",
    "num_sanity_val_steps", "detect_anomaly",
}  # fmt: skip


def load_plugins() -> None:
    """Import every module of the entry-point group ``ntdh_bench.plugins``.

    Their classes can then be named without their module in configs.

    Raises:
        UserError: a plugin fails to import.
    """
    for plugin in registered("ntdh_bench.plugins").values():
        load(plugin)


class BenchCLI(LightningCLI):
    """Parses one command's arguments; instantiates data, model, mask, and then runs nothing.

    Args:
        command: the command's name, for its help page.
        args: the words after the command.

    Raises:
        UserError: an argument or a config is wrong; the message names it and what is valid.
    """

    code: dict[str, str]

    def __init__(self, command: str, args: Sequence[str]) -> None:
        self.command = command
        load_plugins()
        words, self._given = inline_configs(args)
        if not any(map(is_config, words)) and (config := self.run_config(words)):
            self._given += take_linked(config)
            words = [*config_words(config), *words]
        super().__init__(
            save_config_callback=None,
            trainer_defaults={"enable_model_summary": False, "num_sanity_val_steps": 0},
            seed_everything_default=0,
            parser_kwargs={"prog": f"ntdh-bench {command}", "exit_on_error": False},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=words,
            run=False,
            auto_configure_optimizers=False,
        )

    def run_config(self, words: Sequence[str]) -> Config:
        """Return the config of the run whose checkpoint ``words`` name, empty if they name none.

        Raises:
            UserError: there is no such checkpoint, or no config in its run.
        """
        path = _option(words, "--ckpt_path")
        if path is None:
            return {}
        if not Path(path).is_file():
            raise UserError(f"no checkpoint {path}: give --ckpt_path <run>/checkpoints/last.ckpt")
        config = run_folder(path) / CONFIG
        if config.is_file():
            return read_configs([config])
        if not any(word.startswith("--model") for word in words):
            raise UserError(
                f"{path} is not in the folder of its run, whose config.yaml ({config}) has the "
                "settings: put it back, or give --config <run>/config.yaml"
            )
        return {}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, from which all randomness is derived."""
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            help=f"Seed of the run, an integer from 0 to {MAX_SEED}.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the mask, where runs go, what to resume, and the links."""
        parser.add_subclass_arguments(Mask, "mask", required=False)
        parser.add_argument(
            "--run_dir", type=str, default="runs", help="Folder that gets a new folder per run."
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to resume (fit) or to measure. Without --config, the settings are "
            "those of its run.",
        )
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("seed_everything", "mask.init_args.seed")
        parser.link_arguments(
            "data.num_classes", "model.init_args.num_classes", apply_on="instantiate"
        )
        take_no_files(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with one clear line instead of the parser's tree of failed types."""
        try:
            self.config = parser.parse_args(args)  # type: ignore[arg-type]
        except ArgumentError as error:
            raise UserError(explain(str(error))) from None
        seed = self.config.seed_everything
        if not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed_everything is {seed}: it must lie in [0, {MAX_SEED}]")
        check_seeds(self._given, seed)
        check_classes(parser, self.config)
        # Now, just after it was imported: data that are prepared first leave time for an edit.
        self.code = provenance.code_of(self.plain_config())

    def instantiate_classes(self) -> None:
        """Instantiate data, model and mask, with one clear line if a class refuses its values."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UserError(explain(str(error))) from error

    def load_data(self, stage: str) -> None:
        """Set the data module up; a network that sees one modality needs no files of the other."""
        check_num_classes(self._given, self.datamodule.num_classes)
        self.datamodule.modality = described(self.model).modality
        self.datamodule.prepare_data()
        self.datamodule.setup(stage)

    @property
    def mask(self) -> Any:
        """The mask callback, or ``None``."""
        return self.config_init.get("mask")

    def plain_config(self) -> dict[str, Any]:
        """Return the resolved config as plain values, as it can be given to ``--config``."""
        text = self.parser.dump(self.config, format="yaml", skip_none=False)
        plain: dict[str, Any] = yaml.safe_load(text)
        return plain

    def identity(self) -> dict[str, Any]:
        """Return the settings, data and code that results depend on: no paths, workers or logs.

        Third-party code is under ``third_party``, where there is some.
        Call it when the data module is set up: its fingerprint stands for the files.
        """
        plain = self.plain_config()
        trainer = {
            name: value
            for name, value in plain["trainer"].items()
            if value is not None and name not in _NOT_TRAINING
        }
        arguments = plain["model"].get("init_args", {})
        teacher = arguments.get("teacher_checkpoint")
        model = plain["model"]
        if arguments:
            model = {**model, "init_args": with_epochs(arguments, trainer)}
        mask = plain.get("mask")
        identity = {
            "seed": plain["seed_everything"],
            "model": _without(model, {"teacher_checkpoint"} | _as_before(model)),
            "data": {
                **_without(plain["data"], _NOT_DATA | _as_before(plain["data"])),
                "source": self.datamodule.source,
                "fingerprint": self.datamodule.fingerprint,
            },
            "mask": mask and _without(mask, {"cache_dir"}),
            "trainer": trainer,
            "given_teacher": file_hash(teacher) if teacher else None,
        }
        code = provenance.named_in(identity, self.code)
        return {**identity, "third_party": code} if code else identity


def run_folder(checkpoint: str | Path) -> Path:
    """Return the run that a checkpoint in ``<run>/checkpoints/`` belongs to."""
    return Path(checkpoint).resolve().parent.parent


def _option(words: Sequence[str], name: str) -> str | None:
    for number, word in enumerate(words):
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
        if word == name and number + 1 < len(words):
            return words[number + 1]
    return None


def _as_before(settings: Mapping[str, Any]) -> set[str]:
    """Return later arguments that change nothing: left out, they leave hashes as they were."""
    given = settings.get("init_args", {})
    return {name for name, before in _LATER.items() if given.get(name, before) == before}


def _without(settings: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return a class's settings without some of its own arguments (not those of its parts)."""
    if "init_args" not in settings:
        return settings
    kept = {name: value for name, value in settings["init_args"].items() if name not in names}
    return {**settings, "init_args": kept}
