from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ntdh_bench.cli import main
from ntdh_bench.composition import read_config
from ntdh_bench.metrics import DEPENDENCE
from ntdh_bench.records.columns import METRICS
from tests.helpers import fitted, flags, record_of, refusal

QUICKSTART = Path("configs/quickstart.yaml")
SHORT = ("--trainer.max_epochs", "2", "--data.steps_per_epoch", "5", "--mask.permutations", "1")


def fit(folder: Path, *more: str) -> Path:
    """Run fit in ``folder``; returns the new run's folder."""
    return fitted(folder, *SHORT, *more)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("runs"))


def test_a_run_leaves_all_it_promises(finished: Path) -> None:
    record = record_of(finished)
    assert {path.name for path in finished.iterdir()} == {
        "config.yaml", "record.json", "checkpoints", "teacher.ckpt", "tensorboard", "teacher",
        "run.log", "pictures.npz",
    }  # fmt: skip
    assert list((finished / "tensorboard").glob("events*"))
    assert record["source"] == "simulated"
    assert record["arm"] == "kd"
    assert record["epochs"] == 2
    expected = {name for name in METRICS if "miou" not in name}
    assert record["metrics"]["last"]["test"].keys() == expected
    assert record["parameters"]["student"] > 0
    curve = record["curves"]["ncjsd"]
    assert len(curve) == 2
    assert record["curves"].keys() == expected - set(DEPENDENCE)
    assert curve[-1] == pytest.approx(record["metrics"]["last"]["val"]["ncjsd"])
    assert record["metrics"]["best"]["checkpoint"].startswith("best-")
    assert record["metrics"]["last"].keys() == {"checkpoint", "val", "test"}
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["epoch"] == 1  # the last of two
    assert content["teacher_hash"] == record["teacher_hash"]


def test_the_same_seed_gives_the_same_bits_and_the_teacher_comes_from_the_cache(
    finished: Path,
) -> None:
    again = fit(finished.parent)
    one, two = record_of(finished), record_of(again)
    assert two["teacher"] == "cached"
    assert one["metrics"] == two["metrics"]
    assert one["config_hash"] == two["config_hash"]
    left, right = weights_of(finished), weights_of(again)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    epochs = ("--trainer.max_epochs", "4", "--model.teacher_epochs", "2")
    half = ("--trainer.max_epochs", "2", "--model.teacher_epochs", "2")
    whole = fit(tmp_path, *epochs)
    first = fit(tmp_path, *half)
    last = first / "checkpoints" / "last.ckpt"
    resumed = fit(tmp_path, *epochs, "--ckpt_path", str(last))
    left, right = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert record_of(whole)["metrics"] == record_of(resumed)["metrics"]
    assert record_of(resumed)["resumed_from"] == str(last)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fit --ckpt_path {last} --model.optimizer.lr 0.5", "optimizer.init_args.lr is 0.5, but"),
        ("test --ckpt_path {last} --model.student_network.hidden [8,8]", "another network"),
        ("test --config {run}/config.yaml --mask null --ckpt_path {last}", "made with the mask"),
        ("test --config {run}/config.yaml", "give --ckpt_path"),
    ],
)
def test_what_does_not_go_with_a_checkpoint_is_refused(
    words: str, message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = finished / "checkpoints" / "last.ckpt"
    assert message in refusal(words.format(run=finished, last=last).split(), capsys)


def test_test_command_repeats_the_recorded_numbers(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = record_of(finished)["metrics"]
    quiet = ("--trainer.enable_progress_bar", "false")
    for kind in ("last", "best"):
        path = finished / "checkpoints" / metrics[kind]["checkpoint"]
        for command, split in (("test", "test"), ("validate", "val")):
            assert main([command, "--ckpt_path", str(path), *quiet]) == 0
            shown = capsys.readouterr().out
            assert f"{100 * metrics[kind][split]['accuracy']:.2f}" in shown
            assert f"{metrics[kind][split]['ncjsd']:.4f}" in shown


def test_the_summary_shows_the_student_without_kd(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = fit(finished.parent, "--config", "configs/overlays/without_kd.yaml")
    changed = record_of(without)
    changed["environment"]["threads"] += 1
    (without / "record.json").write_text(json.dumps(changed))
    capsys.readouterr()
    again = fit(finished.parent)
    accuracy = record_of(without)["metrics"]["last"]["test"]["accuracy"]
    assert record_of(without)["arm"] == "without_kd"
    assert record_of(without)["baseline_hash"] == record_of(again)["baseline_hash"]
    shown = capsys.readouterr().out
    line = next(x for x in shown.splitlines() if "student without KD" in x)
    assert f"{100 * accuracy:.2f}" in line
    assert f"without KD {changed['environment']['threads']}: part of the gain may" in shown


def test_the_summary_shows_the_student_of_the_same_task_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = ("--model.task_weight", "0.25")
    equal = record_of(fit(tmp_path, *weight, "--config", "configs/overlays/equal_task.yaml"))
    capsys.readouterr()
    with_kd = record_of(fit(tmp_path, *weight))
    assert equal["arm"] == "equal_task"
    assert equal["baseline_hash"] == with_kd["baseline_hash"]
    lines = capsys.readouterr().out.splitlines()
    line = next(x for x in lines if "student without KD, task weight 0.25" in x)
    assert f"{100 * equal['metrics']['last']['test']['accuracy']:.2f}" in line


def test_the_summary_says_that_a_student_is_still_learning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for epochs, steps in (("5", "5"), ("6", "100")):
        short = ("--trainer.max_epochs", epochs, "--data.steps_per_epoch", steps)
        alone = fit(tmp_path, *short, "--config", "configs/overlays/without_kd.yaml")
        curve = record_of(alone)["curves"]["accuracy"]
        shown = " ".join(capsys.readouterr().out.split())
        if epochs == "5":
            rise = 100 * (curve[-1] - curve[-2])
            assert rise > 0.5
            assert f"still rising by {rise:.1f} points over the last fifth" in shown
        else:
            assert "still rising" not in shown


def test_a_teacher_retrained_on_kept_inputs(tmp_path: Path) -> None:
    plain = fit(tmp_path)
    retrained = fit(tmp_path, "--mask.fill", "retrain")
    assert record_of(plain)["teacher_hash"] != record_of(retrained)["teacher_hash"]
    path = retrained / "checkpoints" / "last.ckpt"
    assert main(["test", "--ckpt_path", str(path)]) == 0


def test_a_config_of_one_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_config(Path("configs/mnist_unimodal.yaml"))
    config["model"]["init_args"]["network"]["init_args"] |= {"in_features": 50, "num_classes": 4}
    config["data"] = {"class_path": "SyntheticDataModule", "init_args": {"steps_per_epoch": 5}}
    path = tmp_path / "single.yaml"
    path.write_text(yaml.safe_dump(config))
    runs = tmp_path / "runs"
    assert main(["fit", *flags(path, runs, "--trainer.max_epochs", "1")]) == 0
    (run,) = runs.iterdir()
    assert record_of(run)["arm"] == "single"
    assert record_of(run)["metrics"]["best"] is None  # no validation split
    assert "network, last epoch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mask.layer", "hidden9"], "no layer 'hidden9'"),
        (["--model.optimizer.init_args.lr", "1e30"], r"the loss is nan"),
        (["--data.batch_size", "6000", "--data.steps_per_epoch", "1"], "batch_size is 6000"),
        (["--run_dir", "/proc/no"], "cannot make a run folder in /proc/no"),
        (
            ["--model.student_network.init_args.in_features", "49"],
            "does not take the data's inputs",
        ),
        (["--model.teacher_network.init_args.num_classes", "3"], "returns 3 logits, but the data"),
        (["--trainer.accelerator", "gpu"], "No supported gpu backend found"),
        (["--model.teacher_checkpoint", "none.ckpt"], "no checkpoint none.ckpt"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(["fit", *flags(QUICKSTART, tmp_path, *SHORT, *words)], capsys)


def test_a_nan_keeps_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The student's loss breaks in its second epoch (its teacher is trained already)."""
    teacher = fit(tmp_path) / "teacher.ckpt"
    words = [
        "--model.teacher_checkpoint", str(teacher), "--model.distill_weight", "1",
        "--model.scheduler.class_path", "torch.optim.lr_scheduler.StepLR",
        "--model.scheduler.init_args.step_size", "1", "--model.scheduler.init_args.gamma", "1e35",
    ]  # fmt: skip
    capsys.readouterr()
    assert main(["fit", *flags(QUICKSTART, tmp_path / "broken", *SHORT, *words)]) == 1
    error = capsys.readouterr().err
    assert "(epoch 1, batch" in error
    (last,) = (tmp_path / "broken").glob("*/checkpoints/last.ckpt")
    assert f"the last good checkpoint is {last}" in error
    assert torch.load(last, weights_only=True)["epoch"] == 0


def test_saliency_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["saliency", *flags(QUICKSTART, tmp_path, *SHORT)]) == 0
    (run,) = tmp_path.iterdir()
    found = np.load(run / "saliency" / "saliency.npz", allow_pickle=False)
    assert found["values"].shape == (50,)
    assert (run / "saliency" / "saliency.png").is_file()
    assert str(run / "saliency" / "saliency.npz") in capsys.readouterr().out.replace("\n", "")


def test_a_resumed_run_remembers_the_best_epoch_before_it(tmp_path: Path) -> None:
    """The learning rate explodes after the first epoch, so that one stays the best."""
    worse = [
        "--model.scheduler.class_path", "torch.optim.lr_scheduler.StepLR",
        "--model.scheduler.init_args.step_size", "1", "--model.scheduler.init_args.gamma", "200",
        "--model.teacher_epochs", "1",
    ]  # fmt: skip
    whole = fit(tmp_path, *worse, "--trainer.max_epochs", "3")
    assert record_of(whole)["metrics"]["best"]["checkpoint"] == "best-epoch=0.ckpt"
    first = fit(tmp_path, *worse, "--trainer.max_epochs", "2")
    last = first / "checkpoints" / "last.ckpt"
    resumed = fit(tmp_path, *worse, "--trainer.max_epochs", "3", "--ckpt_path", str(last))
    assert record_of(whole)["metrics"] == record_of(resumed)["metrics"]
    assert (resumed / "checkpoints" / "best-epoch=0.ckpt").is_file()
    assert last.is_file()


def test_weights_broken_by_the_last_step_reach_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One step an epoch: the loss before it is fine, the weights after it are not."""
    one_step = ["--data.steps_per_epoch", "1", "--model.optimizer.class_path", "torch.optim.SGD"]
    one_step += ["--model.optimizer.init_args.lr", "3e38", "--model.optimizer.init_args.momentum"]
    one_step += ["0.9", "--model.task_weight", "1000"]
    teacher = fit(tmp_path / "good") / "teacher.ckpt"
    one_step += ["--model.teacher_checkpoint", str(teacher)]
    assert main(["fit", *flags(QUICKSTART, tmp_path / "bad", *SHORT, *one_step)]) == 1
    assert "not finite after distillation, step 0" in capsys.readouterr().err
    assert list((tmp_path / "bad").glob("*/checkpoints/*")) == []


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_measuring_a_missing_or_damaged_checkpoint(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.ckpt"
    assert main([command, "--ckpt_path", str(damaged)]) == 1
    assert f"no checkpoint {damaged}" in capsys.readouterr().err
    damaged.write_bytes(b"damaged")
    assert main([command, "--config", str(QUICKSTART), "--ckpt_path", str(damaged)]) == 1
    assert f"{damaged}: damaged, not a checkpoint" in capsys.readouterr().err


def test_what_changes_the_teacher_changes_its_key(finished: Path, tmp_path: Path) -> None:
    for more in (
        ["--trainer.max_time", "00:00:10:00"],
        ["--model.optimizer.init_args.lr", "0.02"],
        ["--data.gap", "0.3"],
        ["--seed_everything", "1"],
        ["--model.teacher", "independent", "--mask", "null"],
    ):
        assert record_of(fit(tmp_path, *more))["teacher"] == "trained", more
    assert record_of(fit(tmp_path, "--model.distiller", "DKD"))["teacher"] == "cached"


def test_without_kd_is_paired_within_the_same_data_only(finished: Path, tmp_path: Path) -> None:
    overlay = ("--config", "configs/overlays/without_kd.yaml")
    without = record_of(fit(tmp_path, *overlay))
    for more in (["--data.data_seed", "1"], ["--data.gap", "0.3"]):
        other = record_of(fit(tmp_path, *overlay, *more))
        assert other["baseline_hash"] != without["baseline_hash"]
    assert record_of(finished)["baseline_hash"] == without["baseline_hash"]


def test_lam_does_not_survive_without_kd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lam = ["--model.lam", "0.3"]
    nothing = ["--model.lam", "1", "--model.distiller", "null"]
    assert main(["fit", *flags(QUICKSTART, tmp_path, *nothing)]) == 1
    assert "model.lam to null" in capsys.readouterr().err
    run = fit(tmp_path, *lam, "--config", "configs/overlays/without_kd.yaml")
    assert record_of(run)["arm"] == "without_kd"
    assert record_of(run)["config"]["model"]["init_args"]["lam"] is None


def test_with_its_control_a_run_says_what_distillation_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", *flags(QUICKSTART, tmp_path, *SHORT)]
    assert main([*words, "--with-control"]) == 0
    arms = {record["arm"]: record for record in map(record_of, tmp_path.iterdir())}
    scores = [arms[arm]["metrics"]["last"]["test"]["accuracy"] for arm in ("kd", "without_kd")]
    gain = f"{100 * (scores[0] - scores[1]):+.2f} points over the student without KD"
    assert gain in capsys.readouterr().out
    last = next(tmp_path.iterdir()) / "checkpoints" / "last.ckpt"
    again = ["fit", "--ckpt_path", str(last), "--with-control"]
    assert "takes a new run" in refusal(again, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "overlays/without_kd"], "takes a run with model.distiller"),
        (["--mask.ratio", "7"], "mask.ratio"),
    ],
)
def test_no_control_is_trained_for_a_run_that_is_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["fit", *flags(QUICKSTART, tmp_path), *words, "--with-control"]
    assert said in refusal(asked, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit"], "nothing to fit: give --config quickstart"),
        (["test", "--config", "quickstart"], "measures a checkpoint: give --ckpt_path"),
    ],
)
def test_nothing_to_run(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refusal(words, capsys)
