"""Configs and flags of the commands that run models, through LightningCLI."""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Sequence
from copy import copy, deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from ntdh_bench import provenance
from ntdh_bench.composition import Config
from ntdh_bench.errors import UserError
from ntdh_bench.experiments import MAX_SEED, is_seed
from ntdh_bench.masks import Mask
from ntdh_bench.parsing.checks import check_settings
from ntdh_bench.parsing.classes import check_classes, leave_uncalled, take_no_files
from ntdh_bench.parsing.configs import (
    check_linked,
    checkpoint_of,
    config_words,
    for_measuring,
    inline_configs,
    is_config,
    linked_to_seed,
    read_configs,
    take_linked,
    without_linked,
)
from ntdh_bench.parsing.messages import class_of, explain, valid_names
from ntdh_bench.plugins import load, registered

register_type(torch.device)  # a default of callbacks that average weights: written as its name

CONFIG = "config.yaml"  # of a run, in its folder
TRAINING = ("fit", "saliency")  # the commands that train; others measure a checkpoint
_SEED = "seed_everything"
# What ``ntdh-bench`` takes itself: no settings, so they are in no config.
_ALSO = (
    "Also: -q, --quiet, for results, notes and errors alone; -v, --verbose, for every metric and "
    "what Lightning says."
)
_ALSO_FIT = " --with-control trains the student without KD first, so that the gain is shown."
_NOT_A_FLAG = (
    "a flag names an argument of a function, such as one that makes a network: give it in a "
    "config, where functions take theirs"
)
# Made once for all runs of a process, by command.
_PARSERS: dict[str, LightningArgumentParser] = {}


class Parsed(NamedTuple):
    """What the words of a command say.

    Attributes:
        config: as the parser gives it.
        dumped: the same as plain values.
        plain: without what is linked to other settings, so that it can be given to ``--config``.
        code: third-party code that it names, see :func:`ntdh_bench.provenance.code_of`.
    """

    config: Namespace
    dumped: Config
    plain: Config
    code: dict[str, str]

    def of_seed(self, seed: int) -> Parsed:
        """Return a copy with another seed: what the same words say with that one."""
        config, dumped, plain = self.config.clone(), deepcopy(self.dumped), deepcopy(self.plain)
        config[_SEED] = dumped[_SEED] = plain[_SEED] = seed
        for part in linked_to_seed(dumped):
            config[part].init_args.seed = dumped[part]["init_args"]["seed"] = seed
        return Parsed(config, dumped, plain, self.code)


class BenchCLI(LightningCLI):
    """Parses one command's arguments and makes what they name: data, model, mask, callbacks.

    Nothing is read but configs, and nothing is written, downloaded or run.

    Args:
        command: the command's name, for its help page.
        args: the words after the command.
        config: settings before those words, as ``--config`` gives them.

    Attributes:
        plain: the resolved config as plain values, as it can be given to ``--config``.
        code: third-party code that it names, see :func:`ntdh_bench.provenance.code_of`.

    Raises:
        UserError: an argument or a config is wrong; the message names it and what is valid.
    """

    plain: Config
    code: dict[str, str]

    def __init__(
        self, command: str, args: Sequence[str] = (), config: Config | None = None
    ) -> None:
        self.command = command
        self._seed: int | None = None
        _help_of_argument(args)
        words, self._given = inline_configs(args)
        if config is None and not any(map(is_config, words)):
            config = self.run_config(words)
        if config:
            config = deepcopy(config)
            self._given += take_linked(config)
            if not words and is_seed(config.get(_SEED)):
                self._seed, config[_SEED] = config[_SEED], 0
            words = [*config_words(config), *words]
        super().__init__(
            save_config_callback=None,
            trainer_defaults={"enable_model_summary": False, "num_sanity_val_steps": 0},
            seed_everything_default=0,
            parser_kwargs={
                "prog": f"ntdh-bench {command}",
                "exit_on_error": False,
                "epilog": _ALSO + (_ALSO_FIT if command == "fit" else ""),
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=words,
            run=False,
            auto_configure_optimizers=False,
        )

    def run_config(self, words: Sequence[str]) -> Config:
        """Return the config of the run whose checkpoint ``words`` name, empty if they name none.

        To measure it no more is taken than that needs.

        Raises:
            UserError: there is no such checkpoint, or no config in its run.
        """
        path = checkpoint_of(words)
        if path is None:
            return {}
        config = run_folder(path) / CONFIG
        if config.is_file():
            settings = read_configs([config])
            return settings if self.command in TRAINING else for_measuring(settings)
        if not any(word.startswith("--model") for word in words):
            raise UserError(
                f"{path} is not in the folder of its run, whose config.yaml ({config}) has the "
                "settings: put it back, or give --config <run>/config.yaml"
            )
        return {}

    def setup_parser(self, *settings: Any) -> None:
        """Make the parser of a command once; what parsing leaves in it is left in a copy."""
        if self.command not in _PARSERS:
            _load_plugins()
            super().setup_parser(*settings)
            _PARSERS[self.command] = self.parser
        self.parser = copy(_PARSERS[self.command])

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, from which all randomness is derived."""
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            help=f"Seed of the run, an integer from 0 to {MAX_SEED}.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the mask, where runs go, what to resume, what one command takes, and the links."""
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
        if self.command in TRAINING:
            parser.add_argument(
                "--no-cache",
                action="store_true",
                help="Train and compute all anew: no teacher or saliency that an earlier run left.",
            )
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
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("seed_everything", "mask.init_args.seed")
        parser.link_arguments(
            "data.num_classes", "model.init_args.num_classes", apply_on="instantiate"
        )
        take_no_files(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with one clear line instead of the parser's tree of failed types."""
        assert isinstance(args, list)
        parsed = self._parse_again(args) if self._seed is not None else _parse(parser, args)
        self.config, self.config_dump, self.plain, self.code = parsed
        seed = self.config.seed_everything
        if not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed_everything is {seed}: it must lie in [0, {MAX_SEED}]")
        check_linked(self._given, "seed", seed)
        check_classes(parser, self.config)
        if not (self.command in TRAINING or self.config.ckpt_path):
            raise UserError(
                f"`ntdh-bench {self.command}` measures a checkpoint: give --ckpt_path "
                "<run>/checkpoints/last.ckpt"
            )

    def _parse_again(self, words: list[str]) -> Parsed:
        """Parse words once for all seeds, unless code that they name has changed since."""
        parsed = _parse_once(self.command, *words)
        if provenance.code_of(parsed.plain) != parsed.code:
            _parse_once.cache_clear()
            parsed = _parse_once(self.command, *words)
        assert self._seed is not None
        return parsed.of_seed(self._seed)

    def instantiate_classes(self) -> None:
        """Make data, model, mask and callbacks, with one clear line if a class refuses its values.

        Raises:
            UserError: likewise, or the settings do not go together.
        """
        self.config.model = leave_uncalled(self.config.model)
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UserError(explain(str(error))) from error
        check_settings(self.config_init.trainer)
        check_linked(self._given, "num_classes", self.datamodule.num_classes)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make none: a run has several (hook of LightningCLI)."""


def _parse(parser: LightningArgumentParser, words: Sequence[str]) -> Parsed:
    try:
        config = parser.parse_args(words)
    except ArgumentError as error:
        if "linked_targets" in str(error):  # which jsonargparse hands on to functions as well
            raise UserError(_NOT_A_FLAG) from None
        raise UserError(explain(str(error), list(parser._option_string_actions))) from None
    unchecked = {"skip_validation": True, "skip_link_targets": False}  # it was just parsed
    dumped = yaml.safe_load(parser.dump(config, format="yaml", skip_none=False, **unchecked))
    plain = without_linked(dumped)
    # Now, just after it was imported: data that are prepared first leave time for an edit.
    return Parsed(config, dumped, plain, provenance.code_of(plain))


@lru_cache(maxsize=512)  # the cells of a stack, whose runs go by seeds
def _parse_once(command: str, *words: str) -> Parsed:
    return _parse(copy(_PARSERS[command]), words)


def _help_of_argument(words: Sequence[str]) -> None:
    """Print the help of a class that an argument of another class takes, and end, if asked to.

    The parser would want all that the other class needs, and print flags that it does not take.
    """
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, _, name = word.partition("=")
        found = re.fullmatch(r"--(\w+\.[\w.]+)\.help", flag)
        if found and (base := class_of(found[1])):
            _load_plugins()
            parser = LightningArgumentParser(prog="ntdh-bench", exit_on_error=False)
            parser.add_subclass_arguments(base, found[1])
            try:
                parser.parse_args([flag, name or following])
            except ArgumentError:
                wrong, last = name or following, found[1].rpartition(".")[2]
                raise UserError(f"{flag}: unknown {wrong!r}: {valid_names(wrong, last)}") from None


def run_folder(checkpoint: str | Path) -> Path:
    """Return the run that a checkpoint in ``<run>/checkpoints/`` belongs to."""
    return Path(checkpoint).resolve().parent.parent


def _load_plugins() -> None:
    """Import plug-ins, so that configs can name their classes without their module."""
    for plugin in registered("ntdh_bench.plugins").values():
        load(plugin)
