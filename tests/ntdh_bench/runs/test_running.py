"""The life of a run: flags of the Trainer, averaging, signals, full disks, loggers, folders."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ntdh_bench import runs
from ntdh_bench.cli import main
from ntdh_bench.models import DistillationModule, TeacherModule
from ntdh_bench.runs import Run, checkpoint_files, fitting, trainers
from ntdh_bench.runs.predictions import PredictionFiles
from tests.helpers import fitted, flags, record_of, refusal

QUICKSTART = Path("configs/quickstart.yaml")
# Without a mask, and with a teacher that does not depend on what the tests change.
SHORT = (
    "--trainer.max_epochs", "2", "--data.steps_per_epoch", "3", "--data.n_samples", "500",
    "--mask", "null",
)  # fmt: skip
# Nothing changes after the first epoch, so that one stays the best.
STILL = (
    "--model.scheduler.class_path", "torch.optim.lr_scheduler.StepLR",
    "--model.scheduler.init_args.step_size", "1", "--model.scheduler.init_args.gamma", "0",
    "--model.teacher_epochs", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The flag of a teacher's checkpoint, so that no other test trains one."""
    path = run(tmp_path_factory.mktemp("teacher")) / "teacher.ckpt"
    return ("--model.teacher_checkpoint", str(path))


def run(folder: Path, *words: str, status: int = 0) -> Path:
    """Run fit; returns the run's folder."""
    return fitted(folder, *SHORT, *words, status=status)


def measured_by_test(checkpoint: Path) -> dict[str, float]:
    """Return what ``test`` measures of a checkpoint."""
    return runs.measure(Run.parse("test", ["--ckpt_path", str(checkpoint)]))


def test_the_record_has_the_curves_of_all_epochs_though_the_best_is_not_the_last(
    tmp_path: Path,
) -> None:
    record = record_of(run(tmp_path, *STILL, "--trainer.max_epochs", "4"))
    assert record["metrics"]["best"]["checkpoint"] == "best-epoch=0.ckpt"
    assert record["epochs"] == 4
    assert {len(values) for values in record["curves"].values()} == {4}
    last = record["metrics"]["last"]["val"]["accuracy"]
    assert record["curves"]["accuracy"][-1] == pytest.approx(last)


@pytest.mark.parametrize(
    "averaging",
    [
        ("StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.05"),
        ("EMAWeightAveraging", "--trainer.callbacks.decay", "0.8"),
    ],
)
def test_what_is_recorded_under_averaging_is_what_is_on_disk(
    averaging: tuple[str, ...], given: tuple[str, str], tmp_path: Path
) -> None:
    given = (*given, "--trainer.max_epochs", "5")
    plain = record_of(run(tmp_path / "plain", *given))["metrics"]["last"]["test"]
    folder = run(tmp_path / "averaged", *given, "--trainer.callbacks", *averaging)
    metrics = record_of(folder)["metrics"]
    assert metrics["last"]["test"]["ncjsd"] != plain["ncjsd"]
    for kind in ("last", "best"):
        path = folder / "checkpoints" / metrics[kind]["checkpoint"]
        assert measured_by_test(path) == pytest.approx(metrics[kind]["test"])


def test_a_run_that_averaged_is_prolonged_from_its_trained_weights(
    given: tuple[str, str], tmp_path: Path
) -> None:
    averaging = (
        *given, "--trainer.callbacks", "StochasticWeightAveraging",
        "--trainer.callbacks.swa_lrs", "0.05", "--trainer.callbacks.swa_epoch_start", "1",
    )  # fmt: skip
    half = run(tmp_path, *averaging, "--trainer.max_epochs", "3")
    last = half / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    averaged, trained = content["state_dict"], content["trained_state_dict"]
    assert any(not torch.equal(averaged[name], trained[name]) for name in trained)
    again = run(tmp_path, *averaging, "--trainer.max_epochs", "3", "--ckpt_path", str(last))
    assert record_of(again)["metrics"] == record_of(half)["metrics"]
    longer = run(tmp_path, *averaging, "--trainer.max_epochs", "5", "--ckpt_path", str(last))
    whole = run(tmp_path, *averaging, "--trainer.max_epochs", "5")
    assert record_of(longer)["metrics"] == record_of(whole)["metrics"]


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        (("--trainer.limit_val_batches", "0"), 2),
        (("--trainer.check_val_every_n_epoch", "9"), 2),
        (("--trainer.max_epochs", "0"), 0),
        (("--trainer.max_steps", "0"), 0),
        (("--trainer.max_time", "00:00:00:00"), 0),
        (("--trainer.limit_train_batches", "0"), 0),
    ],
)
def test_a_run_without_a_best_epoch_is_recorded(
    words: tuple[str, ...],
    epochs: int,
    given: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run(tmp_path, *given, *words)
    record = record_of(folder)
    assert record["metrics"]["best"] is None
    assert "no best checkpoint: no epoch was followed by validation" in capsys.readouterr().err
    assert record["epochs"] == epochs
    last = record["metrics"]["last"]
    assert ("val" in last) == ("--trainer.limit_val_batches" not in words)
    assert measured_by_test(folder / "checkpoints" / last["checkpoint"]) == pytest.approx(
        last["test"]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.limit_test_batches", "0"], "limit_test_batches is 0, which leaves none"),
        (["--trainer.limit_test_batches", "0.001"], "limit_test_batches is 0.001, which leaves"),
        (["--trainer.overfit_batches", "1"], "use trainer.limit_train_batches"),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches is 0"),
        (["--trainer.gradient_clip_val", "-1"], "trainer.gradient_clip_val is -1"),
        (["--trainer.devices", "1000000"], "trainer.devices is 1000000"),
        (["--trainer.precision", "16-true"], "trainer.precision is 16-true: weights are float32"),
        (["--trainer.precision", "bf16-true"], "choose 32-true, bf16-mixed or 16-mixed"),
        (["--trainer.precision", "64"], "trainer.precision is 64"),
        (["--trainer.plugins", "HalfPrecision"], "trainer.precision is 16-true"),
        (["--trainer.strategy", "ddp_spawn"], "choose ddp"),
        (["--trainer.strategy", "ddp_notebook"], "choose ddp"),
        (["--trainer.callbacks", "LearningRateFinder"], "LearningRateFinder, which changes"),
        (["--trainer.strategy", "nonsense"], "invalid strategy name"),
    ],
)
def test_what_a_run_cannot_do_is_refused_before_anything_is_trained(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(["fit", *flags(QUICKSTART, tmp_path, *SHORT, *words)], capsys)
    assert not list(tmp_path.glob("*/teacher*"))


@pytest.mark.parametrize(("logger", "package"), [("Wandb", "wandb"), ("MLFlow", "mlflow")])
def test_a_logger_whose_package_is_not_installed_is_refused(
    logger: str, package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    words = ["fit", *flags(QUICKSTART, tmp_path, "--trainer.logger", f"{logger}Logger")]
    assert f"Requirement '{package}" in refusal(words, capsys)


def test_a_metric_that_nothing_measures_stops_a_run_in_one_line(
    given: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watching = ("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/acc")
    error = refusal(["fit", *flags(QUICKSTART, tmp_path, *SHORT, *given, *watching)], capsys)
    assert "trainer.callbacks: Early stopping conditioned on metric `val/acc`" in error


@pytest.mark.parametrize(
    "words",
    [
        ("--trainer.deterministic", "true", "--trainer.num_sanity_val_steps", "1"),
        (
            "--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "0.1",
            "--trainer.max_steps", "3",
        ),
        (
            "--data.batch_size", "64", "--data.steps_per_epoch", "null",
            "--trainer.limit_train_batches", "0.5", "--trainer.val_check_interval", "1",
            "--data.num_workers", "1",
        ),
        ("--trainer.precision", "bf16-mixed", "--trainer.logger", "false"),
        ("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/accuracy"),
        ("--trainer.callbacks", "ModelCheckpoint"),
        ("--trainer.callbacks", "LearningRateMonitor"),
    ],
    ids=lambda words: words[0] if "callbacks" not in words[0] else words[1],
)  # fmt: skip
def test_flags_of_the_trainer(
    words: tuple[str, ...], given: tuple[str, str], tmp_path: Path
) -> None:
    folder = run(tmp_path, *given, *words)
    last = record_of(folder)["metrics"]["last"]
    assert measured_by_test(folder / "checkpoints" / "last.ckpt") == pytest.approx(last["test"])


def test_the_record_says_in_which_precision_a_run_was(
    given: tuple[str, str], tmp_path: Path
) -> None:
    words = (*given, "--trainer.precision", "16-mixed")
    record = record_of(run(tmp_path, *words))
    assert record["precision"] == "bf16-mixed"  # on a CPU
    assert record["config"]["trainer"]["precision"] == "16-mixed"


# -- loggers -------------------------------------------------------------------------------------


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_tells_last_from_best_and_task_from_distillation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    folder = run(
        tmp_path / "runs", *STILL, "--model.task_weight", "2", "--model.distill_weight", "3"
    )
    metrics = record_of(folder)["metrics"]
    logged = scalars(folder / "tensorboard")
    for kind, step in (("last", 6), ("best", 3)):
        for split in ("val", "test"):
            ((at, value),) = set(logged[f"{kind}/{split}/accuracy"])
            assert (at, value) == (step, pytest.approx(metrics[kind][split]["accuracy"]))
    assert not [tag for tag in logged if tag.startswith("test/") or tag == "hp_metric"]
    sums = [
        (2 * task, 3 * distilled)
        for (_, task), (_, distilled) in zip(
            logged["train/task_loss"], logged["train/distill_loss"], strict=True
        )
    ]
    assert [sum(pair) for pair in sums] == pytest.approx([v for _, v in logged["train/loss"]])
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")
    settings = yaml.unsafe_load((folder / "tensorboard" / "hparams.yaml").read_text())
    assert settings["data"]["init_args"]["gap"] == 0.5
    assert settings["mask"] is None
    assert scalars(folder / "teacher" / "tensorboard").keys() >= {"train/loss", "val/accuracy"}


def test_teacher_and_student_share_a_logger_under_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    words = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "csv"))
    run(tmp_path / "runs", *words, "--trainer.log_every_n_steps", "1", "--data.gap", "0.4")
    (path,) = (tmp_path / "csv").glob("**/metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for name in ("train/loss", "val/accuracy", "teacher/train/loss", "teacher/val/accuracy"):
        assert len([row for row in rows if row[name]]) == 2, name  # one an epoch
    assert [row["step"] for row in rows if row["last/test/accuracy"]] == ["6"]
    (settings,) = (tmp_path / "csv").glob("**/hparams.yaml")
    assert "gap: 0.4" in settings.read_text()


# -- signals, kills and disks --------------------------------------------------------------------


class Interrupting(Callback):
    """Sends this process a signal in the second epoch."""

    def __init__(self, number: int, module: type[LightningModule]) -> None:
        self.number, self.module = number, module

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.current_epoch == 1 and isinstance(pl_module, self.module):
            os.kill(os.getpid(), self.number)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, type[LightningModule]], None]:
    make = trainers.make_trainer

    def interrupted_by(number: int, module: type[LightningModule]) -> None:
        def with_interruption(
            run: Run, stage: str, folder: Path, extra_callbacks: list[Callback], **changes: Any
        ) -> Trainer:
            callbacks = [*extra_callbacks, Interrupting(number, module)]
            return make(run, stage, folder, callbacks, **changes)

        monkeypatch.setattr(trainers, "make_trainer", with_interruption)

    return interrupted_by


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_stopped_run_says_how_to_go_on(
    number: int,
    status: int,
    interrupt: Callable[[int, type[LightningModule]], None],
    given: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A shell ignores Ctrl-C for what it runs in the background, this process perhaps.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupt(number, DistillationModule)
    folder = run(tmp_path, *given, status=status)
    last = folder / "checkpoints" / "last.ckpt"
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.endswith(f"go on with `ntdh-bench fit --ckpt_path {last}`")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    monkeypatch.undo()
    assert main(["fit", "--ckpt_path", str(last)]) == 0
    (resumed,) = set(tmp_path.iterdir()) - {folder}
    assert record_of(resumed)["metrics"] == record_of(run(tmp_path, *given))["metrics"]


def test_a_run_stopped_before_its_first_epoch_is_started_again(
    interrupt: Callable[[int, type[LightningModule]], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    interrupt(signal.SIGTERM, TeacherModule)
    independent = ("--model.teacher", "independent")
    folder = run(tmp_path / "runs", *independent, status=143)
    config = folder / "config.yaml"
    assert f"start again with `ntdh-bench fit --config {config}`" in capsys.readouterr().err
    assert not list((tmp_path / "cache").glob("teachers/*.ckpt"))


def test_a_run_stopped_while_it_is_measured_goes_on(
    given: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def stopped(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(fitting, "measure_splits", stopped)
    folder = run(tmp_path, *given, status=143)
    last = folder / "checkpoints" / "last.ckpt"
    assert f"fit --ckpt_path {last}" in capsys.readouterr().err
    assert not (folder / "record.json").exists()
    monkeypatch.undo()
    assert main(["fit", "--ckpt_path", str(last)]) == 0
    (resumed,) = set(tmp_path.iterdir()) - {folder}
    assert record_of(resumed)["metrics"] == record_of(run(tmp_path, *given))["metrics"]
    assert len(record_of(resumed)["curves"]["accuracy"]) == 2


def test_a_kill_between_best_and_last_leaves_a_run_that_resumes(
    given: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second epoch is the best so far; the process dies before last.ckpt says so."""
    write = checkpoint_files.write_checkpoint

    def killed(content: dict[str, Any], path: Path) -> None:
        if path.name == "last.ckpt" and content["epoch"] == 1:
            raise SystemExit(9)
        write(content, path)

    given = (*given, "--trainer.max_epochs", "3")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "write_checkpoint", killed)
        with pytest.raises(SystemExit):
            run(tmp_path / "killed", *given)
    (folder,) = (tmp_path / "killed").iterdir()
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"best-epoch=0.ckpt", "best-epoch=1.ckpt", "last.ckpt"}
    last = folder / "checkpoints" / "last.ckpt"
    resumed = run(tmp_path / "resumed", *given, "--ckpt_path", str(last))
    whole = run(tmp_path / "whole", *given)
    assert record_of(resumed)["metrics"] == record_of(whole)["metrics"]
    kept = {path.name for path in (whole / "checkpoints").iterdir()}
    assert kept == {record_of(whole)["metrics"]["best"]["checkpoint"], "last.ckpt"}


class FullDisk:
    """Lets ``torch.save`` fail as it does on a full disk, from the n-th checkpoint on."""

    def __init__(self, after: int) -> None:
        self.left, self.save = after, torch.save

    def __call__(self, content: Any, file: Any) -> None:
        self.left -= 1
        if self.left < 0:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.save(content, file)


@pytest.mark.parametrize("after", range(5))
def test_a_full_disk_is_one_line_and_leaves_nothing_partial(
    after: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Cached teacher, the run's teacher, best of the first epoch, last, best of the second."""
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch, "save", FullDisk(after))
    folder = run(tmp_path / "runs", status=1)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    place = tmp_path / "cache" / "teachers" if after == 0 else folder
    assert error.startswith(f"ntdh-bench: error: cannot write to {place}")
    assert "No space left on device" in error
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".ckpt"]) == after
    assert not [path for path in files if path.name.startswith(".") and path.suffix != ".lock"]


@pytest.mark.parametrize("module", [TeacherModule, DistillationModule])
def test_a_run_folder_that_is_removed_meanwhile_is_named(
    module: type[LightningModule],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    start = module.on_train_epoch_start

    def removing(self: Any) -> None:
        start(self)
        for folder in (tmp_path / "runs").iterdir():
            shutil.rmtree(folder)

    monkeypatch.setattr(module, "on_train_epoch_start", removing)
    words = flags(QUICKSTART, tmp_path / "runs", *SHORT, "--model.teacher", "independent")
    assert main(["fit", *words]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"the run folder {tmp_path / 'runs'}" in error
    assert "was removed while the run went on" in error
    assert not list((tmp_path / "runs").iterdir())


# -- clusters ------------------------------------------------------------------------


def test_one_process_pays_no_attention_to_a_clusters_variables(
    given: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    slurm = {"NTASKS": "4", "PROCID": "3", "JOB_NAME": "job", "JOB_ID": "7", "NODELIST": "a"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as it is where SLURM_PROCID was set at start
    folder = run(tmp_path, *given)
    assert (folder / "record.json").is_file()
    assert scalars(folder / "tensorboard")["train/loss"]


# -- predictions ---------------------------------------------------------------------------------


def test_predictions_are_written_batch_by_batch(
    given: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, *given)
    last = folder / "checkpoints" / "last.ckpt"
    batches = ("--data.batch_size", "64", "--data.steps_per_epoch", "1")
    words = ["predict", "--config", str(folder / "config.yaml"), "--ckpt_path", str(last), *batches]
    assert main(words) == 0
    whole = {
        path.stem: np.load(path, mmap_mode="r")
        for path in last.with_name("predictions-last").iterdir()
    }
    assert whole.keys() == {"logits", "target", "index"}
    assert whole["logits"].shape == (200, 4)
    assert (whole["index"] == np.arange(200)).all()
    accuracy = (whole["logits"].argmax(1) == whole["target"]).mean()
    assert accuracy == pytest.approx(record_of(folder)["metrics"]["last"]["test"]["accuracy"])
    part = [*words, "--trainer.limit_predict_batches", "1"]
    assert main(part) == 0
    assert len(np.load(last.with_name("predictions-last-part") / "index.npy")) == 64
    capsys.readouterr()
    assert main([*part, "--output", str(last.with_name("predictions-last"))]) == 1
    assert "is there already" in capsys.readouterr().err
    assert len(np.load(last.with_name("predictions-last") / "index.npy")) == 200
    assert main([*words, "--output", str(tmp_path / "named")]) == 0
    assert (tmp_path / "named" / "logits.npy").is_file()


def test_predictions_of_many_targets_a_sample_are_classes(tmp_path: Path) -> None:
    """Of pixels, and of points, whose number differs from batch to batch."""
    pixels = [
        (torch.randn(samples, 3, 2, 4), torch.randint(3, (samples, 2, 4)), torch.arange(samples))
        for samples in (2, 1)
    ]
    points = [
        (torch.randn(count, 300), torch.full((count,), 255), torch.zeros(count)) for count in (7, 5)
    ]
    for name, batches in (("pixels", pixels), ("points", points)):
        for logits in (False, True):
            folder = tmp_path / f"{name}-{logits}"
            folder.mkdir()
            with PredictionFiles(folder, logits) as files:
                for scores, target, index in batches:
                    prediction = {"logits": scores.bfloat16(), "target": target, "index": index}
                    batch = {"index": index.unique()}
                    files.write_on_batch_end(*[cast(Any, None)] * 2, prediction, None, batch, 0, 0)
            found = {path.stem: np.load(path, mmap_mode="r") for path in folder.iterdir()}
            whole = torch.cat([scores for scores, _, _ in batches]).bfloat16().float()
            expected = whole.numpy() if logits else whole.argmax(1).numpy()
            assert found.keys() == {"logits" if logits else "classes", "target", "index"}
            assert (found["logits" if logits else "classes"] == expected).all()
            targets = torch.cat([target for _, target, _ in batches]).numpy()
            assert (found["target"] == targets).all()
    assert found["target"].dtype == np.int16
    assert np.load(tmp_path / "pixels-False" / "classes.npy").dtype == np.uint8
    assert np.load(tmp_path / "points-False" / "classes.npy").dtype == np.uint16


def test_predictions_that_cannot_be_written_are_refused_before_they_are_made(
    given: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = run(tmp_path, *given)
    last = folder / "checkpoints" / "last.ckpt"
    monkeypatch.setattr(Trainer, "predict", lambda *_, **__: pytest.fail("it was predicted"))
    output = tmp_path / "file" / "predictions"
    output.parent.write_text("no folder")
    assert main(["predict", "--ckpt_path", str(last), "--output", str(output)]) == 1
    assert f"cannot write to {output.parent}" in capsys.readouterr().err
