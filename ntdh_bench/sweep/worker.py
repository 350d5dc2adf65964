"""One run of an experiment, or a stack of them, in a process that has its imports already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ntdh_bench.errors import UserError
from ntdh_bench.run_hash import PINNED, pin
from ntdh_bench.runs import Run, fit, map_divergence
from ntdh_bench.runs.session import quiet_lightning
from ntdh_bench.runs.stacks import fit_stack
from ntdh_bench.runs.summary import print_fit, print_maps

_PINNED_WORDS = {
    "third_party": "third-party code",
    "given_teacher": "model.teacher_checkpoint",
    "own_data": "data.file",
}
_NOT_SETTINGS = ("command", *PINNED)
# Nobody looks at the bars, and the record holds the curves.
_QUIET = {"enable_progress_bar": False, "logger": False}


def run_configs(configs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any] | UserError]:
    """Run a config, or several as one stack; returns the records, or why a member has none.

    Args:
        configs: what :func:`run_config` takes; of several, those that may share a stack.
        folder: for checkpoints and other files; of a stack, what an interrupted one left of it.

    Raises:
        UserError: the run, or the stack as a whole, cannot be done.
    """
    if len(configs) == 1:
        return [run_config(configs[0], folder)]
    with quiet_lightning():
        parsed = parse_all(configs, folder)
        runs = [run for run in parsed if isinstance(run, Run)]
        results = iter(fit_stack(runs, folder) if runs else ())
    return [next(results) if isinstance(each, Run) else each for each in parsed]


def parse_all(configs: Sequence[dict[str, Any]], folder: Path) -> list[Run | UserError]:
    """Return the run of every config, or why it is refused."""
    parsed: list[Run | UserError] = []
    for number, config in enumerate(configs):
        try:
            parsed.append(Run.parse("fit", config=_settings(config), folder=folder / str(number)))
        except UserError as error:
            parsed.append(error)
    return parsed


def run_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a config as ``ntdh-bench fit`` (or its ``command``) would, and return the record.

    A student without KD is trained once for all runs that share it.

    Args:
        config: what ``--config`` takes; ``command`` may be ``saliency``; what is pinned must
            be as it was.
        folder: empty, for checkpoints and other files of the run.

    Raises:
        UserError: what the command refuses; or the worker's GPU cannot be used, or what
            is pinned has changed.
    """
    return _run(_settings(config), config.get("command", "fit"), folder)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return what ``--config`` takes, once it is sure that this worker can do it."""
    settings = {name: value for name, value in config.items() if name not in _NOT_SETTINGS}
    _check_pinned(config)
    settings["trainer"] = {**settings.get("trainer", {}), **_QUIET}
    if settings["trainer"].get("accelerator") != "cpu":
        _check_gpu()
    return settings


def _run(settings: dict[str, Any], command: str, folder: Path) -> dict[str, Any]:
    with quiet_lightning():
        run = Run.parse(command, config=settings, folder=folder)
        if command == "saliency":
            record, paths = map_divergence(run)
            print_maps(run, record, paths)
        else:
            record = fit(run, record=False, share_control=True)
            print_fit(run, record, recorded=False)
    return record


def _check_pinned(config: dict[str, Any]) -> None:
    """Refuse to attribute to one state of code, of a teacher or of data what another one gives."""
    found = pin(config)
    for key in PINNED:
        if found.get(key) != config.get(key):
            raise UserError(
                f"{_PINNED_WORDS[key]} is not what it was where the sweep started: it was changed, "
                "or differs between machines; run the same sweep again"
            )


def _check_gpu() -> None:
    """Refuse to train on the CPU what was given a GPU."""
    assigned = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if assigned not in ("", "-1") and not torch.cuda.is_available():
        raise UserError(
            f"GPU {assigned} is there, but torch {torch.__version__} cannot use it: repair the "
            "driver or install torch for CUDA, or train on the CPU with CUDA_VISIBLE_DEVICES=-1"
        )
