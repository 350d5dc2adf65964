from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ntdh_bench.cli import main
from ntdh_bench.composition import read_config
from ntdh_bench.experiments import Experiment, Run, load_shipped
from ntdh_bench.records.identity import place
from tests.helpers import small_and_simulated

EXPERIMENTS = load_shipped()


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted keys of a config with their values, numbers and lists as what they are."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}")
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        yield key, "number" if number else "list" if isinstance(value, list) else str(value)


def shown_by(config: dict[str, Any]) -> frozenset[Any]:
    """What a run of a config shows: settings of its module, networks and data; a mask's, of any.

    Where samples are labelled as wholes, there are many data sets and methods: data and module show
    what is theirs apart, and distillers show their settings of any.
    """
    small = {word.rpartition(".")[2] for word in small_and_simulated(config)}
    settings = [leaf for leaf in leaves(config) if leaf[0].rpartition(".")[2] not in small]
    classes = [leaf for leaf in settings if re.match(r"\.(data|model(.*network)?)\.class", leaf[0])]
    dense = re.search("NYUDepth|SemanticKITTI", str(classes))
    of_any = re.compile(r"\.mask($|\.init_args)" if dense else r"\.(mask|.*distiller)($|\.)")

    def family(key: str) -> str:
        part = key.split(".")[1]
        own = [leaf for leaf in classes if dense or leaf[0].startswith(f".{part}.")]
        return "" if of_any.match(key) else str([config.get("command"), *(own or classes)])

    return frozenset((family(key), key, value) for key, value in settings)


def labels_of(experiment: Experiment, run: Run) -> frozenset[Any]:
    """The labels of a run in its experiment, or in all of a network that takes seconds."""
    model, data = run.config["model"], run.config["data"]
    own = experiment.name if "MLP" in str(model) else model["class_path"] + data["class_path"]
    labels = ((axis, re.sub(r"^[\d.]+$", "number", label)) for axis, label in run.labels.items())
    return frozenset((own, *label) for label in labels)


def covering(runs: Mapping[frozenset[Any], Any], shown: set[Any]) -> Iterator[Any]:
    """Yield runs until all that any of them shows is ``shown``, the one with most of it first."""
    while new := (best := max(runs, key=lambda run: len(run - shown))) - shown:
        shown |= new
        yield runs[best]


def one_of_each() -> Iterator[Any]:
    """Runs that show what no shipped config does; slow, those for each label of an experiment."""
    runs = [
        (experiment, run)
        for experiment in EXPERIMENTS
        for run in reversed(experiment.runs)  # the first is kept of those that show the same
        if run.seed == experiment.protocols[run.protocol].seeds[0]
    ]
    settings = {shown_by(run.config): (experiment, run) for experiment, run in runs}
    labels = {labels_of(experiment, run): (experiment, run) for experiment, run in runs}
    shipped = map(read_config, Path("configs").glob("*.yaml"))  # test_configs.py runs them
    quick = list(covering(settings, set().union(*map(shown_by, shipped))))
    seen = {label for found in quick for label in labels_of(*found)}
    for marks, found in (((), quick), (pytest.mark.slow, covering(labels, seen))):
        for experiment, run in found:
            name = f"{experiment.name}-{'-'.join(run.labels.values())}"
            yield pytest.param(run, id=name, marks=marks)


@pytest.mark.usefixtures("narrow_networks")
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


def test_every_method_is_compared_with_the_others() -> None:
    """A new overlay needs a line in the sweep of all methods."""
    swept = Path("configs/sweeps/methods.yaml").read_text()
    names = [path.name for path in Path("configs/methods").glob("*.yaml")]
    assert [name for name in names if f"{{config: ../methods/{name}" not in swept] == []


def test_every_experiment_has_runs() -> None:
    assert all(experiment.runs and not experiment.missing for experiment in EXPERIMENTS)


def test_equal_runs_are_shared() -> None:
    """What two experiments have in common is run once."""
    runs = {experiment.name: {run.hash for run in experiment.runs} for experiment in EXPERIMENTS}
    assert runs["eq18"] < runs["fig3"]
    assert runs["fig9a"] & runs["table2"]
    assert runs["fig13a"] | runs["fig13b"] <= runs["table4"] | runs["table4_small"]


def test_every_specification_has_both_doses_and_the_main_one_is_that_of_the_study() -> None:
    found = {experiment.name: experiment for experiment in EXPERIMENTS}
    runs = [run for run in found["sensitivity"].runs if run.labels["student"] == "distilled"]
    doses: dict[tuple[str, int, str], list[str]] = {}
    for run in runs:
        cell = run.protocol, run.seed, run.labels["specification"]
        doses.setdefault(cell, []).append(run.labels["intervention"])
    assert all(sorted(labels) == ["none", "shuffle_nontarget"] for labels in doses.values())
    main = {run.hash for run in runs if run.labels["specification"] == "main"}
    assert main < {run.hash for run in found["interventions"].runs}


def test_a_main_protocol_weighs_the_cross_entropy_by_1() -> None:
    """Other weights are those of protocols whose names say so, with a control of their own.

    But of Algorithm 1 alone, of a trial, and of what varies the weights.
    """
    others = ("fig10", "smoke", "sensitivity")
    weights: dict[str, set[tuple[float, float]]] = {}
    controls: dict[str, set[float]] = {}
    for experiment in EXPERIMENTS:
        for run in experiment.runs if experiment.name not in others else ():
            model = run.config["model"]["init_args"]
            if "distiller" not in model or "SimKD" in str(model["distiller"]):
                continue
            pair = model["task_weight"], model["distill_weight"]
            if model["distiller"]:
                weights.setdefault(run.protocol, set()).add(pair)
            elif pair[0] < 1:
                controls.setdefault(run.protocol, set()).add(pair[0])
    named = {name: pairs for name, pairs in weights.items() if pairs != {(1.0, 1.0)}}
    assert len(weights) > 2 * len(named) > 0
    for name, pairs in named.items():
        ((task, distill),) = pairs
        assert name.endswith(("_authors", "_convex"))
        assert task + distill == 1
        assert controls.get(name) == ({task} if task else None)
    assert controls.keys() <= named.keys()


@pytest.mark.parametrize("name", ["fig11a", "fig11b", "fig11b_dkd"])
def test_every_sample_mask_has_a_control(name: str) -> None:
    """Measured on the rows that it leaves, before distillation."""
    (experiment,) = (found for found in EXPERIMENTS if found.name == name)
    kept: dict[bool, set[Any]] = {True: set(), False: set()}
    for run in experiment.runs:
        where = place(name, run)
        distils = run.config["model"]["init_args"]["distiller"] is not None
        kept[distils].add((run.protocol, run.seed, where.pair_hash, where.mask_hash))
    assert kept[True] == kept[False]


def test_random_masks_are_as_they_were_drawn() -> None:
    (experiment,) = (found for found in EXPERIMENTS if found.name == "random_masks")
    drawn: dict[str, set[tuple[float, int]]] = {}
    for run in experiment.runs:
        if mask := run.config["mask"]:
            given = mask["init_args"]
            drawn.setdefault(run.labels["mask"], set()).add((given["ratio"], given["draw"]))
    ratios = np.random.default_rng(0).uniform(0.05, 0.7, 40).round(3)
    assert drawn == {f"r{n:02d}": {(ratio, n + 1)} for n, ratio in enumerate(ratios.tolist())}


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
