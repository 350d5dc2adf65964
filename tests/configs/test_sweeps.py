from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench.cli import main
from ntdh_bench.experiments import Run, load_experiment, shipped_experiments
from tests.helpers import small_and_simulated

EXPERIMENTS = [load_experiment(path) for path in shipped_experiments()]


def one_of_each() -> Iterator[Any]:
    """Runs that show every label once for each pair of module and data; of numbers, the first does.

    Further runs, which show the same labels in other experiments, are slow: seconds each.
    """
    tried, shown_in = set(), set()
    for experiment in EXPERIMENTS:
        for run in experiment.runs:
            model, data = run.config["model"], run.config["data"]
            family = model["class_path"] + data["class_path"]
            own = experiment.name if "MLPClassifier" in str(model) else family
            labels = {
                (axis, re.sub(r"^[\d.]+$", "number", label)) for axis, label in run.labels.items()
            } or {("", "")}
            new = {(family, *label) for label in labels} - tried
            new_here = {(own, *label) for label in labels} - shown_in
            tried |= new
            shown_in |= new_here
            if new or new_here:
                marks = () if new else (pytest.mark.slow,)
                name = f"{experiment.name}-{'-'.join(run.labels.values())}"
                yield pytest.param(run, id=name, marks=marks)


@pytest.mark.parametrize("run", list(one_of_each()))
def test_every_kind_of_run_works(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    settings = {name: value for name, value in run.config.items() if name != "command"}
    path.write_text(yaml.safe_dump(settings))
    small = small_and_simulated(run.config)
    trial = ["--trainer.fast_dev_run", "true", "--trainer.enable_progress_bar", "false"]
    command = run.config.get("command", "fit")
    assert main([command, "--config", str(path), "--run_dir", str(tmp_path), *small, *trial]) == 0


def test_experiments_of_the_paper_are_there() -> None:
    names = {experiment.name for experiment in EXPERIMENTS}
    assert {f"table{number}" for number in range(1, 5)} <= names
    assert {"fig3", "fig6", "fig8", "fig10", "fig12"} <= names
    for figure, letters in (("fig7", "abcd"), ("fig9", "ab"), ("fig11", "ab"), ("fig13", "ab")):
        assert {figure + letter for letter in letters} <= names
    argued = {"unimodal", "eq18", "eq25", "teacher_accuracy", "two_teachers"}
    assert argued <= names


def test_every_experiment_has_runs() -> None:
    assert all(experiment.runs and not experiment.missing for experiment in EXPERIMENTS)


def test_equal_runs_are_shared() -> None:
    """What two experiments have in common is run once."""
    runs = {experiment.name: {run.hash for run in experiment.runs} for experiment in EXPERIMENTS}
    assert runs["eq18"] < runs["fig3"]
    assert runs["fig9a"] & runs["table2"]
    assert runs["fig13a"] | runs["fig13b"] <= runs["table4"] | runs["table4_small"]


def test_protocols_of_a_name_mean_the_same() -> None:
    """`mnist_short` must not drift apart between the files that repeat it.

    Methods that are no distillers (PMF, 2DPASS) have settings of their own.
    """
    found: dict[tuple[str, str], set[tuple[object, ...]]] = {}
    for experiment in EXPERIMENTS:
        for run in experiment.runs:
            trainer, model = run.config["trainer"], run.config["model"]["init_args"]
            key = (
                trainer["max_epochs"],
                str(model["optimizer"]),
                str(run.config["data"]["class_path"]),
            )
            name = (run.protocol, run.config["model"]["class_path"])
            found.setdefault(name, set()).add(key)
    assert {name: len(keys) for name, keys in found.items()} == dict.fromkeys(found, 1)
