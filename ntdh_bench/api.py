"""Runs from Python: what ``ntdh-bench fit`` does, by the same code, with a result to go on with."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng

from ntdh_bench import runs
from ntdh_bench.checkpoints import read_checkpoint
from ntdh_bench.composition import Config, find_config, merge
from ntdh_bench.errors import UserError
from ntdh_bench.parsing.configs import read_configs
from ntdh_bench.records.files import find_controls, gain
from ntdh_bench.runs.session import quiet_lightning

#: A config: the name of a shipped one, a YAML file, or what such a file holds.
Settings: TypeAlias = str | Path | Mapping[str, Any]

_END_OF_SCALAR = "\n...\n"  # what PyYAML writes after one that is a whole document
# What Lightning sets: the seed, and trainer.deterministic.
_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG")


@dataclass(frozen=True)
class Result:
    """What a run has trained and measured.

    Attributes:
        folder: what the run left: checkpoints, teacher, settings, record, log.
        metrics: of the student after the last epoch on test data, by name: shares in [0, 1],
            divergences from the teacher in nats.
        best: those of the epoch that was best on validation data, if there is one.
        gains: of a run with KD: accuracy (or mean IoU) of the last epoch minus that of each control
            with these settings that lies in the same ``run_dir``, the latest of each, by its name:
            ``without_kd``, ``equal_task``, ``matched``.
        record: all that was measured, with settings, hashes, versions and curves, as in
            ``record.json``.
        module: what was trained, after its last epoch, on the CPU and in eval mode; called with the
            student's inputs it returns logits.
    """

    folder: Path
    metrics: dict[str, float]
    best: dict[str, float] | None = field(repr=False)
    gains: dict[str, float]
    record: dict[str, Any] = field(repr=False)
    module: LightningModule = field(repr=False)


def fit(configs: Settings | Sequence[Settings], flags: Mapping[str, Any] | None = None) -> Result:
    """Train teacher and student as ``ntdh-bench fit`` does, test both, and return what came of it.

    ::

        result = ntdh_bench.fit("mnist_kd", {"data.source": "simulated", "trainer.max_epochs": 5})
        result.metrics["accuracy"]

    Wherever a config names a class, the class itself may stand, and :func:`functools.partial` of it
    with its arguments: ``{"model.distiller": partial(DKD, beta=4.0)}``.

    Random numbers, signal handlers, warnings, log levels and settings of PyTorch are as before when
    it returns or raises. It shows a progress bar, unless ``trainer.enable_progress_bar`` is False,
    and prints no results.

    Args:
        configs: one, or several merged in that order, later ones win.
        flags: over these, what the flags of the command take, by their names:
            ``seed_everything``, ``run_dir``, ``model.distiller.temperature``, ``mask.ratio`` ...

    Raises:
        UserError: a setting is wrong, or the run cannot be done as they say; one line.
        KeyboardInterrupt: it was interrupted; the message says how to go on.
    """
    with _nothing_else_changed(), quiet_lightning():
        run = runs.Run.parse("fit", _words(flags or {}), config=_merged(configs))
        record = runs.fit(run)
        if run.keeps_checkpoints:  # the best epoch was tested after the last one
            run.model.load_state_dict(read_checkpoint(run.last_checkpoint)["state_dict"])
    measured = record["metrics"]
    best = measured["best"] and measured["best"]["test"]
    gains = _gains(record, run.folder.parent)
    return Result(run.folder, measured["last"]["test"], best, gains, record, run.model.eval())


def _gains(record: Mapping[str, Any], run_dir: Path) -> dict[str, float]:
    """Return what the student has over that of each control in a folder of runs."""
    if record["arm"] != "kd":
        return {}
    controls = find_controls(run_dir, record["config"]).values()
    return {control["arm"]: gain(record, control) for control in controls}


# -- settings ------------------------------------------------------------------------------------


def _merged(configs: Settings | Sequence[Settings]) -> Config:
    listed = [configs] if isinstance(configs, (str, Path, Mapping)) else configs
    merged: Config = {}
    for config in listed:
        if isinstance(config, Mapping):
            settings = _plain(config, "the config")
        else:
            settings = read_configs([find_config(str(config))])
        merged = merge(merged, settings)
    return merged


def _words(flags: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line with these flags."""
    words = []
    for name, value in flags.items():
        if name in ("no_cache", "no-cache"):  # the one flag without a value
            words += ["--no-cache"] if value else []
            continue
        plain = _plain(value, name)
        text = plain if isinstance(plain, str) else yaml.safe_dump(plain, default_flow_style=True)
        words.append(f"--{name}={text.removesuffix(_END_OF_SCALAR)}")
    return words


def _plain(value: Any, key: str) -> Any:
    """Return a setting as a YAML file would hold it: classes and functions by their names."""
    if isinstance(value, functools.partial):
        return {"class_path": _path(value.func, key), "init_args": _arguments(value, key)}
    if inspect.isclass(value) or inspect.isroutine(value):
        return _path(value, key)
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{key}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    kind = type(value).__name__
    raise UserError(
        f"{key} is a {kind} that was made already: a run is named by its settings, so give "
        f"functools.partial({kind}, ...) with them, or plain values"
    )


def _arguments(part: functools.partial[Any], key: str) -> Config:
    try:
        in_order = inspect.signature(part.func).bind_partial(*part.args).arguments
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {error}: give the arguments by name") from None
    given = {**in_order, **part.keywords}
    return {name: _plain(item, f"{key}.{name}") for name, item in given.items()}


def _path(component: Callable[..., Any], key: str) -> str:
    """Return the shortest name under which a class or function is found."""
    name, home = getattr(component, "__qualname__", ""), str(getattr(component, "__module__", ""))
    parts = home.split(".")
    for number in range(len(parts)):
        module = ".".join(parts[: number + 1])
        if name and getattr(sys.modules.get(module), name, None) is component:
            return f"{module}.{name}"
    raise UserError(
        f"{key} is {name or type(component).__name__}, which cannot be found again by its name: "
        "define it at the top of a module, and give a class or a function"
    )


# -- state of the process ------------------------------------------------------------------------


@contextmanager
def _nothing_else_changed() -> Iterator[None]:
    """Leave random numbers, environment variables and PyTorch's settings as they were."""
    generators = isolate_rng()
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    generators.__enter__()
    try:
        yield
    finally:
        generators.__exit__(None, None, None)  # by hand: after an error it would do nothing
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
