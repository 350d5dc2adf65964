"""Interventions in runs: alone and stacked, with the student that one asks for."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ntdh_bench.checkpoints import read_checkpoint
from ntdh_bench.errors import UserError
from ntdh_bench.interventions import Intervention, Rows
from ntdh_bench.records.identity import Place, arm, place_of
from ntdh_bench.records.rows import to_row
from ntdh_bench.report.pairing import Controls, scored
from ntdh_bench.runs import Run, fit, map_divergence, measure
from ntdh_bench.runs.identity import short_name
from ntdh_bench.runs.session import quiet_lightning
from ntdh_bench.runs.stacks import fit_stack
from ntdh_bench.runs.summary import print_fit
from tests.ntdh_bench.runs.running import alone, parsed, together

CHANGES = (
    [],
    ["--model.intervention", "ShuffleNontarget", "--model.intervention.share", "0.5"],
    ["--model.intervention", "AlignNontarget", "--model.intervention.share", "1"],
    ["--model.intervention", "UniformNontarget", "--model.intervention.share", "1"],
    ["--model.intervention", "ClassNontarget", "--model.intervention.share", "0.5"],
    ["--model.intervention", "ShuffleTarget", "--model.intervention.share", "1"],
    ["--model.intervention", "ShiftTarget", "--model.intervention.shift", "2"],
    ["--model.intervention", "ScaleTarget", "--model.intervention.factor", "4"],
)
SHUFFLE, ALIGN, UNIFORM, _, SHUFFLE_TARGET, *_ = CHANGES[1:]
WITHOUT_KD = ["--model.distiller", "null", "--model.task_weight", "1.0"]
# What differs though runs are the same: where and when, what was there, and what is shared.
OF_TIME = {"created", "seconds", "stack", "from_cache", "teacher", "control_environment"}


def pairs(*words: str, seed: int = 0) -> list[str]:
    return [
        "--config", "configs/pairs_kd.yaml", "--trainer.max_epochs", "2",
        *_quiet(), "--seed_everything", str(seed), *words,
    ]  # fmt: skip


def mnist(*words: str, seed: int = 0) -> list[str]:
    """Inputs that are drawn anew in every epoch."""
    return [
        "--config", "configs/mnist_kd.yaml", "--data.source", "simulated",
        "--data.simulated_train", "300", "--data.simulated_test", "100",
        "--model.teacher", "independent", "--model.teacher_network.hidden", "[24,16]",
        "--model.student_network.hidden", "[20,16]", "--model.optimizer.lr", "0.05",
        "--trainer.max_epochs", "2", *_quiet(), "--seed_everything", str(seed), *words,
    ]  # fmt: skip


def _quiet() -> list[str]:
    return [
        "--trainer.accelerator", "cpu", "--trainer.logger", "false",
        "--trainer.enable_progress_bar", "false",
    ]  # fmt: skip


@pytest.mark.parametrize("settings", [pairs, mnist])
def test_a_stack_is_its_runs_alone(settings: Any, tmp_path: Path) -> None:
    words = [settings(*change, seed=n % 2) for n, change in enumerate(CHANGES)]
    words += [settings(*WITHOUT_KD, *change) for change in (*CHANGES[:3], SHUFFLE_TARGET)]
    found = together(words, tmp_path / "stack")
    for number, (run, stacked) in enumerate(zip(words, found, strict=True)):
        assert isinstance(stacked, dict), stacked
        single = alone(run, tmp_path / str(number))
        assert stacked["config"] == single["config"]
        for split in ("val", "test"):
            of_both = [record["metrics"]["last"][split] for record in (stacked, single)]
            assert of_both[0] == pytest.approx(of_both[1], rel=1e-5, abs=1e-6), number


def test_what_is_recorded(tmp_path: Path) -> None:
    changes = CHANGES[0], SHUFFLE, ALIGN
    words = [pairs(*extra, *change) for extra in ([], WITHOUT_KD) for change in changes]
    records = together(words, tmp_path / "stack")
    rows = [
        scored(to_row({**record, "run": str(n)}, Place("x", "p", {}, "o", "t", mask)))
        for n, (record, mask) in enumerate(zip(records, [None, "a", "b"] * 2, strict=True))
    ]
    assert [row["intervention"] for row in rows] == 2 * [None, "ShuffleNontarget", "AlignNontarget"]
    assert [row["dose"] for row in rows] == 2 * [None, 0.5, 1.0]
    kd, shuffled, aligned = rows[:3]
    controls = Controls(rows)
    before = {row["intervention"]: controls.before(row) for row in rows[:3]}
    assert before["AlignNontarget"] == pytest.approx(0, abs=1e-6)
    assert before["ShuffleNontarget"] > before[None]  # type: ignore[operator]
    target = [controls.before(row, "tcjsd") for row in (kd, shuffled, aligned)]
    assert target == pytest.approx([target[0]] * 3, abs=1e-6)
    students = {row["last_test_accuracy"] for row in rows[3:]}
    assert len(students) == 1  # one student without KD, whatever the teacher's output
    assert arm(records[3]["config"]) == "without_kd"
    assert place_of(shuffled).mask_hash == "a"


def test_the_reference_is_the_student_without_kd(tmp_path: Path) -> None:
    run = parsed(pairs(*ALIGN), tmp_path / "align")
    with quiet_lightning():
        fit(run)
        control = parsed(pairs(*WITHOUT_KD), tmp_path / "control")
        fit(control)
    reference = run.model.frozen_teacher.reference.state_dict()
    trained = read_checkpoint(control.last_checkpoint)["state_dict"]
    for name, value in reference.items():
        assert torch.equal(trained[f"student.{name}"], value)


def test_a_given_teacher_brings_no_reference_of_another_run(tmp_path: Path) -> None:
    """That of a run with another seed is not the student that this one would be without KD."""
    first, other = (parsed(pairs(*ALIGN, seed=n), tmp_path / str(n)) for n in range(2))
    with quiet_lightning():
        fit(first)
        fit(other)
        given = ["--model.teacher_checkpoint", str(first.folder / "teacher.ckpt")]
        taught = parsed(pairs(*ALIGN, *given, seed=1), tmp_path / "taught")
        fit(taught)
        stacked = parsed(pairs(*ALIGN, *given, seed=1), tmp_path / "stack" / "runs")
        fit_stack([stacked], tmp_path / "stack")
    expected = other.model.frozen_teacher.reference.state_dict()
    for run in (taught, stacked):
        assert run.model.frozen_teacher.hash == first.model.frozen_teacher.hash
        reference = run.model.frozen_teacher.reference.state_dict()
        assert all(torch.equal(reference[name], value) for name, value in expected.items())


def test_a_kept_teacher_can_be_given_to_a_run_that_asks_for_no_reference(tmp_path: Path) -> None:
    run, small = parsed(pairs(*ALIGN), tmp_path / "run"), ["--model.student_network.hidden", "[9]"]
    with quiet_lightning():
        fit(run)
        given = ["--model.teacher_checkpoint", str(run.folder / "teacher.ckpt")]
        teacher = ["--model.teacher", "independent", *given]
        other = parsed(pairs(*small, *teacher), tmp_path / "other")
        fit(other)
    assert other.model.frozen_teacher.reference is None


def test_what_came_from_the_cache_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = []
    for name in ("first", "again"):
        run = parsed(pairs(*ALIGN), tmp_path / name)
        with quiet_lightning():
            records.append(fit(run))
        print_fit(run, records[-1])
    assert records[1]["from_cache"].keys() == {"teacher", "reference"}
    assert "/reference-" in capsys.readouterr().out
    (stacked,) = together([pairs(*ALIGN)], tmp_path / "stack")
    assert stacked["from_cache"] == records[1]["from_cache"]


def test_divergences_from_another_output_are_not_set_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for change in ([], SHUFFLE):
        with quiet_lightning():
            fit(parsed(pairs(*WITHOUT_KD), tmp_path / "control"))
            run = parsed(pairs(*change), tmp_path / "kd")
            record = fit(run)
        print_fit(run, record)
        found = capsys.readouterr().out.splitlines()
        shown.append(next(line for line in found if "student without KD" in line))
        shutil.rmtree(run.folder)
    assert shown[0].count("0.") == 2  # TCJSD and NCJSD
    assert shown[1].count(" - ") == 2


@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
def test_two_classes_are_refused_before_the_teacher_is_trained(
    stacked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    words = pairs(*SHUFFLE, "--data", "SyntheticDataModule", "--data.n_classes", "2")
    words += ["--model.teacher", "independent"]
    match = "ShuffleNontarget needs at least 3 classes, but synthetic has 2: remove"
    if stacked:
        (found,) = together([words], tmp_path / "stack")
        assert re.search(match, str(found))
    else:
        with pytest.raises(UserError, match=match):
            alone(words, tmp_path / "run")
    assert not list((tmp_path / "cache").glob("teachers/*"))


class Spread(Intervention):
    """One of a user: multiplies the logits of each class."""

    def __init__(self, factors: list[float]) -> None:
        self.factors = factors

    def changed(self, rows: Rows) -> torch.Tensor:
        return rows.logits * torch.tensor(self.factors)


def test_an_intervention_whose_arguments_are_lists_can_be_stacked(tmp_path: Path) -> None:
    runs = [parsed(pairs(), tmp_path / str(n)) for n in range(2)]
    for run, factor in zip(runs, (1.0, 3.0), strict=True):
        run.model.frozen_teacher.intervention = Spread([factor] * 5)
    folder = tmp_path / "stack"
    folder.mkdir()
    with quiet_lightning():
        first, second = (record["metrics"]["last"]["val"] for record in fit_stack(runs, folder))  # type: ignore[index]
    assert first["teacher_accuracy"] == second["teacher_accuracy"]
    assert first["kl"] != second["kl"]


def test_the_folder_of_a_run_names_its_intervention() -> None:
    run = Run.parse("fit", pairs(*SHUFFLE, "--mask", "SampleMask", "--mask.ratio", "0.5"))
    with quiet_lightning():
        run.load_data("fit")
    assert short_name(run.identity) == "PairedVectors-KD-SampleMask-ShuffleNontarget-seed0"


def test_saliency_is_of_the_untouched_teacher(tmp_path: Path) -> None:
    run = Run.parse("saliency", pairs(*SHUFFLE), folder=tmp_path)
    with quiet_lightning(), pytest.raises(UserError, match=r"model\.intervention .* leave it out"):
        map_divergence(run)


@pytest.mark.parametrize("beside", [True, False], ids=["kept with the run", "from the cache"])
def test_a_run_is_measured_with_its_intervention(beside: bool, tmp_path: Path) -> None:
    run = parsed(pairs(*ALIGN), tmp_path / "run")
    with quiet_lightning():
        record = fit(run)
        if not beside:
            (run.folder / "teacher.ckpt").unlink()
        config = [*pairs(*ALIGN), "--ckpt_path", str(run.last_checkpoint)]
        found = measure(Run.parse("test", config))
    assert found == pytest.approx(record["metrics"]["last"]["test"], abs=1e-7)
    assert found["ncjsd"] > 0  # of the distilled student, not of the one that was aligned with


def test_features_alone_cannot_be_intervened_on(tmp_path: Path) -> None:
    words = pairs("--model.distiller", "FitNet", "--model.distiller.layer", "hidden2", *SHUFFLE)
    with pytest.raises(UserError, match="the distiller compares hidden2 alone: choose a method"):
        parsed(words, tmp_path / "run")


def test_a_student_to_align_with_is_asked_for() -> None:
    run = Run.parse("fit", pairs(*ALIGN))
    with quiet_lightning():
        run.load_data("fit")
        teacher = run.model.frozen_teacher
        teacher.hold(teacher.untrained())
        batch = next(run.data.batches("train"))
        with pytest.raises(UserError, match="AlignNontarget needs the student trained without KD"):
            teacher.outputs(batch, "train", run.data)
