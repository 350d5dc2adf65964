"""Experiments: a base config and grids over it, expanded to runs with stable hashes.

An experiment is a YAML file, ``configs/sweeps/<name>.yaml``::

    title: Table II. KD methods with feature masks on MNIST/MNIST-M
    requires: mnist                 # if given, a data set that must be part of this version
    part_of: table2                 # if given, the experiment whose exhibit shows the runs as well
    base: ../mnist_kd.yaml          # or mnist_kd, which is shipped; or a list, later ones win
    protocols:
      mnist: {seeds: 5}             # seeds 0 to 4; or a list of seeds
      mnist_short: {seeds: 3, overrides: {trainer.max_epochs: 15}}
    default: [mnist]                # protocols that are run unless told; if not given, the first
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
        protocols: [mnist]          # for which the grid is; if not given, for all

Overrides map dotted keys to values, and ``config`` to a file. The files come first, in the order
base, protocol, grid, axes, merged so that another ``class_path`` replaces the old arguments; then
the dotted keys are set in the same order, with the same effect. What lies below a key that is null
is left out, so that "no mask" crossed with ratios is one run. This module imports no torch.

A protocol named ``smoke`` is a trial: its runs are shown, but nothing is tested on them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ntdh_bench.composition import (
    Config,
    arguments_of,
    change,
    expect,
    kind_of,
    read_mapping,
    same_class,
    shipped_files,
    shortened,
    with_files,
)
from ntdh_bench.datasets import dataset_names
from ntdh_bench.errors import UserError
from ntdh_bench.run_hash import pin, run_hashes
from ntdh_bench.suggestions import did_you_mean, nearest

COMMANDS = ("fit", "saliency")
MAX_SEED = 2**32 - 1  # of NumPy's generator
EXTRAS = ("curves", "maps")
_KEYS = {
    "title", "requires", "part_of", "base", "protocols", "default", "keep", "command", "grids",
}  # fmt: skip
# Names become columns of records and names of files.
_NAME, _NAME_WORDS = r"\w[\w.+ -]{0,79}", "letters, digits, _, -, ., + and spaces, at most 80"
_GRID_KEYS = {"overrides", "axes", "exclude", "protocols"}
TRIAL = "smoke"
MAX_RUNS = 20_000  # of an experiment, what is excluded counted
_MAX_VALUES = 10_000_000  # of all configs and exclusions, before they are merged
_MAX_LABEL = 300  # characters, of an axis or a value of one
_FEATURE_MASK = "ntdh_bench.masks.FeatureMask"


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
        requires: name of a data set of ``ntdh-bench data list``, empty if it names none.
        part_of: experiment whose tables, figures and claims its runs belong to; usually itself.
        missing: whether it is not part of this version; then there are no runs.
        protocols: by name.
        default: names of those that are run unless told.
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
    default: tuple[str, ...]
    keep: tuple[str, ...]
    runs: tuple[Run, ...]
    path: Path


def shipped_experiments() -> dict[str, Path]:
    """Return the experiments that come with the package, by name."""
    return {path.stem: path for path in shipped_files("sweeps/*.yaml").values()}


@cache
def load_shipped() -> tuple[Experiment, ...]:
    """Return the experiments that come with the package, parsed once a process, by name."""
    return tuple(map(load_experiment, shipped_experiments().values()))


def find_experiment(name: str) -> Path:
    """Return the file of an experiment given by its path or, if shipped, its name.

    Raises:
        UserError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_experiments()
    if name in shipped:
        return shipped[name]
    asked = name.removesuffix(".yaml").removeprefix("configs/").removeprefix("sweeps/")
    named = ", ".join(nearest(asked, shipped, 3)) or "one of `ntdh-bench config list --sweeps`"
    raise UserError(f"no experiment {name}: give a YAML file or a shipped one, such as {named}")


def load_experiment(path: Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Parse an experiment and expand its runs.

    Args:
        path: its YAML file.
        overrides: dotted keys and values set in every run, after all else.

    Raises:
        UserError: the file or one it names is missing or malformed; the message names the key.
    """
    spec = read_mapping(path)
    _check_keys(spec, _KEYS, path, "")
    if not re.fullmatch(_NAME, path.stem):
        raise UserError(f"{path}: the name of an experiment has {_NAME_WORDS}: rename the file")
    for key, kind in (("title", str), ("protocols", dict), ("grids", list)):
        if not expect(spec.get(key), kind, path, key):
            raise UserError(f"{path}: {key} is missing")
    command = _choice(spec.get("command", "fit"), COMMANDS, path, "command")
    extras = expect(spec.get("keep"), list, path, "keep")
    keep = tuple(_choice(extra, EXTRAS, path, "keep") for extra in extras)
    if "maps" in keep and command != "saliency":
        raise UserError(f"{path}: keep: maps needs command: saliency, which makes them")
    protocols = {name: _protocol(name, value, path) for name, value in spec["protocols"].items()}
    requires = expect(spec.get("requires"), str, path, "requires")
    missing = bool(requires) and requires not in dataset_names()
    runs: tuple[Run, ...] = ()
    if not missing:
        _check_size(spec, protocols, path)
        unique: dict[tuple[str, str], Run] = {}
        for run in _expand(spec, protocols, overrides or {}, path):
            unique.setdefault((run.protocol, run.hash), run)
        runs = tuple(unique.values())
        _check_cells(runs, path)
    part_of = expect(spec.get("part_of", path.stem), str, path, "part_of")
    return Experiment(
        name=path.stem,
        title=spec["title"],
        requires=requires,
        part_of=part_of,
        missing=missing,
        protocols=protocols,
        default=_default(spec, path),
        keep=keep,
        runs=runs,
        path=path,
    )


def _check_cells(runs: Iterable[Run], path: Path) -> None:
    """Refuse two runs of one cell and seed: nothing in the results would tell them apart."""
    cells: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        first = cells.setdefault((run.protocol, run.seed, *sorted(run.labels.items())), run)
        if first is not run:
            differ = [key for key, value in run.config.items() if first.config.get(key) != value]
            cell = ", ".join(f"{axis}={label}" for axis, label in run.labels.items())
            raise UserError(
                f"{path}: two grids have the cell {shortened(cell) or 'without axes'}, but other "
                f"settings ({shortened(', '.join(differ))}): give one an axis that tells them "
                "apart, such as `variant: {other: {}}`"
            )


def _expand(
    spec: Mapping[str, Any],
    protocols: Mapping[str, Protocol],
    overrides: Mapping[str, Any],
    path: Path,
) -> Iterator[Run]:
    command = spec.get("command", "fit")
    base = with_files(
        {} if command == "fit" else {"command": command}, spec.get("base"), path, "base"
    )
    for protocol, grid in product(protocols.values(), spec["grids"]):
        if protocol.name in _protocols_of(grid, protocols, path):
            common = [
                protocol.overrides,
                expect(grid.get("overrides"), dict, path, "grids.overrides"),
            ]
            for labels, chosen in _cells(grid, path):
                changed = change(base, [*common, *chosen, overrides], path)
                _check_settings(changed, path)
                config = pin(changed)
                labels = {a: label for a, label in labels.items() if not _left_out(config, a)}
                _check_joint(config, labels, path)
                hashes = run_hashes(config, protocol.seeds)
                for seed, name in zip(protocol.seeds, hashes, strict=True):
                    yield Run(
                        name, protocol.name, seed, labels, {**config, "seed_everything": seed}
                    )


def _check_joint(config: Config, labels: Mapping[str, str], path: Path) -> None:
    """Refuse what needs a joint pair where the teacher is trained alone: the run would fail."""
    mask, model = (arguments_of(config.get(name)) for name in ("mask", "model"))
    if model.get("teacher") != "independent":
        return
    cell = ", ".join(f"{axis}={label}" for axis, label in labels.items()) or "every run"
    masked = same_class(_class_path(config.get("mask")), _FEATURE_MASK)
    if masked and mask.get("removes") != "random":
        raise UserError(
            f"{path}: {cell}: a FeatureMask needs the jointly trained pair; set "
            "model.init_args.teacher: joint (or mask.init_args.removes: random), or exclude it"
        )
    if model.get("teacher_dist", "kl") != "kl" or model.get("teacher_dist_weight", 1) != 1:
        raise UserError(
            f"{path}: {cell}: teacher_dist and teacher_dist_weight are of a jointly trained pair; "
            "set model.init_args.teacher: joint, or exclude it"
        )


def _class_path(part: Any) -> Any:
    return part.get("class_path") if isinstance(part, dict) else part


def _check_settings(value: Any, path: Path, key: str = "") -> None:
    """Refuse a class that is not named by text, and arguments that are no mapping."""
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        where = f"{key}.{name}".lstrip(".")
        if name == "class_path" and item is not None:
            expect(item, str, path, where)
        if name == "init_args":
            expect(item, dict, path, where)
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
        grid = expect(entry, dict, path, "grids")
        _check_keys(grid, _GRID_KEYS, path, "grids.")
        axes = expect(grid.get("axes"), dict, path, "grids.axes")
        cells += math.prod(len(_axis(name, values, path)) for name, values in axes.items())
    runs = cells * sum(len(protocol.seeds) for protocol in protocols.values())
    if runs > MAX_RUNS:
        raise UserError(
            f"{path}: {runs} runs (the product of axes and seeds, over all protocols), expected at "
            f"most {MAX_RUNS}: make several experiments of it"
        )
    base = with_files({}, spec.get("base"), path, "base")
    values = cells * len(protocols) * (_count(spec) + _count(base))
    if values > _MAX_VALUES:
        raise UserError(
            f"{path}: {cells} cells of a file so large are {values} values to merge, expected at "
            f"most {_MAX_VALUES}: make several experiments of it"
        )


def _cells(grid: Mapping[str, Any], path: Path) -> Iterator[tuple[dict[str, str], list[Config]]]:
    """Yield the labels and the overrides of every combination that is not excluded."""
    given = expect(grid.get("axes"), dict, path, "grids.axes")
    axes = {name: _axis(name, values, path) for name, values in given.items()}
    entries = expect(grid.get("exclude"), list, path, "grids.exclude")
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


def _protocols_of(
    grid: Mapping[str, Any], protocols: Mapping[str, Protocol], path: Path
) -> list[str]:
    """Return the protocols that a grid is for."""
    given = expect(grid.get("protocols"), list, path, "grids.protocols") or protocols
    return [_choice(name, list(protocols), path, "grids.protocols") for name in given]


def _axis(name: str, values: Any, path: Path) -> dict[str, Config]:
    """Return label -> overrides of an axis."""
    if not values or not isinstance(values, list | dict):
        raise UserError(
            f"{path}: the axis {shortened(str(name))} is {kind_of(values)}: give a list of values "
            "for the dotted key, or labels with the settings that each changes"
        )
    if not all(map(is_label, (name, *map(str, values)))):
        raise UserError(
            f"{path}: the axis {shortened(str(name))}: a name or a value is no line of text of at "
            f"most {_MAX_LABEL} characters; give values a short label: `label: {{key: value}}`"
        )
    if isinstance(values, list):
        return {str(value): {name: value} for value in values}
    return {
        str(label): expect(changes, dict, path, f"grids.axes.{name}.{label}")
        for label, changes in values.items()
    }


def is_label(text: Any) -> bool:
    """Return whether an axis, or a label on it, can stand in a row: a line of text, not long."""
    return isinstance(text, str) and len(text) <= _MAX_LABEL and text.isprintable()


def _excluded(
    entry: Any, axes: Mapping[str, Mapping[str, Any]], path: Path
) -> dict[str, list[str]]:
    cells = expect(entry, dict, path, "grids.exclude")
    listed = {axis: x if isinstance(x, list) else [x] for axis, x in cells.items()}
    chosen = {axis: list(map(str, labels)) for axis, labels in listed.items()}
    for axis, labels in chosen.items():
        unknown = [label for label in labels if label not in axes.get(axis, {})]
        if unknown:
            named = f"{shortened(axis)} {shortened(unknown[0])}"
            raise UserError(f"{path}: exclude names {named}, which is no cell")
    return chosen


def _protocol(name: str, value: Any, path: Path) -> Protocol:
    where = f"protocols.{shortened(name)}"
    if not re.fullmatch(_NAME, name):
        raise UserError(f"{path}: {where}: the name of a protocol has {_NAME_WORDS}")
    settings = expect(value, dict, path, where)
    _check_keys(settings, {"seeds", "overrides"}, path, f"{where}.")
    given = settings.get("seeds", 1)
    if type(given) is int and given > MAX_RUNS:
        raise UserError(f"{path}: {where}.seeds is {given}: give at most {MAX_RUNS}")
    seeds = list(range(given)) if type(given) is int else given
    if not (isinstance(seeds, list) and seeds and all(map(is_seed, seeds))):
        raise UserError(
            f"{path}: {where}.seeds is {kind_of(given)}: give how many, or a list of whole numbers "
            f"from 0 to {MAX_SEED}"
        )
    overrides = expect(settings.get("overrides"), dict, path, f"{where}.overrides")
    return Protocol(name, tuple(seeds), overrides)


def _default(spec: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the protocols that are run unless told, each once."""
    names = list(spec["protocols"])
    given = expect(spec.get("default"), list, path, "default") or names[:1]
    return tuple(dict.fromkeys(_choice(name, names, path, "default") for name in given))


def is_seed(value: Any) -> bool:
    """Return whether a value is one that `seed_everything` takes."""
    return type(value) is int and 0 <= value <= MAX_SEED


def _check_keys(given: Iterable[str], valid: set[str], path: Path, where: str) -> None:
    unknown = sorted(set(given) - valid)
    if unknown:
        named = unknown[0] if re.fullmatch(r"[\w.-]{1,40}", unknown[0]) else "(no word)"
        hint = did_you_mean(unknown[0], sorted(valid))
        raise UserError(
            f"{path}: unknown key {where}{named}; {hint}valid are {', '.join(sorted(valid))}"
        )


def _choice(value: Any, valid: Sequence[str], path: Path, key: str) -> str:
    if value not in valid:
        given = repr(shortened(value)) if isinstance(value, str) else kind_of(value)
        hint = did_you_mean(value, valid) if isinstance(value, str) else ""
        raise UserError(f"{path}: {key} is {given}: {hint}choose from {', '.join(valid)}")
    return str(value)
