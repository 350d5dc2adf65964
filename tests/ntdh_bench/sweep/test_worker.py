from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ntdh_bench.errors import UserError
from ntdh_bench.run_hash import pin
from ntdh_bench.sweep import worker


def test_a_gpu_that_cannot_be_used_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not hours on the CPU; the records would not say that a GPU was meant."""
    started: list[object] = []
    monkeypatch.setattr(worker, "_run", lambda *words: started.append(words))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(UserError, match=r"GPU 1 is there, but torch .* cannot use it"):
        worker.run_config({}, tmp_path)
    assert not started
    worker.run_config({"trainer": {"accelerator": "cpu"}}, tmp_path)
    for visible in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        worker.run_config({}, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    worker.run_config({}, tmp_path)
    assert len(started) == 4


def test_a_run_of_other_code_than_the_sweeps_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_module: Callable[[str, str], Path]
) -> None:
    """A worker that starts after an edit would record new code under the old run."""
    started: list[object] = []
    monkeypatch.setattr(worker, "_run", lambda *words: started.append(words))
    write_module("own_kd.py", "class DIST:\n    weight = 1\n")
    config = pin({"trainer": {"accelerator": "cpu"}, "model": {"class_path": "own_kd.DIST"}})
    worker.run_config(config, tmp_path)
    write_module("own_kd.py", "class DIST:\n    weight = 2\n")
    with pytest.raises(UserError, match="third-party code is not what it was"):
        worker.run_config(config, tmp_path)
    worker.run_config(pin(config), tmp_path)
    assert len(started) == 2
