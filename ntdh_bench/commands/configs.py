"""Config files before they are parsed: which ones, merged, and what of them a command takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ntdh_bench.errors import UserError
from ntdh_bench.experiments import Config, merge
from ntdh_bench.files.text import read_yaml

_REMEDY = "give a config such as those in configs/"
# These get the seed of the run.
_SEEDED = ("model", "data", "mask")
# What of the Trainer is more than a plain setting.
_OBJECTS = ("callbacks", "logger", "plugins", "profiler")
# In place of those that a run was trained with, when it is only measured.
_UNUSED = {"optimizer": "torch.optim.SGD", "scheduler": "torch.optim.lr_scheduler.ConstantLR"}


class GivenSeed(NamedTuple):
    """A seed that a part was given for itself: where, under which key, which."""

    where: str
    key: str
    value: Any


def is_config(word: str) -> bool:
    """Return whether a word of the command line names a config, or is followed by one."""
    return re.match(r"(-c|--config)(=|$)", word) is not None


def inline_configs(words: Sequence[str]) -> tuple[list[str], list[GivenSeed]]:
    """Return the words with configs in place of their files, and the seeds that were taken out.

    Files in a row are merged as experiments merge theirs. What comes later wins, files and flags.

    Raises:
        UserError: a file is no config, or none is given.
    """
    inlined: list[str] = []
    seeds: list[GivenSeed] = []
    left = list(words)
    while left:
        files: list[Path] = []
        while left and is_config(left[0]):
            _, equals, name = left.pop(0).partition("=")
            if not equals:
                name = left.pop(0) if left else ""
            if not name:
                raise UserError("--config has no value: give a YAML file")
            files.append(Path(name))
        if files:
            config = read_configs(files)
            seeds += take_seeds(config)
            inlined += config_words(config)
        if left:
            inlined.append(left.pop(0))
    return inlined, [*seeds, *flag_seeds(words)]


def config_words(config: Config) -> list[str]:
    """Return the words that give the parser a config."""
    return ["--config", yaml.safe_dump(config)]


def read_configs(paths: Iterable[Path]) -> Config:
    """Return config files merged as experiments merge theirs: later ones win.

    Raises:
        UserError: one is no YAML mapping, or gives a part another seed than its
            ``seed_everything``.
    """
    merged: Config = {}
    for path in paths:
        config = read_yaml(path, remedy=_REMEDY)
        if not config or not isinstance(config, dict):
            what = "is no mapping" if config else "holds no settings"
            raise UserError(f"{path} {what}: {_REMEDY}")
        if not isinstance(config.get("trainer") or {}, dict):
            raise UserError(f"{path}: trainer is no mapping of settings: {_REMEDY}")
        if "seed_everything" in config:  # a later file may change the seed of all
            check_seeds(take_seeds(config, f"{path}: "), config["seed_everything"])
        merged = merge(merged, config)
    return merged


def for_measuring(config: Config) -> Config:
    """Return what it takes to measure a checkpoint: network, data, mask and devices of its run.

    The folder of a run may come from elsewhere. Callbacks, loggers and plug-ins are left out
    before anything they name is imported; optimiser and schedule, which a module may insist on,
    become ones that do nothing here.
    """
    measured = {name: value for name, value in config.items() if name in (*_SEEDED, "trainer")}
    measured["seed_everything"] = config.get("seed_everything", 0)
    if isinstance(trainer := config.get("trainer"), dict):
        plain = {name: value for name, value in trainer.items() if _is_word(value)}
        measured["trainer"] = {n: value for n, value in plain.items() if n not in _OBJECTS}
    model = config.get("model")
    if isinstance(model, dict) and isinstance(arguments := model.get("init_args"), dict):
        unused = {
            name: _UNUSED[name.rpartition("_")[2]]
            for name, value in arguments.items()
            if value and name.rpartition("_")[2] in _UNUSED  # the optimizer, a camera_optimizer
        }
        measured["model"] = {**model, "init_args": {**arguments, **unused}}
    return measured


def flag_seeds(flags: Sequence[str]) -> Iterator[GivenSeed]:
    """Yield the seeds that flags give to parts."""
    for flag, following in zip(flags, [*flags[1:], ""], strict=False):
        name, equals, text = flag.partition("=")
        part, _, key = name.removeprefix("--").replace(".init_args.", ".").partition(".")
        if name.startswith("--") and part in _SEEDED and key in ("", "seed"):
            try:
                value = yaml.safe_load(text if equals else following)
            except yaml.YAMLError:
                continue  # the parser will say so
            settings = {"init_args": {"seed": value}} if key else value
            yield from take_seeds({part: settings}, "--")


def check_seeds(given: Iterable[GivenSeed], seed: Any) -> None:
    """Raise a UserError if a part was given another seed than the run's, which it gets."""
    for where, key, value in given:
        if value != seed:
            raise UserError(
                f"{where}{key} is {value!r}, but the run's seed is {seed!r}, and model, data and "
                "mask get that one: set --seed_everything instead"
            )


def take_seeds(config: Mapping[str, Any], where: str = "") -> Iterator[GivenSeed]:
    """Yield the seeds that a config gives to parts, and take them out."""
    for part in _SEEDED:
        settings = config.get(part)
        arguments = settings.get("init_args") if isinstance(settings, dict) else None
        if isinstance(arguments, dict) and "seed" in arguments:
            yield GivenSeed(where, f"{part}.seed", arguments.pop("seed"))


def _is_word(value: Any) -> bool:
    """Return whether a setting is plain: it cannot be a class, which has a path with dots."""
    if isinstance(value, list):
        return all(map(_is_word, value))
    return not isinstance(value, dict) and not (isinstance(value, str) and "." in value)
