from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

from ntdh_bench.sweep.execution import execute


class Trainer:
    def __init__(self) -> None:
        self.model = self  # as a Trainer, its model and its data refer to each other


def test_what_a_run_leaves_behind_is_freed(tmp_path: Path) -> None:
    """Else hundreds of runs in one worker keep the data of all of them."""
    left: list[weakref.ref[Trainer]] = []

    def run(configs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
        left.append(weakref.ref(Trainer()))
        return [{}]

    gc.disable()
    try:
        execute(run, [{}], tmp_path / "run", tmp_path / "log", keep=False)
        assert left[0]() is None
    finally:
        gc.enable()
