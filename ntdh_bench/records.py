"""One record per run: what was run, on what, and what came out."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ntdh_bench import __version__
from ntdh_bench.cache import digest, write_atomic

SCHEMA = 1
_PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "scikit-learn")
_DISTILLATION_ONLY = (
    "distiller", "task_weight", "distill_weight", "lam", "teacher", "teacher_network",
    "teacher_epochs",
)  # fmt: skip


def config_hash(identity: dict[str, Any]) -> str:
    """Return the hash of the settings that results depend on."""
    return digest(identity)


def baseline_hash(identity: dict[str, Any]) -> str:
    """Return the hash of what a run shares with the same student trained without KD."""
    init_args = identity["model"].get("init_args", {})
    student = {name: init_args[name] for name in init_args if name not in _DISTILLATION_ONLY}
    return digest({**identity, "model": student, "mask": None, "given_teacher": None})


def arm(identity: dict[str, Any]) -> str:
    """Return ``kd``, ``without_kd`` (task weight 1), ``matched`` (a larger one) or ``single``."""
    init_args = identity["model"].get("init_args", {})
    if "distiller" not in init_args:
        return "single"
    if init_args["distiller"] is not None:
        return "kd"
    return "without_kd" if init_args.get("task_weight") == 1 else "matched"


def environment() -> dict[str, Any]:
    """Return the versions, the device and the git commit that a run used."""
    import torch

    versions = {"ntdh-bench": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "versions": versions,
        "device": torch.cuda.get_device_name() if cuda else platform.machine() + " CPU",
        "cores": os.cpu_count(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the checkout this code runs from, ``+`` if it was changed."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps({"schema": SCHEMA, **record}, indent=2) + "\n")


def read_records(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the readable records of this schema in ``root/*/record.json``, oldest first."""
    for path in sorted(root.glob("*/record.json")):
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.get("schema") == SCHEMA:
            yield record


def find_without_kd(root: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the latest record in ``root`` of the same student trained without KD, if any."""
    wanted = baseline_hash(identity)
    found = None
    for record in read_records(root):
        if record.get("arm") == "without_kd" and record.get("baseline_hash") == wanted:
            found = record
    return found
