"""One run of an experiment, in a process that has paid for its imports already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ntdh_bench.errors import UserError
from ntdh_bench.run_hash import PINNED, pin
from ntdh_bench.runs import Run, fit, map_divergence
from ntdh_bench.runs.session import quiet_lightning
from ntdh_bench.runs.summary import print_fit, print_maps

_PINNED_WORDS = {"third_party": "third-party code", "given_teacher": "model.teacher_checkpoint"}
_NOT_SETTINGS = ("command", *PINNED)
# Nobody looks at the bars, and the record holds the curves.
_QUIET = {"enable_progress_bar": False, "logger": False}


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
    settings = {name: value for name, value in config.items() if name not in _NOT_SETTINGS}
    _check_pinned(config)
    settings["trainer"] = {**settings.get("trainer", {}), **_QUIET}
    if settings["trainer"].get("accelerator") != "cpu":
        _check_gpu()
    return _run(settings, config.get("command", "fit"), folder)


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
    """Refuse to attribute to one state of code or of a teacher what another one gives."""
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
