from __future__ import annotations

from typing import Any

import pytest

from ntdh_bench.experiments import Run, find_experiment, load_experiment
from ntdh_bench.run_hash import run_hash
from ntdh_bench.sweep.estimate import Expected, Timing, expected_seconds


def run(name: str = "KD", seed: int = 0, epochs: int = 50, **changes: Any) -> Run:
    """Of a distiller; changes are dotted keys with __ for the dots."""
    config: dict[str, Any] = {
        "seed_everything": seed,
        "trainer": {"max_epochs": epochs},
        "model": {
            "class_path": "DistillationModule",
            "init_args": {
                "student_network": {"class_path": "MLP", "init_args": {"hidden": [8, 4]}},
                "distiller": {"class_path": name, "init_args": {"temperature": 4.0}},
                "task_weight": 1.0,
            },
        },
        "data": {"class_path": "Pairs", "init_args": {"dataset": "wiki", "batch_size": 64}},
        "mask": {"class_path": "FeatureMask", "init_args": {"ratio": 0.5, "draw": 1, "layer": "h"}},
    }
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        place = config
        for key in path:
            place = place[key]
        place[last] = value
    return Run(run_hash(config), "any", seed, {}, config)


def expected(todo: list[Run], finished: list[tuple[Run, float]]) -> Expected:
    """Of runs that are and were alone."""
    timed = [(one, Timing(seconds)) for one, seconds in finished]
    return expected_seconds([(one, False) for one in todo], timed)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 7},
        {"model__init_args__distiller__init_args__temperature": 1.0},
        {"model__init_args__distiller__class_path": "ntdh_bench.distillers.KD"},
        {"model__init_args__task_weight": 0.5},
        {"model__init_args__lam": 0.9},
        {"model__init_args__scheduler": None},
        {"mask__init_args__ratio": 0.25, "mask__init_args__draw": 2},
        {"third_party": {"own.KD": "1"}},
    ],
)
def test_runs_are_alike_that_differ_in(changes: dict[str, Any]) -> None:
    finished = [(run(), 10.0), (run(seed=1), 30.0)]
    assert expected([run(**changes)], finished) == (20.0, 1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "CRD"},
        {"model__class_path": "MutualModule"},
        {"model__init_args__distiller": None},
        {"model__init_args__student_network__init_args__hidden": [8, 5]},
        {"model__init_args__teacher_epochs": 5},
        {"model__init_args__intervention": {"class_path": "AlignNontarget"}},
        {"data__init_args__dataset": "bdgp"},
        {"data__init_args__batch_size": 32},
        {"data__init_args__unimodal": True},
        {"mask": None},
        {"trainer__max_steps": 10},
    ],
)
def test_runs_tell_nothing_of_those_that_differ_in(changes: dict[str, Any]) -> None:
    assert expected([run(**changes)], [(run(), 10.0)]) == (0, 0, 1)
    assert expected([run(**changes), run()], [(run(), 10.0)]) == (10.0, 1, 1)


def test_epochs_are_scaled_where_no_run_has_as_many() -> None:
    finished = [(run(epochs=10), 5.0), (run(epochs=20), 14.0)]
    assert expected([run(epochs=10, seed=1)], finished).seconds == 5.0
    assert expected([run(epochs=100)], finished).seconds == pytest.approx(100 * (0.5 + 0.7) / 2)


def test_seconds_that_were_not_recorded_do_not_count() -> None:
    assert expected([run(seed=1)], [(run(), 0.0)]) == (0, 0, 1)
    assert expected([], []) == (0, 0, 0)


def test_runs_in_stacks_go_by_those_in_stacks() -> None:
    alone, stacked = Timing(10.0), Timing(1.0, stacked=True)
    finished = [(run(), alone), (run(seed=1), stacked), (run("CRD"), stacked)]
    assert expected_seconds([(run(seed=2), True)], finished) == (1.0, 1, 0)
    assert expected_seconds([(run(seed=2), False)], finished) == (10.0, 1, 0)
    assert expected_seconds([(run("CRD"), False)], finished) == (0, 0, 1)


def test_protocols_of_the_paper_tell_nothing_of_each_other() -> None:
    """That of 50 epochs at full size is not as fast as the short one with other negatives."""
    table2 = load_experiment(find_experiment("table2"))
    short, long = (
        [one for one in table2.runs if one.protocol == name] for name in ("mnist_short", "mnist")
    )
    methods = {one.labels["method"] for one in short}
    found = expected(long, [(one, 10.0) for one in short if one.labels["method"] != "CRD"])
    crd = sum(one.labels["method"] == "CRD" for one in long)
    assert "CRD" in methods
    assert found.unknown >= crd
    epochs = [{one.config["trainer"]["max_epochs"] for one in part} for part in (short, long)]
    scale = epochs[1].pop() / epochs[0].pop()
    assert found.seconds == pytest.approx(10 * scale * found.runs)
