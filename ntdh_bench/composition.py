"""Configs: found by file or name, read with their bases, merged, and changed key by key.

A config says with ``base: mnist.yaml`` what it starts from, one file or a list, relative to its own
folder: later ones win, and the config over all of them. Command line and experiments read configs
with :func:`read_config`. This module imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import ntdh_bench
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.text import parse_yaml, read_yaml
from ntdh_bench.suggestions import nearest

Config = dict[str, Any]
_REMEDY = "give a YAML file or a name of `ntdh-bench config list`"
_KINDS: dict[type, str] = {dict: "a mapping", list: "a list", str: "text"}
# The modules that train a teacher and a student, and what is a matter of these networks, not of the
# method.
_PAIR_MODULES = tuple(
    f"ntdh_bench.models.{name}"
    for name in ("DistillationModule", "MutualModule", "C2KDModule", "MSTDistillModule")
)
_OF_PAIR = (
    "teacher_network", "student_network", "optimizer", "scheduler", "ignore_index",
    "class_weights",
)  # fmt: skip
_MAX_FILES = 50  # that one config is merged from
_MAX_KEYS = 1000  # dotted keys that are set at once
_MAX_DOTS = 30  # of one of them


# -- files ---------------------------------------------------------------------------------------


def shipped_files(pattern: str) -> dict[str, Path]:
    """Return the YAML files in the package's ``configs/``, by their path without its suffix."""
    found = {}
    for folder in (Path(place) / "configs" for place in ntdh_bench.__path__):
        for path in sorted(folder.glob(pattern)):
            found[path.relative_to(folder).with_suffix("").as_posix()] = path
    return found


def shipped_configs() -> dict[str, Path]:
    """Return the configs that come with the package: of runs, overlays, methods, then bases."""
    return {
        name: path
        for pattern in ("*.yaml", "overlays/*.yaml", "methods/*.yaml", "base/*.yaml")
        for name, path in shipped_files(pattern).items()
    }


def find_config(name: str, folder: Path = Path()) -> Path:
    """Return the file of a config: one in ``folder``, also without its ``.yaml``, or a shipped one.

    Raises:
        FileError: there is none; the message has the shipped ones of nearly this name.
    """
    path = folder / name
    for file in (path, Path(f"{path}.yaml")):
        if os.path.isfile(file):  # noqa: PTH113 (Path.is_file raises where a name is too long)
            return file
    shipped = shipped_configs()
    if name in shipped:
        return shipped[name]
    if os.path.lexists(path):
        return path  # a folder, say, as which it will be refused
    near = nearest(name.removesuffix(".yaml").removeprefix("configs/"), shipped, 3)
    named = f", such as {', '.join(near)}" if near else ""
    raise FileError(f"{path} is missing; {_REMEDY}{named}")


def read_config(path: Path) -> Config:
    """Return the settings of a config, merged over those of its bases.

    Raises:
        UserError: a file is missing or no mapping, its bases lead back to it, or there are more
            than 50; the message names it and quotes nothing.
    """
    return _compose(path, (), [])


_read_once = cache(read_config)  # experiments name a config in thousands of runs


def with_files(config: Config, names: Any, path: Path, key: str) -> Config:
    """Return ``config`` with the configs that a key of the file ``path`` names laid over it."""
    for file in _named_files(names, path, key):
        config = merge(config, _read_once(file))
    return config


def _compose(path: Path, above: tuple[Path, ...], read: list[Path]) -> Config:
    """Return a config of which those ``above`` are made, counting what was ``read`` so far."""
    real = path.resolve()
    if real in above:
        raise UserError(f"{path}: its bases lead back to it: take one `base` of them out")
    read.append(path)
    if len(read) > _MAX_FILES:
        raise UserError(
            f"{read[0]}: more than {_MAX_FILES} files by way of `base`: make one of some with "
            "`ntdh-bench config show`"
        )
    own = _as_now(read_mapping(path))
    config: Config = {}
    for base in _named_files(own.pop("base", None), path, "base"):
        config = merge(config, _compose(base, (*above, real), read))
    return merge(config, own)


def _as_now(config: Config) -> Config:
    """Return a config, which may be that of an older run, with what its mask's `retrain` is now."""
    arguments = arguments_of(config.get("mask"))
    if "fill" in arguments or not isinstance(arguments.get("retrain"), bool):
        return config
    kept = {name: value for name, value in arguments.items() if name != "retrain"}
    fill = "retrain" if arguments["retrain"] else "zero"
    return {**config, "mask": {**config["mask"], "init_args": {**kept, "fill": fill}}}


def _named_files(names: Any, path: Path, key: str) -> list[Path]:
    """Return the files that a key of the file ``path`` names: one, a list, or null for none."""
    return [find_config(expect(name, str, path, key), path.parent) for name in as_list(names)]


def read_mapping(path: Path) -> Config:
    """Return the mapping in a YAML file."""
    settings: Config = expect(read_yaml(path, remedy=_REMEDY), dict, path, "the file")
    return settings


# -- merging -------------------------------------------------------------------------------------


def merge(old: Config, new: Mapping[str, Any]) -> Config:
    """Return ``old`` with ``new`` laid over it; another class takes no old arguments.

    But of the modules that train a pair of networks one takes over another's :data:`_OF_PAIR`, so
    that a method with a module of its own goes over any config of a pair. A class is given by its
    ``class_path``, or by its name alone. Neither argument is changed.
    """
    replaced = "class_path" in new and not same_class(new["class_path"], old.get("class_path"))
    result = _taken_over(old, new) if replaced else dict(old)
    for key, value in new.items():
        before = result.get(key)
        if isinstance(before, dict) and same_class(value, before.get("class_path")):
            continue
        both = isinstance(value, dict) and isinstance(before, dict)
        result[key] = merge(before, value) if both else deepcopy(value)  # type: ignore[arg-type]
    return result


def _taken_over(old: Config, new: Mapping[str, Any]) -> Config:
    """Return what a class takes over from the one that it replaces."""
    names = taken_over(old.get("class_path"), new["class_path"])
    kept = {name: value for name, value in arguments_of(old).items() if name in names}
    return {"init_args": kept} if kept else {}


def taken_over(before: Any, now: Any) -> tuple[str, ...]:
    """Return the names of the arguments that a class takes over from another, by their names."""
    pairs = (any(same_class(path, module) for module in _PAIR_MODULES) for path in (before, now))
    return _OF_PAIR if all(pairs) else ()


def same_class(one: Any, other: Any) -> bool:
    """Return whether two names are of one class, going by the names alone.

    ``KD`` is that of its plug-in, and ``torch.optim.SGD`` also ``torch.optim.sgd.SGD``: a package
    shows what its modules define.
    """
    if not isinstance(one, str) or not isinstance(other, str):
        return bool(one == other)
    (short, name), (long, other_name) = sorted(
        (path.rpartition(".")[::2] for path in (one, other)), key=lambda path: len(path[0])
    )
    return name == other_name and f"{long}.".startswith(f"{short}." if short else "")


def change(config: Config, changes: Sequence[Mapping[str, Any]], path: Path) -> Config:
    """Return ``config`` with overrides applied: first their files, then their dotted keys.

    What lies below a key that is null stays out.

    Args:
        config: left as it is.
        changes: overrides, later ones win.
        path: of the experiment, to which files are relative.

    Raises:
        UserError: a key leads through something that is no mapping or is ``base``, or a file is
            missing.
    """
    for overrides in changes:
        if "base" in overrides:
            raise UserError(f"{path}: base is no setting of runs: name files as `config`")
        config = with_files(config, overrides.get("config"), path, "config")
    for overrides in changes:
        deepest = max(overrides, key=lambda key: key.count("."), default="")
        if len(overrides) > _MAX_KEYS or deepest.count(".") > _MAX_DOTS:
            raise UserError(
                f"{path}: {len(overrides)} settings, with up to {deepest.count('.')} dots, are set "
                f"at once, expected at most {_MAX_KEYS} and {_MAX_DOTS}: put them in a config"
            )
        # Short keys first: a class before its arguments, which it would drop if it were another.
        for key, value in sorted(overrides.items(), key=lambda item: item[0].count(".")):
            if key != "config":
                config = _set(config, key.split("."), value, f"{path}: {key}")
    return config


def _set(config: Config, keys: Sequence[str], value: Any, where: str) -> Config:
    first, *rest = keys
    if not rest:
        whole = isinstance(value, dict)
        return {**config, first: deepcopy(value)} if whole else merge(config, {first: value})
    below = config.get(first, {})
    if below is None:
        return config
    if not isinstance(below, dict):
        raise UserError(f"{where}: {first} is {kind_of(below)}, so nothing can be set below it")
    return {**config, first: _set(below, rest, value, where)}


# -- values --------------------------------------------------------------------------------------


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return the dotted key and the YAML value of ``key=value``.

    Raises:
        UserError: it is no assignment.
    """
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(f"{shortened(text)!r} is no setting: write dotted.key=value")
    return key, parse_yaml(value, f"the value of {key}", "write dotted.key=value")


def arguments_of(part: Any) -> Config:
    """Return the arguments of a part of a config that is a class; of another an empty mapping."""
    arguments = part.get("init_args") if isinstance(part, dict) else None
    return arguments if isinstance(arguments, dict) else {}


def expect(value: Any, kind: type, path: Path, key: str) -> Any:
    """Return a value that must be a mapping, a list or text; null is empty.

    The message does not quote the value: the file may be one that is not the user's to show.
    """
    found: Any = kind() if value is None else value
    if not isinstance(found, kind):
        raise UserError(f"{path}: {key} is {kind_of(value)}: give {_KINDS[kind]}")
    return found


def kind_of(value: Any) -> str:
    """Return what kind of value it is; whole numbers as they are."""
    if type(value) is int:
        return str(value) if abs(value) < 10**9 else "a large number"
    return _KINDS.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")


def shortened(text: str) -> str:
    """Return text of a file, for a message, without what is beyond 40 characters."""
    return text if len(text) <= 40 else f"{text[:40]}..."


def as_list(value: Any) -> list[Any]:
    """Return the values of a setting that takes nothing, one or several."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
