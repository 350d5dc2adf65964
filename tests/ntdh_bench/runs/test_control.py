from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ntdh_bench.composition import change, read_config
from ntdh_bench.runs import Run, control, fitting
from ntdh_bench.sweep.worker import run_config

MASK = {"class_path": "FeatureMask", "init_args": {"layer": "input", "ratio": 0.5}}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    loaded = read_config(Path("configs/synthetic_converged.yaml"))
    short = {"trainer.max_epochs": 2, "data.init_args.steps_per_epoch": 5}
    return change(loaded, [{**short, "model.init_args.distiller": None}], Path())


def run(config: dict[str, Any], folder: Path, **changes: Any) -> dict[str, Any]:
    folder.mkdir()
    return run_config({**config, **changes}, folder)


def test_the_control_is_trained_once_and_measured_against_every_teacher(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train = fitting.train_student
    monkeypatch.setattr(fitting, "train_student", lambda *given: (trained.append(1), train(*given)))
    first = run(config, tmp_path / "a")
    again = run(config, tmp_path / "b")
    masked = run(config, tmp_path / "c", mask=MASK)
    assert len(trained) == 1
    assert first["metrics"] == again["metrics"]
    assert first["epochs"] == again["epochs"] == 2
    assert len(again["curves"]["accuracy"]) == 2
    for checkpoint in ("last", "best"):
        here, there = first["metrics"][checkpoint]["test"], masked["metrics"][checkpoint]["test"]
        assert here["accuracy"] == there["accuracy"]
        assert here["ncjsd"] != there["ncjsd"]
    assert first["baseline_hash"] == masked["baseline_hash"]
    run(config, tmp_path / "d", seed_everything=1)
    run(change(config, [{"model.init_args.task_weight": 2.0}], Path()), tmp_path / "e")
    assert len(trained) == 3
    half = change(config, [{"model.init_args.task_weight": 0.5}], Path())
    equal = run(half, tmp_path / "f")
    assert run({**half, "mask": MASK}, tmp_path / "g")["arm"] == equal["arm"] == "equal_task"
    run(change(config, [{"model.init_args.lam": 0.75}], Path()), tmp_path / "h")
    assert len(trained) == 5  # of the weights 0.5 and 0.25


def test_a_student_with_its_teachers_head_is_paired_with_the_student_without_kd(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """Which has a head and a task loss of its own."""
    overlay = read_config(Path("configs/methods/simkd.yaml"))["model"]["init_args"]
    reusing = {f"model.init_args.{name}": value for name, value in overlay.items()}
    without, with_kd = (
        run(config, tmp_path / "a"),
        run(change(config, [reusing], Path()), tmp_path / "b"),
    )
    assert (without["arm"], with_kd["arm"]) == ("without_kd", "kd")
    assert without["baseline_hash"] == with_kd["baseline_hash"]
    found, others = (one["metrics"]["last"]["test"] for one in (with_kd, without))
    assert found["teacher_accuracy"] == others["teacher_accuracy"]
    assert found["ncjsd"] != others["ncjsd"]


def test_a_control_that_no_validation_followed_has_no_best_epoch(
    config: dict[str, Any], tmp_path: Path
) -> None:
    never = change(config, [{"trainer.limit_val_batches": 0}], Path())
    for name in ("trained", "shared"):
        record = run(never, tmp_path / name)
        assert record["metrics"]["best"] is None
        assert record["metrics"]["last"]["test"]["accuracy"] > 0


def test_a_damaged_control_is_trained_anew(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(config, tmp_path / "a")
    assert first["from_cache"] == {}
    assert run(config, tmp_path / "b")["from_cache"].keys() == {"teacher", "control"}
    (path,) = tmp_path.glob("cache/students/*.ckpt")
    path.write_bytes(bytes(path.stat().st_size))
    again = run(config, tmp_path / "c")
    assert again["from_cache"].keys() == {"teacher"}
    assert again["metrics"] == first["metrics"]
    assert f"note: {path} is damaged" in capsys.readouterr().err


def test_a_control_that_the_clock_cut_short_is_not_cached(
    config: dict[str, Any], tmp_path: Path
) -> None:
    short = {"trainer.max_time": "00:00:00:01", "trainer.max_epochs": 100_000}
    record = run(change(config, [short], Path()), tmp_path / "a")
    assert record["metrics"]["last"]["test"]["accuracy"] > 0
    assert not list(tmp_path.glob("cache/students/*.ckpt"))


def test_the_record_says_where_a_shared_control_was_trained(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(config, tmp_path / "a")
    assert first["control_environment"] == first["environment"]
    for module in (control, fitting):
        monkeypatch.setattr(module, "environment", lambda: {"versions": {}, "device": "another"})
    again = run(config, tmp_path / "b")
    assert again["environment"]["device"] == "another"
    assert again["control_environment"] == first["control_environment"]


def test_controls_of_another_torch_or_device_are_not_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run: Any = SimpleNamespace(identity={"model": {"init_args": {"task_weight": 1.0}}})
    gpu = torch.device("cuda", 0)
    paths = [control._path(run, torch.device("cpu"))]
    for name in ("H100", "H200"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        paths.append(control._path(run, gpu))
    monkeypatch.setattr(torch, "__version__", "0.1")
    paths.append(control._path(run, gpu))
    assert len(set(paths)) == 4


def test_the_log_of_a_sweep_names_no_scratch_files(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config, tmp_path / "scratch")
    shown = capsys.readouterr().out
    assert "student without KD, last epoch" in shown
    assert "scratch" not in shown
    assert not (tmp_path / "scratch" / "record.json").exists()


def test_a_shared_control_equals_one_of_its_own(config: dict[str, Any], tmp_path: Path) -> None:
    shared = run(config, tmp_path / "a")
    alone = fitting.fit(Run.parse("fit", config={**config, "run_dir": str(tmp_path / "runs")}))
    assert alone["metrics"] == shared["metrics"]
    assert alone["config_hash"] == shared["config_hash"]
    assert alone["curves"]["accuracy"] == shared["curves"]["accuracy"]


def test_all_arms_have_the_curves_of_all_epochs(config: dict[str, Any], tmp_path: Path) -> None:
    """Nothing changes after the first epoch, so that one stays the best."""
    scheduler = "torch.optim.lr_scheduler.StepLR"
    still = {"class_path": scheduler, "init_args": {"step_size": 1, "gamma": 0.0}}
    config = change(config, [{"model.init_args.scheduler": still}], Path())
    distilled = change(config, [{"model.init_args.distiller": {"class_path": "KD"}}], Path())
    records = [run(config, tmp_path / "control"), run(distilled, tmp_path / "kd")]
    for record in records:
        assert record["metrics"]["best"]["checkpoint"] == "best-epoch=0.ckpt"
        assert len(record["curves"]["accuracy"]) == record["epochs"] == 2


def test_a_sweeps_run_is_alone_whatever_a_cluster_says(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "sweep")
    run(config, tmp_path / "scratch")
    assert (tmp_path / "scratch" / "checkpoints" / "last.ckpt").is_file()


def test_saliency_records_what_the_masks_remove(tmp_path: Path) -> None:
    config = read_config(Path("configs/mnist_kd.yaml"))
    config = change(
        config,
        [
            {
                "trainer.max_epochs": 1,
                "data.init_args.source": "simulated",
                "data.init_args.simulated_train": 300,
                "data.init_args.simulated_test": 100,
                "command": "saliency",
                "mask": {**MASK, "init_args": {**MASK["init_args"], "permutations": 1}},
            }
        ],
        Path(),
    )
    record = run(config, tmp_path / "a")
    assert record["arm"] == "saliency"
    assert record["metrics"] == {"last": None, "best": None}
    maps = record["maps"]
    assert maps.keys() == {"most_divergent", "random", "least_divergent"}
    for rows in maps.values():
        assert sum(map(sum, rows)) == 392  # half of the pixels
