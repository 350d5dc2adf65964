"""Experiments: a base config and grids over it, expanded to runs with stable hashes.

An experiment is a YAML file, ``configs/sweeps/<name>.yaml``::

    title: Table II. KD methods with feature masks on MNIST/MNIST-M
    requires: mnist                 # a data set; without it the experiment cannot be run
    part_of: table2                 # if given, the experiment whose exhibit shows the runs as well
    base: ../mnist_kd.yaml          # or a list, later files win
    protocols:                      # the first is the default
      mnist: {seeds: 5}             # seeds 0 to 4; or a list of seeds
      mnist_short: {seeds: 3, overrides: {trainer.max_epochs: 15}}
    keep: [curves]                  # extras that are collected: curves (per epoch), maps
    command: fit                    # or saliency (Algorithm 1 alone)
    grids:                          # their union; a grid is the product of its axes and the seeds
      - overrides: {model.init_args.teacher: joint}
        axes:
          method:                   # label -> overrides
            KD: {}
            DKD: {config: ../mnist_dkd.yaml}
          mask.init_args.ratio: [0.25, 0.5]      # dotted key -> values
        exclude:
          - {method: KD, mask.init_args.ratio: 0.5}

Overrides map dotted keys to values, and ``config`` to a file. The files come first, in the order
base, protocol, grid, axes, merged so that another ``class_path`` replaces the old arguments; then
the dotted keys are set in the same order, with the same effect. What lies below a key that is null
is left out, so that "no mask" crossed with ratios is one run. This module imports no torch.

A protocol named ``smoke`` is a trial: its runs are shown, but nothing is tested on them.

A run's hash is that of its merged YAML, of the third-party code that this names (``provenance``)
and of a given teacher: defaults of this package's classes are not part of it. When such a default
changes, it goes to :data:`CHANGED_DEFAULTS`, and protocols that were measured get the old value
written out: their hashes stay, and runs that leave it to the default get new ones.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ntdh_bench.cache import digest, file_digest
from ntdh_bench.datasets import dataset_names
from ntdh_bench.errors import UserError
from ntdh_bench.files.text import parse_yaml, read_yaml
from ntdh_bench.provenance import code_of

Config = dict[str, Any]
COMMANDS = ("fit", "saliency")
MAX_SEED = 2**32 - 1  # of NumPy's generator
EXTRAS = ("curves", "maps")
PINNED = ("third_party", "given_teacher")
_KEYS = {"title", "requires", "part_of", "base", "protocols", "keep", "command", "grids"}
# Names become columns of records and names of files.
_NAME, _NAME_WORDS = r"\w[\w.+ -]{0,79}", "letters, digits, _, -, ., + and spaces, at most 80"
_GRID_KEYS = {"overrides", "axes", "exclude"}
_KINDS: dict[type, str] = {dict: "a mapping", list: "a list", str: "text"}
TRIAL = "smoke"
MAX_RUNS = 20_000  # of an experiment, what is excluded counted
_MAX_VALUES = 10_000_000  # of all configs and exclusions, before they are merged
_MAX_KEYS = 1000  # dotted keys that are set at once
_MAX_DOTS = 30  # of one of them


class ChangedDefault(NamedTuple):
    """An argument of a class of models that does not default to what runs were measured with.

    Attributes:
        class_name: of the model, without its module.
        argument: of ``model.init_args``.
        before: what runs had whose YAML does not name it.
        now: the default.
    """

    class_name: str
    argument: str
    before: Any
    now: Any


CHANGED_DEFAULTS = (ChangedDefault("TwoDPASSModule", "class_weighting", "pmf", "2dpass"),)
# The schedule that has to be told no epochs any more, and the optimiser that decayed no weights
# under these models unless it was told to: they kept what SGD, their default one, sets.
_FOLLOWS = "ntdh_bench.models.WarmupCosine"
_FEATURE_MASK = "ntdh_bench.masks.FeatureMask"
_ADAMW = "torch.optim.AdamW"
_UNDECAYED = ("ntdh_bench.models.DistillationModule", "ntdh_bench.models.TeacherModule")


class Run(NamedTuple):
    """One configuration with one seed.

    Attributes:
        hash: 16 hex digits of the config; runs of several experiments share it if they are equal.
        protocol: name of the training protocol.
        seed: the run's seed.
        labels: axis to label, in the order of the axes.
        config: what ``ntdh-bench fit --config`` takes, ``command`` if that is not ``fit``, and
            what :func:`pin` adds.
    """

    hash: str
    protocol: str
    seed: int
    labels: dict[str, str]
    config: Config


@dataclass(frozen=True)
class Protocol:
    """A training protocol: its seeds, and what it changes in the base config."""

    name: str
    seeds: tuple[int, ...]
    overrides: Config


@dataclass(frozen=True)
class Experiment:
    """A parsed experiment.

    Attributes:
        name: stem of its file.
        title: one line.
        requires: name of the data set.
        part_of: experiment whose tables, figures and claims its runs belong to; usually itself.
        missing: whether that data set is not part of this version; then there are no runs.
        protocols: by name, the default first.
        keep: extras that are collected.
        runs: of all protocols, equal ones once; seeds vary fastest, so that neighbours need
            different teachers.
        path: of its file.
    """

    name: str
    title: str
    requires: str
    part_of: str
    missing: bool
    protocols: dict[str, Protocol]
    keep: tuple[str, ...]
    runs: tuple[Run, ...]
    path: Path


def shipped_experiments() -> list[Path]:
    """Return the experiments that come with the package, by name."""
    import ntdh_bench

    folders = (Path(place) / "configs" / "sweeps" for place in ntdh_bench.__path__)
    return sorted(path for folder in folders for path in folder.glob("*.yaml"))


@cache
def load_shipped() -> tuple[Experiment, ...]:
    """Return the experiments that come with the package, parsed once a process, by name."""
    return tuple(map(load_experiment, shipped_experiments()))


def find_experiment(name: str) -> Path:
    """Return the file of an experiment given by its path or, if shipped, its name.

    Raises:
        UserError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {found.stem: found for found in shipped_experiments()}
    if name in shipped:
        return shipped[name]
    raise UserError(
        f"no experiment {name}: give a YAML file or one of {', '.join(shipped)} (configs/sweeps/)"
    )


def load_experiment(path: Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Parse an experiment and expand its runs.

    Args:
        path: its YAML file.
        overrides: dotted keys and values set in every run, after all else.

    Raises:
        UserError: the file or one it names is missing or malformed; the message names the key.
    """
    spec = _read(path)
    _check_keys(spec, _KEYS, path, "")
    if not re.fullmatch(_NAME, path.stem):
        raise UserError(f"{path}: the name of an experiment has {_NAME_WORDS}: rename the file")
    for key, kind in (("title", str), ("requires", str), ("protocols", dict), ("grids", list)):
        if not _expect(spec.get(key), kind, path, key):
            raise UserError(f"{path}: {key} is missing")
    command = _choice(spec.get("command", "fit"), COMMANDS, path, "command")
    extras = _expect(spec.get("keep"), list, path, "keep")
    keep = tuple(_choice(extra, EXTRAS, path, "keep") for extra in extras)
    if "maps" in keep and command != "saliency":
        raise UserError(f"{path}: keep: maps needs command: saliency, which makes them")
    protocols = {name: _protocol(name, value, path) for name, value in spec["protocols"].items()}
    missing = spec["requires"] not in dataset_names()
    runs: tuple[Run, ...] = ()
    if not missing:
        _check_size(spec, protocols, path)
        expanded = (
            Run(run_hash(config), protocol, seed, labels, config)
            for protocol, seed, labels, config in _expand(spec, protocols, overrides or {}, path)
        )
        unique: dict[tuple[str, str], Run] = {}
        for run in expanded:
            unique.setdefault((run.protocol, run.hash), run)
        runs = tuple(unique.values())
    part_of = _expect(spec.get("part_of", path.stem), str, path, "part_of")
    return Experiment(
        name=path.stem,
        title=spec["title"],
        requires=spec["requires"],
        part_of=part_of,
        missing=missing,
        protocols=protocols,
        keep=keep,
        runs=runs,
        path=path,
    )


def run_hash(config: Config) -> str:
    """Return the 16 hex digits that identify a run.

    1 and 1.0 are the same value, and a Trainer's argument that is null is one left out.
    """
    return digest(_canonical(_as_before(config)))


def _as_before(config: Config) -> Config:
    """Return a config as it would have been written when the first runs were."""
    trainer, model = config.get("trainer"), config.get("model")
    if isinstance(trainer, dict):
        given = {name: value for name, value in trainer.items() if value is not None}
        config = {**config, "trainer": given}
    if not isinstance(model, dict):
        return config
    init_args = dict(model.get("init_args") or {})
    for class_name, argument, before, now in CHANGED_DEFAULTS:
        if str(model.get("class_path")).rpartition(".")[2] == class_name:
            init_args = {argument: now, **init_args}
            if init_args[argument] == before:
                del init_args[argument]
    init_args = with_epochs(init_args, config.get("trainer"))
    optimizer = init_args.get("optimizer")
    undecayed = any(same_class(model.get("class_path"), name) for name in _UNDECAYED)
    if undecayed and isinstance(optimizer, dict) and same_class(_class_path(optimizer), _ADAMW):
        given = {"weight_decay": 0.01, **(optimizer.get("init_args") or {})}
        if not given["weight_decay"]:
            del given["weight_decay"]
        init_args["optimizer"] = {**optimizer, "init_args": given}
    return {**config, "model": {**model, "init_args": init_args}} if init_args else config


def with_epochs(arguments: Config, trainer: Any) -> Config:
    """Return a model's arguments with the epochs that its schedule takes from the Trainer."""
    schedule = arguments.get("scheduler")
    if not isinstance(schedule, dict) or not same_class(schedule.get("class_path"), _FOLLOWS):
        return arguments
    given = schedule.get("init_args") or {}
    epochs = trainer.get("max_epochs") if isinstance(trainer, dict) else None
    teacher_differs = arguments.get("teacher_epochs") is not None
    if given.get("epochs") is not None or epochs is None or teacher_differs:
        return arguments
    return {**arguments, "scheduler": {**schedule, "init_args": {**given, "epochs": epochs}}}


def pin(config: Config) -> Config:
    """Return ``config`` with the state of what it names but does not hold, so that it is hashed.

    That is, where there is some, third-party code (``third_party``) and the content of a given
    teacher (``given_teacher``). What is pinned already is pinned anew.
    """
    plain = {key: value for key, value in config.items() if key not in PINNED}
    model = plain.get("model")
    settings = model.get("init_args") if isinstance(model, dict) else None
    teacher = settings.get("teacher_checkpoint") if isinstance(settings, dict) else None
    state = {"third_party": code_of(plain), "given_teacher": _content(str(teacher or ""))}
    return {**plain, **{key: value for key, value in state.items() if value}}


@cache
def _content(file: str) -> str | None:
    """Return a digest of a file, None if there is none: the run will say so."""
    there = os.path.isfile(file)  # noqa: PTH113 (Path.is_file raises where a name is too long)
    return file_digest(Path(file), "sha256")[:16] if there else None


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _expand(
    spec: Mapping[str, Any],
    protocols: Mapping[str, Protocol],
    overrides: Mapping[str, Any],
    path: Path,
) -> Iterator[tuple[str, int, dict[str, str], Config]]:
    command = spec.get("command", "fit")
    base: Config = {} if command == "fit" else {"command": command}
    base = merge(base, _base(spec, path))
    for protocol in protocols.values():
        for grid in spec["grids"]:
            common = [
                protocol.overrides,
                _expect(grid.get("overrides"), dict, path, "grids.overrides"),
            ]
            for labels, chosen in _cells(grid, path):
                changed = change(base, [*common, *chosen, overrides], path)
                _check_settings(changed, path)
                config = pin(changed)
                labels = {a: label for a, label in labels.items() if not _left_out(config, a)}
                _check_mask(config, labels, path)
                for seed in protocol.seeds:
                    yield protocol.name, seed, labels, {**config, "seed_everything": seed}


def _check_mask(config: Config, labels: Mapping[str, str], path: Path) -> None:
    """Refuse a feature mask on a teacher that is trained alone: the run would fail."""
    mask, model = (_settings(config.get(name)) for name in ("mask", "model"))
    masked = same_class(_class_path(config.get("mask")), _FEATURE_MASK)
    if masked and mask.get("removes") != "random" and model.get("teacher") == "independent":
        cell = ", ".join(f"{axis}={label}" for axis, label in labels.items()) or "every run"
        raise UserError(
            f"{path}: {cell}: a FeatureMask needs the jointly trained pair; set "
            "model.init_args.teacher: joint (or mask.init_args.removes: random), or exclude it"
        )


def _settings(part: Any) -> Mapping[str, Any]:
    arguments = part.get("init_args") if isinstance(part, dict) else None
    return arguments if isinstance(arguments, dict) else {}


def _class_path(part: Any) -> Any:
    return part.get("class_path") if isinstance(part, dict) else part


def _base(spec: Mapping[str, Any], path: Path) -> Config:
    base: Config = {}
    for file in _files(spec.get("base"), path, "base"):
        base = merge(base, _read(file))
    return base


def _check_settings(value: Any, path: Path, key: str = "") -> None:
    """Refuse a class that is not named by text, and arguments that are no mapping."""
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        where = f"{key}.{name}".lstrip(".")
        if name == "class_path" and item is not None:
            _expect(item, str, path, where)
        if name == "init_args":
            _expect(item, dict, path, where)
        _check_settings(item, path, where)


def _count(value: Any) -> int:
    """Return how many values there are in lists and mappings."""
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list) else 1


def _check_size(spec: Mapping[str, Any], protocols: Mapping[str, Protocol], path: Path) -> None:
    """Refuse grids of too many runs, or of runs too large, before they are expanded."""
    cells = 0
    for entry in spec["grids"]:
        grid = _expect(entry, dict, path, "grids")
        _check_keys(grid, _GRID_KEYS, path, "grids.")
        axes = _expect(grid.get("axes"), dict, path, "grids.axes")
        cells += math.prod(len(_axis(name, values, path)) for name, values in axes.items())
    runs = cells * sum(len(protocol.seeds) for protocol in protocols.values())
    if runs > MAX_RUNS:
        raise UserError(
            f"{path}: {runs} runs (the product of axes and seeds, over all protocols), expected at "
            f"most {MAX_RUNS}: make several experiments of it"
        )
    values = cells * len(protocols) * (_count(spec) + _count(_base(spec, path)))
    if values > _MAX_VALUES:
        raise UserError(
            f"{path}: {cells} cells of a file so large are {values} values to merge, expected at "
            f"most {_MAX_VALUES}: make several experiments of it"
        )


def _cells(grid: Mapping[str, Any], path: Path) -> Iterator[tuple[dict[str, str], list[Config]]]:
    """Yield the labels and the overrides of every combination that is not excluded."""
    given = _expect(grid.get("axes"), dict, path, "grids.axes")
    axes = {name: _axis(name, values, path) for name, values in given.items()}
    entries = _expect(grid.get("exclude"), list, path, "grids.exclude")
    excluded = [_excluded(entry, axes, path) for entry in entries]
    for labels in product(*axes.values()):
        chosen = dict(zip(axes, labels, strict=True))
        if any(all(chosen[a] in values for a, values in entry.items()) for entry in excluded):
            continue
        yield chosen, [axes[axis][label] for axis, label in chosen.items()]


def _left_out(config: Config, key: str) -> bool:
    """Return whether a dotted key lies below one that is null."""
    value: Any = config
    for part in key.split("."):
        if value is None:
            return True
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return False


def _axis(name: str, values: Any, path: Path) -> dict[str, Config]:
    """Return label -> overrides of an axis."""
    if isinstance(values, list) and values:
        return {str(value): {name: value} for value in values}
    if isinstance(values, dict) and values:
        return {
            str(label): _expect(changes, dict, path, f"grids.axes.{name}.{label}")
            for label, changes in values.items()
        }
    raise UserError(
        f"{path}: the axis {_short(name)} is {_kind(values)}: give a list of values for the dotted "
        "key, or labels with the settings that each changes"
    )


def _excluded(
    entry: Any, axes: Mapping[str, Mapping[str, Any]], path: Path
) -> dict[str, list[str]]:
    cells = _expect(entry, dict, path, "grids.exclude")
    chosen = {axis: [str(label) for label in _as_list(labels)] for axis, labels in cells.items()}
    for axis, labels in chosen.items():
        unknown = [label for label in labels if label not in axes.get(axis, {})]
        if unknown:
            named = f"{_short(axis)} {_short(unknown[0])}"
            raise UserError(f"{path}: exclude names {named}, which is no cell")
    return chosen


def _protocol(name: str, value: Any, path: Path) -> Protocol:
    where = f"protocols.{_short(name)}"
    if not re.fullmatch(_NAME, name):
        raise UserError(f"{path}: {where}: the name of a protocol has {_NAME_WORDS}")
    settings = _expect(value, dict, path, where)
    _check_keys(settings, {"seeds", "overrides"}, path, f"{where}.")
    given = settings.get("seeds", 1)
    if type(given) is int and given > MAX_RUNS:
        raise UserError(f"{path}: {where}.seeds is {given}: give at most {MAX_RUNS}")
    seeds = list(range(given)) if type(given) is int else given
    if not (isinstance(seeds, list) and seeds and all(map(_is_seed, seeds))):
        raise UserError(
            f"{path}: {where}.seeds is {_kind(given)}: give how many, or a list of whole numbers "
            f"from 0 to {MAX_SEED}"
        )
    overrides = _expect(settings.get("overrides"), dict, path, f"{where}.overrides")
    return Protocol(name, tuple(seeds), overrides)


def _is_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_SEED


# -- configs -------------------------------------------------------------------------------------


def merge(old: Config, new: Mapping[str, Any]) -> Config:
    """Return ``old`` with ``new`` laid over it; another class takes no old arguments.

    A class is given by its ``class_path``, or by its name alone. Neither argument is changed.
    """
    replaced = "class_path" in new and not same_class(new["class_path"], old.get("class_path"))
    result = {} if replaced else dict(old)
    for key, value in new.items():
        before = result.get(key)
        if isinstance(before, dict) and same_class(value, before.get("class_path")):
            continue
        both = isinstance(value, dict) and isinstance(before, dict)
        result[key] = merge(before, value) if both else deepcopy(value)  # type: ignore[arg-type]
    return result


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
        UserError: a key leads through something that is no mapping, or a file is missing.
    """
    for overrides in changes:
        for file in _files(overrides.get("config"), path, "config"):
            config = merge(config, _read(file))
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
        raise UserError(f"{where}: {first} is {_kind(below)}, so nothing can be set below it")
    return {**config, first: _set(below, rest, value, where)}


def _files(names: Any, path: Path, key: str) -> list[Path]:
    """Return the files that a key names, relative to the experiment's."""
    given = [] if names is None else _as_list(names)
    return [path.parent / _expect(name, str, path, key) for name in given]


@cache
def _read(path: Path) -> Config:
    settings: Config = _expect(read_yaml(path, remedy="give a YAML file"), dict, path, "the file")
    return settings


def _expect(value: Any, kind: type, path: Path, key: str) -> Any:
    """Return a value that must be a mapping, a list or text; null is empty.

    The message does not quote the value: the file may be one that is not the user's to show.
    """
    found: Any = kind() if value is None else value
    if not isinstance(found, kind):
        raise UserError(f"{path}: {key} is {_kind(value)}: give {_KINDS[kind]}")
    return found


def _kind(value: Any) -> str:
    """Return what kind of value it is; whole numbers as they are."""
    if type(value) is int:
        return str(value) if abs(value) < 10**9 else "a large number"
    return _KINDS.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


def _check_keys(given: Iterable[str], valid: set[str], path: Path, where: str) -> None:
    unknown = sorted(set(given) - valid)
    if unknown:
        raise UserError(
            f"{path}: unknown key {where}{_short(unknown[0])}; valid are {', '.join(sorted(valid))}"
        )


def _choice(value: Any, valid: Sequence[str], path: Path, key: str) -> str:
    if value not in valid:
        given = repr(_short(value)) if isinstance(value, str) else _kind(value)
        raise UserError(f"{path}: {key} is {given}: choose from {', '.join(valid)}")
    return str(value)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return the dotted key and the YAML value of ``key=value``.

    Raises:
        UserError: it is no assignment.
    """
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(f"{_short(text)!r} is no setting: write dotted.key=value")
    return key, parse_yaml(value, f"the value of {key}", "write dotted.key=value")
