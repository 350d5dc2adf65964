from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ntdh_bench.errors import UserError
from ntdh_bench.sweep import worker


def test_a_gpu_that_cannot_be_used_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not hours on the CPU; the records would not say that a GPU was meant."""
    started: list[object] = []
    monkeypatch.setattr(worker, "run_command", started.append)
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
