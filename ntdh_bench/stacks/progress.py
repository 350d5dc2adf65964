"""How far a stack is, told through a file in its folder. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import FileError
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json

_FILE = "progress.json"
_MAX_BYTES = 1 << 10
_STAGES = ("teachers", "references", "students")


def tell(folder: Path, stage: str, epoch: int, epochs: int | None) -> None:
    """Write what is trained, and how many epochs of it are done."""
    with write_atomic(folder / _FILE) as temporary:
        temporary.write_text(json.dumps({"stage": stage, "epoch": epoch, "epochs": epochs or 0}))


def told(folder: Path) -> str:
    """Return how far the stack in a folder is, in a few words; empty if nothing is told."""
    try:
        found: Any = read_json(folder / _FILE, _MAX_BYTES)
    except FileError:
        return ""
    if mismatch(found, {"stage": str, "epoch": int, "epochs": int}) is not None:
        return ""
    if found["stage"] not in _STAGES:
        return ""
    of = f" of {found['epochs']}" if found["epochs"] > 0 else ""
    return f"{found['stage']}, epoch {found['epoch']}{of}"
