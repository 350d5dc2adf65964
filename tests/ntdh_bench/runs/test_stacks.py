"""Runs trained as one stack against the same runs one by one: simulated MNIST, float32."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ntdh_bench.cache import seal
from ntdh_bench.contract import BenchModule
from ntdh_bench.errors import NotStackable, UserError
from ntdh_bench.runs import stacks
from ntdh_bench.runs.stacks import TooLarge
from tests.helpers import batched_products_are_exact
from tests.ntdh_bench.runs.running import alone, together

METHODS = ("KD", "FitNet", "CRD", "RKD", "PKT", "SP", "DKD", "WeightedKL", "VID")
FEATURE_MASKS = [
    ["--mask", "FeatureMask", "--mask.ratio", ratio, "--mask.removes", removes]
    for ratio, removes in (
        ("0.25", "most_divergent"),
        ("0.5", "least_divergent"),
        ("0.5", "random"),
    )
]
SAMPLE_MASKS = [
    ["--mask", "SampleMask", "--mask.ratio", "0.25", "--mask.removes", removes]
    for removes in ("most_divergent", "random")
]
CONTROLS = [
    ["--model.distiller", "null", "--model.task_weight", weight] for weight in ("1.0", "1.5", "0.5")
]


def method(name: str) -> list[str]:
    words = ["--model.distiller", name]
    if name not in ("KD", "DKD", "WeightedKL"):
        words += ["--model.distiller.layer", "hidden2", "--model.distiller.weight", "1.0"]
    if name == "CRD":
        words += ["--model.distiller.negatives", "64", "--model.distiller.feat_dim", "8"]
    return words


def settings(*words: str, seed: int = 0, epochs: int = 2) -> list[str]:
    return [
        "--config", "configs/mnist_kd.yaml", "--data.source", "simulated",
        "--data.simulated_train", "400", "--data.simulated_test", "100",
        "--model.teacher_network.hidden", "[24,16]", "--model.student_network.hidden", "[20,16]",
        "--model.optimizer.lr", "0.05", "--trainer.max_epochs", str(epochs),
        "--trainer.accelerator", "cpu", "--trainer.logger", "false",
        "--trainer.enable_progress_bar", "false", "--seed_everything", str(seed), *words,
    ]  # fmt: skip


def every_run() -> list[list[str]]:
    """All methods with all masks, and both controls with feature masks, in two seeds."""
    words = [
        method(name) + mask for name in METHODS for mask in ([], *FEATURE_MASKS, *SAMPLE_MASKS)
    ]
    words += [control + mask for control in CONTROLS for mask in ([], *FEATURE_MASKS)]
    return [settings(*each, seed=number % 2) for number, each in enumerate(words)]


def some_runs() -> list[list[str]]:
    """Every method and every mask once, and both controls."""
    filled = [[*FEATURE_MASKS[0], "--mask.fill", fill] for fill in ("rescale", "mean")]
    masks: list[list[str]] = [[], *FEATURE_MASKS, *SAMPLE_MASKS, *filled, []]
    words = [method(name) + mask for name, mask in zip(METHODS, masks, strict=True)]
    words += [CONTROLS[0], CONTROLS[1] + FEATURE_MASKS[0]]
    words += [CONTROLS[0] + mask for mask in SAMPLE_MASKS]
    return [settings(*each, seed=number % 2) for number, each in enumerate(words)]


# What differs though runs are the same: where and when, what was there, and what is shared.
_OF_TIME = {"created", "seconds", "stack", "from_cache", "teacher"}


def assert_equal(found: Any, wanted: Any, where: str = "") -> None:
    """Plain values are equal, numbers within 1e-6."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for name in wanted:
            assert_equal(found[name], wanted[name], f"{where}.{name}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6), where
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for number, value in enumerate(wanted):
            assert_equal(found[number], value, f"{where}.{number}")
    else:
        assert found == wanted, where


def assert_records(found: Sequence[Any], wanted: Sequence[dict[str, Any]]) -> None:
    for stacked, single in zip(found, wanted, strict=True):
        assert isinstance(stacked, dict), stacked
        assert stacked["stack"] == len(found)
        assert_equal(
            {name: value for name, value in stacked.items() if name not in _OF_TIME},
            {name: value for name, value in single.items() if name not in _OF_TIME},
        )


class Killed(BaseException):
    """What stands for kill -9 here."""


def kill_at(monkeypatch: pytest.MonkeyPatch, file: str, epoch: int, batch: int) -> None:
    """End the training of a stack in a batch; until then every epoch is kept."""
    monkeypatch.setattr(stacks, "_SECONDS", 0.0)

    def end(self: Any, trainer: Any, pl_module: Any, outputs: Any, batch_: Any, idx: int) -> None:
        if self._path.name == file and (trainer.current_epoch, idx) == (epoch, batch):
            raise Killed

    monkeypatch.setattr(stacks.StackCheckpoint, "on_train_batch_end", end, raising=False)


def after(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let checkpoints say that their stack took so much longer."""
    save = stacks.StackCheckpoint.on_save_checkpoint

    def later(self: Any, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        save(self, trainer, pl_module, checkpoint)
        checkpoint["seconds"] += seconds

    monkeypatch.setattr(stacks.StackCheckpoint, "on_save_checkpoint", later)


@pytest.mark.parametrize(
    "runs", [some_runs, pytest.param(every_run, marks=pytest.mark.slow)], ids=["some", "every"]
)
def test_records_are_those_of_the_runs_alone(runs: Any, tmp_path: Path) -> None:
    words = runs()
    found = together(words, tmp_path / "stack")
    wanted = [alone(each, tmp_path / f"{n}") for n, each in enumerate(words)]
    assert_records(found, wanted)


@pytest.mark.parametrize(("file", "epoch"), [("teachers.ckpt", 1), ("students.ckpt", 2)])
def test_a_killed_stack_goes_on_and_ends_the_same(
    file: str, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "whole"))
    words = [[*each, "--trainer.max_epochs", "4"] for each in some_runs()[2::3]]
    wanted = together(words, tmp_path / "uninterrupted")
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        kill_at(patch, file, epoch, batch=1)
        after(patch, seconds=1000.0)
        with pytest.raises(Killed):
            together(words, tmp_path / "stack")
    begun: list[int] = []
    monkeypatch.setattr(
        stacks.StackCheckpoint,
        "on_train_start",
        lambda self, trainer, module: begun.append(trainer.current_epoch),
        raising=False,
    )
    found = together(words, tmp_path / "stack")
    assert epoch in begun
    assert_records(found, [{**record, "stack": len(words)} for record in wanted])
    assert all(1000 < record["seconds"] * len(words) < 1500 for record in found)


def test_a_damaged_checkpoint_is_said_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "students.ckpt").write_bytes(b"no checkpoint")
    words = [settings(*method("KD"), seed=seed, epochs=1) for seed in (0, 1)]
    assert_records(
        together(words, tmp_path / "stack"),
        [alone(each, tmp_path / f"{n}") for n, each in enumerate(words)],
    )
    assert "trained anew" in capsys.readouterr().err


def test_failures_are_of_one_run_and_in_the_words_of_a_run_alone(tmp_path: Path) -> None:
    bad = settings(*method("KD"), "--model.distill_weight", "1e38", epochs=1)
    bad += ["--model.distiller.weight", "1e38"]
    unmasked = settings(*method("KD"), *FEATURE_MASKS[0], "--mask.layer", "hidden9", epochs=1)
    good = settings(*method("KD"), epochs=1)
    found = together([bad, good, unmasked], tmp_path / "stack")
    for words, failure in ((bad, found[0]), (unmasked, found[2])):
        with pytest.raises(UserError) as error:
            alone(words, tmp_path / "alone")
        assert isinstance(failure, UserError)
        assert str(error.value).startswith(str(failure)[:60])
    assert_equal(found[1]["metrics"], alone(good, tmp_path / "good")["metrics"])


def test_a_random_mask_is_not_taken_for_a_saliency_of_one_permutation(tmp_path: Path) -> None:
    ranked = [*FEATURE_MASKS[0], "--mask.permutations", "1"]
    words = [settings(*method("KD"), *mask, epochs=1) for mask in (FEATURE_MASKS[2], ranked)]
    found = together(words, tmp_path / "stack")
    assert_records(found, [alone(each, tmp_path / f"{n}") for n, each in enumerate(words)])


def test_a_teacher_that_cannot_be_had_fails_its_own_runs(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(b"no checkpoint")
    words = [
        settings(*method("KD"), "--model.teacher_checkpoint", str(path), epochs=1)
        for path in (damaged, tmp_path / "missing.ckpt")
    ]
    *failures, record = together([*words, settings(*method("KD"), epochs=1)], tmp_path / "stack")
    for failure, name in zip(failures, ("damaged.ckpt", "missing.ckpt"), strict=True):
        assert isinstance(failure, UserError)
        assert name in str(failure)
    assert isinstance(record, dict)


def test_students_do_not_go_on_with_another_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    words = [settings(*method("KD"), seed=seed, epochs=3) for seed in (0, 1)]
    with monkeypatch.context() as patch:
        kill_at(patch, "students.ckpt", 1, batch=0)
        with pytest.raises(Killed):
            together(words, tmp_path / "stack")
    first, second = sorted((tmp_path / "cache" / "teachers").glob("*.ckpt"))
    shutil.copyfile(first, second)  # as if it had been trained anew elsewhere
    seal(second, second)
    wanted = together(words, tmp_path / "anew")
    found = together(words, tmp_path / "stack")
    assert_records(found, wanted)


def test_memory_that_runs_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 B")

    monkeypatch.setattr(stacks, "_fit_students", full)
    with pytest.raises(TooLarge, match="a stack of 2 runs needs more memory"):
        together([settings(*method("KD"), epochs=1)] * 2, tmp_path)


def test_what_draws_from_the_global_generator_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: Any) -> None:
        torch.rand(1)  # as an augmentation or a dropout in a distiller does

    monkeypatch.setattr(stacks.StackCheckpoint, "on_train_batch_start", draw, raising=False)
    with pytest.raises(NotStackable, match="draw from the global generator"):
        together([settings(*method("KD"), seed=seed, epochs=1) for seed in (0, 1)], tmp_path)


def test_modules_without_a_stacked_form_are_refused() -> None:
    with pytest.raises(NotStackable, match="BenchModule has no stacked form"):
        BenchModule().stack([], [])


@pytest.mark.parametrize("fusion", ["LateFusion", "ConcatFusion", "GatedFusion"])
def test_teachers_of_both_modalities(
    fusion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ["--model.teacher_inputs", "both", "--model.teacher_fusion", fusion]
    masked = ["--mask", "FeatureMask", "--mask.ratio", "0.5", "--mask.layer", "hidden2"]
    words = [
        settings(*method("KD"), *both, *masked),
        settings(*method("FitNet"), *both, seed=1),
        settings(*CONTROLS[0], *both),
    ]
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "stacked"))
    found = together(words, tmp_path / "together")
    if batched_products_are_exact():  # else teachers that are trained twice have other hashes
        monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "single"))
    assert_records(found, [alone(run, tmp_path / str(n)) for n, run in enumerate(words)])


def test_teachers_of_other_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distance and weight are the teacher's alone: of one seed the students without KD are one."""
    dists = [[], ["0"], ["10", "--model.teacher_dist", "ncjsd"]]
    flags = [["--model.teacher_dist_weight", *dist] if dist else [] for dist in dists]
    words = [settings(*CONTROLS[0], *dist) for dist in flags]
    words += [settings(*method("KD"), *dist) for dist in flags]
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "stacked"))
    found = together(words, tmp_path / "together")
    if batched_products_are_exact():
        monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "single"))
    assert_records(found, [alone(run, tmp_path / str(n)) for n, run in enumerate(words)])
    assert len({record["teacher_hash"] for record in found}) == 3
    assert len({record["baseline_hash"] for record in found}) == 1
    measured = [record["metrics"]["last"]["test"] for record in found[:3]]
    assert len({each["accuracy"] for each in measured}) == 1
    assert len({each["ncjsd"] for each in measured}) == 3
