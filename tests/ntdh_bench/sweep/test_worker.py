from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ntdh_bench.composition import find_config, read_config
from ntdh_bench.errors import UserError
from ntdh_bench.run_hash import pin
from ntdh_bench.runs import Run
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


def stack_settings(seed: int, **changes: Any) -> dict[str, Any]:
    settings = read_config(find_config("quickstart"))
    return {**settings, "seed_everything": seed, "trainer": {"accelerator": "cpu"}, **changes}


def test_members_of_a_stack_are_parsed_and_one_that_is_refused_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Run] = []

    def fit_stack(runs: Sequence[Run], folder: Path) -> list[dict[str, Any] | UserError]:
        given.extend(runs)
        assert folder == tmp_path
        return [{"seed": runs[0].config["seed_everything"]}, UserError("the loss is not finite")]

    monkeypatch.setattr(worker, "fit_stack", fit_stack)
    monkeypatch.setattr(worker, "fit", lambda *words, **more: pytest.fail("not alone"))
    configs = [
        stack_settings(3), stack_settings(4, trainer={"max_epoch": 1}),
        stack_settings(5, third_party={"own.DIST": "changed"}), stack_settings(6),
    ]  # fmt: skip
    first, refused, pinned, last = worker.run_configs(configs, tmp_path)
    assert first == {"seed": 3}
    assert "max_epoch" in str(refused)
    assert "third-party code is not what it was" in str(pinned)
    assert str(last) == "the loss is not finite"
    assert [run.config["seed_everything"] for run in given] == [3, 6]
    for run in given:
        assert (run.trainer["logger"], run.trainer["enable_progress_bar"]) == (False, False)
    assert worker.run_configs([configs[1]] * 2, tmp_path)[0].args == refused.args  # type: ignore[union-attr]
    assert len(given) == 2


def test_one_config_is_no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "run_config", lambda config, folder: {"of": config})
    assert worker.run_configs([{"a": 1}], tmp_path) == [{"of": {"a": 1}}]


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
