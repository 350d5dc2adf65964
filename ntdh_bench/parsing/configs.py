"""Config files before they are parsed: which ones, merged, and what of them a command takes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ntdh_bench.composition import (
    Config,
    arguments_of,
    expect,
    find_config,
    merge,
    read_config,
    shortened,
)
from ntdh_bench.errors import UserError
from ntdh_bench.suggestions import did_you_mean

# What the command line sets itself: the seed of the run, and the classes of the data.
_LINKED = {"model": ("seed", "num_classes"), "data": ("seed",), "mask": ("seed",)}
# What parts get, whatever they are given.
_GET = {
    "seed": "the run's seed is {!r}, and model, data and mask get that one: set --seed_everything "
    "instead",
    "num_classes": "the data have {} classes, and the model gets that number: leave it out",
}
# Arguments that are files or folders, and no part of what a run is.
_PATHS = {
    "model": ("teacher_checkpoint",),
    "data": ("root", "features", "cache_dir"),
    "mask": ("cache_dir",),
}
# What a config may hold, and what a part of it that is a class.
_KEYS = (
    "seed_everything", "trainer", "model", "data", "mask", "run_dir", "ckpt_path", "no_cache",
    "output", "logits",
)  # fmt: skip
_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
# What of the Trainer is more than a plain setting.
_OBJECTS = ("callbacks", "logger", "plugins", "profiler")
# In place of those that a run was trained with, when it is only measured.
_UNUSED = {"optimizer": "torch.optim.SGD", "scheduler": "torch.optim.lr_scheduler.ConstantLR"}


class Given(NamedTuple):
    """A value for an argument that is linked to another one: where it was given."""

    where: str
    part: str
    name: str
    value: Any


def is_config(word: str) -> bool:
    """Return whether a word of the command line names a config, or is followed by one."""
    return re.match(r"(-c|--config)(=|$)", word) is not None


def inline_configs(words: Sequence[str]) -> tuple[list[str], list[Given]]:
    """Return the words with configs in place of their files, and what they give for links.

    Files in a row are merged as experiments merge theirs. What comes later wins, files and flags.

    Raises:
        UserError: a file is no config, or none is given.
    """
    inlined: list[str] = []
    given: list[Given] = []
    left = list(words)
    while left:
        files: list[Path] = []
        while left and is_config(left[0]):
            _, equals, name = left.pop(0).partition("=")
            if not equals:
                name = left.pop(0) if left else ""
            if not name:
                raise UserError("--config has no value: give a YAML file")
            files.append(find_config(name))
        if files:
            config = read_configs(files)
            given += take_linked(config)
            inlined += config_words(config)
        if left:
            inlined.append(left.pop(0))
    return inlined, [*given, *flags_linked(words)]


def checkpoint_of(words: Sequence[str]) -> str | None:
    """Return the checkpoint that the words of a command name, None if they name none.

    Raises:
        UserError: it is not there.
    """
    path = _option(words, "--ckpt_path")
    if path is not None and not os.path.isfile(path):  # noqa: PTH113 (a name may be too long)
        raise UserError(f"no checkpoint {path}: give --ckpt_path <run>/checkpoints/last.ckpt")
    return path


def _option(words: Sequence[str], name: str) -> str | None:
    for number, word in enumerate(words):
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
        if word == name and number + 1 < len(words):
            return words[number + 1]
    return None


def config_words(config: Config) -> list[str]:
    """Return the words that give the parser a config."""
    return ["--config", yaml.safe_dump(config)]


def read_configs(paths: Iterable[Path]) -> Config:
    """Return config files with their bases, merged as experiments merge theirs: later ones win.

    Raises:
        UserError: one cannot be read, is no mapping, or gives a part another seed than its
            ``seed_everything``.
    """
    merged: Config = {}
    for path in paths:
        config = read_config(path)
        if not config:
            raise UserError(f"{path} holds no settings: write some, or leave it out")
        expect(config.get("trainer"), dict, path, "trainer")
        _check_keys(config, path)
        if "seed_everything" in config:  # a later file may change the seed of all
            given = take_linked(config, f"{path}: ", ("seed",))
            check_linked(given, "seed", config["seed_everything"])
        merged = merge(merged, config)
    return merged


def _check_keys(config: Config, path: Path) -> None:
    """Refuse misspelt keys: of the config, and beside the arguments of its classes."""
    for where, given, known in (
        ("", config, _KEYS),
        *((f"{part}.", config.get(part), _CLASS_KEYS) for part in _LINKED),
    ):
        unknown = [key for key in given if key not in known] if isinstance(given, dict) else []
        if unknown:
            near = did_you_mean(str(unknown[0]), known)
            raise UserError(
                f"{path}: there is no {where}{shortened(str(unknown[0]))}; {near}known are "
                f"{', '.join(known)}"
            )


def with_absolute_paths(config: Config) -> Config:
    """Return a config whose files are found from every folder."""
    for part, names in _PATHS.items():
        if arguments := arguments_of(config.get(part)):
            files = {name: arguments[name] for name in names if arguments.get(name)}
            found = {name: str(Path(file).expanduser().absolute()) for name, file in files.items()}
            config = {**config, part: {**config[part], "init_args": {**arguments, **found}}}
    return config


def for_measuring(config: Config) -> Config:
    """Return what it takes to measure a checkpoint: network, data, mask and devices of its run.

    The folder of a run may come from elsewhere. Callbacks, loggers and plug-ins are left out
    before anything they name is imported; optimiser and schedule, which a module may insist on,
    become ones that do nothing here.
    """
    measured = {name: value for name, value in config.items() if name in (*_LINKED, "trainer")}
    measured["seed_everything"] = config.get("seed_everything", 0)
    if isinstance(trainer := config.get("trainer"), dict):
        plain = {name: value for name, value in trainer.items() if _is_word(value)}
        measured["trainer"] = {n: value for n, value in plain.items() if n not in _OBJECTS}
    if arguments := arguments_of(config.get("model")):
        unused = {
            name: _UNUSED[name.rpartition("_")[2]]
            for name, value in arguments.items()
            if value and name.rpartition("_")[2] in _UNUSED  # the optimizer, a camera_optimizer
        }
        measured["model"] = {**config["model"], "init_args": {**arguments, **unused}}
    return measured


def flags_linked(flags: Sequence[str]) -> Iterator[Given]:
    """Yield what flags give for linked arguments."""
    for flag, following in zip(flags, [*flags[1:], ""], strict=False):
        name, equals, text = flag.partition("=")
        part, _, key = name.removeprefix("--").replace(".init_args.", ".").partition(".")
        if name.startswith("--") and key in ("", *_LINKED.get(part, ())):
            try:
                value = yaml.safe_load(text if equals else following)
            except yaml.YAMLError:
                continue  # the parser will say so
            settings = {"init_args": {key: value}} if key else value
            yield from take_linked({part: settings}, "--")


def take_linked(
    config: Mapping[str, Any], where: str = "", names: Sequence[str] = ("seed", "num_classes")
) -> Iterator[Given]:
    """Yield what a config gives for linked arguments, and take it out."""
    for part, linked in _LINKED.items():
        arguments = arguments_of(config.get(part))
        for name in arguments.keys() & set(linked) & set(names):
            yield Given(where, part, name, arguments.pop(name))


def linked_to_seed(config: Config) -> list[str]:
    """Return the parts of a dumped config that have the seed of the run."""
    return [part for part in _LINKED if "seed" in arguments_of(config.get(part))]


def without_linked(config: Config) -> Config:
    """Return a dumped config without what parts get from other settings, as the parser would."""
    config = deepcopy(config)
    list(take_linked(config))
    for part in _LINKED:
        if isinstance(config.get(part), dict) and not arguments_of(config[part]):
            config[part].pop("init_args", None)
    return config


def check_linked(given: Iterable[Given], name: str, value: Any) -> None:
    """Raise a UserError if a part was given another ``seed`` or ``num_classes`` than it gets."""
    for where, part, linked, found in given:
        if linked == name and found != value:
            raise UserError(f"{where}{part}.{name} is {found!r}, but {_GET[name].format(value)}")


def _is_word(value: Any) -> bool:
    """Return whether a setting is plain: it cannot be a class, which has a path with dots."""
    if isinstance(value, list):
        return all(map(_is_word, value))
    return not isinstance(value, dict) and not (isinstance(value, str) and "." in value)
