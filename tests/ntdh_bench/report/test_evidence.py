from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ntdh_bench.experiments import load_experiment, shipped_experiments
from ntdh_bench.records.collecting import outdated_path
from ntdh_bench.records.details import details_path
from ntdh_bench.records.rows import csv_path
from ntdh_bench.report import evidence
from ntdh_bench.report.evidence import shipped_runs  # before a fixture replaces it
from ntdh_bench.report.pairing import Controls
from tests.ntdh_bench.report.rows import make_row, write_results


def test_foreign_maps_are_a_problem_and_stop_nothing(tmp_path: Path) -> None:
    write_results(tmp_path, [make_row(experiment="mine", protocol="p", arm="saliency")])
    details_path(csv_path(tmp_path, "mine"), "maps").write_text("a,b\n1,2\n")
    found = evidence.read(tmp_path)
    assert len(found.rows["mine"]) == 1
    assert ["mine_maps.csv" in problem for problem in found.problems] == [True]
    assert evidence.maps(tmp_path, "mine", found.rows["mine"]) == {}


@pytest.mark.parametrize(
    "line",
    [
        "{run},1,ncjsd,nan",
        "{run},0.5,ncjsd,0.5",
        "{run},-1,ncjsd,0.5",
        "{run},1,ncjsd,5e9",
        "{run},1,,0.5",
        "{run},1",
    ],
)
def test_damaged_lines_of_curves_are_named_and_left_out(tmp_path: Path, line: str) -> None:
    row = make_row(experiment="mine", protocol="p")
    write_results(tmp_path, [row])
    lines = ["run,epoch,metric,value", f"{row['run']},0,seed,7", line.format(run=row["run"])]
    path = details_path(csv_path(tmp_path, "mine"), "curves")
    path.write_text("\n".join(lines) + "\n")
    found = evidence.read(tmp_path)
    (problem,) = found.problems
    assert problem.startswith(f"{path}, line 3: ")
    [point] = evidence.curves(tmp_path, "mine", found.rows["mine"])
    assert (point["epoch"], point["seed"]) == (0, row["seed"])  # a metric is no column of the run


@pytest.mark.parametrize("place", ["2000000000,0", "0,2000000000", "5,5", "-1,0", "1.5,0"])
def test_a_map_with_a_wrong_index_is_named_and_allocates_nothing(
    tmp_path: Path, place: str
) -> None:
    row = make_row(experiment="mine", protocol="p", arm="saliency", layer="hidden1")
    write_results(tmp_path, [row])
    pixels = [f"{row['run']},random,{y},{x},0.5" for y in range(2) for x in range(2)]
    other = [line.replace("random", "least_divergent") for line in pixels]
    path = details_path(csv_path(tmp_path, "mine"), "maps")
    lines = ["run,removes,y,x,value", *pixels, *other, f"{row['run']},random,{place},0.5"]
    path.write_text("\n".join(lines) + "\n")
    tracemalloc.start()
    found = evidence.read(tmp_path)
    shown = evidence.maps(tmp_path, "mine", found.rows["mine"])["hidden1"]
    assert tracemalloc.get_traced_memory()[1] < 64e6
    tracemalloc.stop()
    (problem,) = found.problems
    assert problem.startswith(str(path))
    whole = "line 10" in problem  # the line alone is left out, or else the map
    assert set(shown) == {"least_divergent", *(["random"] if whole else [])}


def test_comparisons_over_numbers_of_threads_are_warned_of(tmp_path: Path) -> None:
    rows = []
    for seed in range(2):
        where = {"experiment": "mine", "protocol": "p", "seed": seed}
        rows.append(make_row(**where) | {"threads": 2})
        rows.append(make_row(**where, arm="without_kd") | {"threads": 2 - seed})
    write_results(tmp_path, rows)
    assert all(row["gain"] is not None for row in evidence.read(tmp_path).all_rows if row["method"])
    (problem,) = evidence.read(tmp_path).problems
    assert problem.startswith("mine: runs are compared with their control on another number of")
    assert "(2 with 1)" in problem


def test_rows_of_runs_that_an_experiment_no_longer_has_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [make_row(experiment="table2", protocol="mnist", seed=seed) for seed in range(3)]
    rows += [make_row(experiment="mine", protocol="p", seed=seed) for seed in range(2)]
    write_results(tmp_path, rows)
    runs = {"table2": {(rows[1]["run"], "mnist"), (rows[2]["run"], "another")}}
    monkeypatch.setattr(evidence, "shipped_runs", lambda: runs)
    found = evidence.read(tmp_path)
    assert [row["seed"] for row in found.rows["table2"]] == [1]
    assert len(found.rows["mine"]) == 2  # not shipped: its last sweep says
    assert len(found.problems) == 1
    outdated = outdated_path(csv_path(tmp_path, "mine"))
    outdated.write_text(json.dumps([[rows[3]["run"], "p"]]))
    assert [row["seed"] for row in evidence.read(tmp_path).rows["mine"]] == [1]
    outdated.write_text("[[1]]")
    assert "mine.outdated.json: no list of runs" in evidence.read(tmp_path).problems[0]
    assert "2 rows of runs that table2.yaml no longer has" in found.problems[0]


def test_runs_know_the_experiment_they_are_part_of(tmp_path: Path) -> None:
    names = ["mine", "table3", "table3_features"]
    write_results(tmp_path, [make_row(experiment=name, protocol="p") for name in names])
    found = evidence.read(tmp_path)
    homes = {name: rows[0]["part_of"] for name, rows in found.rows.items()}
    assert homes == {"mine": "mine", "table3": "table3", "table3_features": "table3"}


def test_the_runs_of_experiments_whose_data_are_here() -> None:
    experiments = list(map(load_experiment, shipped_experiments().values()))
    found = shipped_runs()
    assert set(found) == {e.name for e in experiments if not e.missing}
    run = next(e for e in experiments if e.name == "fig10").runs[0]
    assert (run.hash, run.protocol) in found["fig10"]


def test_what_is_measured_of_a_map_goes_with_its_run(tmp_path: Path) -> None:
    row = make_row(experiment="fig10", protocol="mnist", arm="saliency", layer="hidden1")
    write_results(tmp_path, [row])
    of_maps = {"fig10": {"top": lambda image: float(image[0].max())}, "other": {"sum": np.sum}}
    [read] = evidence.read(tmp_path, of_maps).rows["fig10"]
    assert (read["top_most_divergent"], read["top_least_divergent"]) == (0.0, 1.0)
    assert "sum_random" not in read


def test_both_ratios_of_non_target_to_target_divergence() -> None:
    row = make_row() | {
        "last_test_nckl": 0.6,
        "last_test_tckl_size": 0.2,
        "last_test_tckl_binary": 0.3,
    }
    found = evidence.derived(row, Controls([]))
    assert found["nckl_over_tckl"] == pytest.approx(2)
    assert found["nckl_over_single_tckl"] == pytest.approx(3)
    none = evidence.derived({**row, "last_test_tckl_size": None}, Controls([]))
    assert none["nckl_over_single_tckl"] is None
