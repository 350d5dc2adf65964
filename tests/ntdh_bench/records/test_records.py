from __future__ import annotations

import json
import math
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench.experiments import Experiment, load_experiment
from ntdh_bench.records import collecting
from ntdh_bench.records.collecting import (
    collect,
    orphans,
    outdated_path,
    outdated_runs,
    record_path,
)
from ntdh_bench.records.columns import COLUMNS, RecordError
from ntdh_bench.records.csvs import Collected
from ntdh_bench.records.details import read_details
from ntdh_bench.records.files import SCHEMA, find_controls, gain, read_record, write_record
from ntdh_bench.records.identity import Place, arm, baseline_hash, config_hash, environment
from ntdh_bench.records.rows import csv_path, read_rows, to_row, write_rows


def identity(**model: Any) -> dict[str, Any]:
    init_args = {
        "distiller": {"class_path": "ntdh_bench.distillers.WeightedKL",
                      "init_args": {"alpha": 2, "beta": 1.0}},
        "task_weight": 1.0, "distill_weight": 1.0, "lam": None,
        "teacher": "joint", "teacher_network": {}, "teacher_epochs": None, "student_network": {},
        **model,
    }  # fmt: skip
    return {"seed": 0, "model": {"class_path": "D", "init_args": init_args}, "mask": None,
            "data": {"init_args": {"gap": 0.5, "n_classes": 4}},
            "trainer": {"max_epochs": 3}}  # fmt: skip


def record(run: str = "abc", **changes: Any) -> dict[str, Any]:
    measured = {"accuracy": 0.5, "teacher_accuracy": 0.75, "ncjsd": 0.1}
    return {
        "schema": SCHEMA, "run": run, "created": "2026-01-01T00:00:00+00:00",
        "config_hash": "c", "baseline_hash": "b", "arm": "kd", "seed": 0, "dataset": "synthetic",
        "source": "simulated", "data_fingerprint": "f", "epochs": 3, "teacher_hash": "t",
        "parameters": {"teacher": 10, "student": 11}, "seconds": 1.5,
        "metrics": {"last": {"checkpoint": "last.ckpt", "val": measured, "test": measured},
                    "best": None},
        "curves": {"ncjsd": [0.3, 0.2]}, "maps": {"random": [[0.0, 1.0]]},
        "environment": {"versions": {"ntdh-bench": "0", "torch": "2.11", "scikit-learn": "1.5"},
                        "device": "CPU", "threads": 1, "git_commit": None},
        "config": {**identity(), "mask": {"class_path": "x.FeatureMask", "init_args": {
            "ratio": 0.25, "removes": "random", "layer": "hidden1", "retrain": False}}},
        **changes,
    }  # fmt: skip


def test_arms() -> None:
    assert arm(identity()) == "kd"
    assert arm(identity(distiller=None)) == "without_kd"
    assert arm(identity(distiller=None, task_weight=2.0)) == "matched"
    assert arm(identity(distiller=None, task_weight=0.5)) == "equal_task"
    assert arm(identity(distiller=None, lam=0.5)) == "equal_task"
    assert arm(identity(distiller=None, lam=0.0)) == "without_kd"
    assert arm({"model": {"init_args": {"network": {}}}}) == "single"


def test_the_baseline_is_shared_by_what_differs_in_distillation_only() -> None:
    base = baseline_hash(identity())
    masked = {**identity(), "mask": {"class_path": "FeatureMask"}}
    assert baseline_hash(identity(distiller=None, teacher="independent")) == base
    assert baseline_hash(masked) == base
    assert baseline_hash(identity(student_network={"hidden": 3})) != base
    assert baseline_hash({**identity(), "seed": 1}) != base
    assert config_hash(identity()) != config_hash(masked)


def test_an_argument_that_went_changes_no_hash() -> None:
    """Committed rows of 2DPASS were made with it."""
    path = "ntdh_bench.models.TwoDPASSNet"
    before, now = (
        identity(student_network={"class_path": path, "init_args": {"width": 32, **former}})
        for former in ({"sparse_backend": "auto"}, {})
    )
    assert config_hash(before) == config_hash(now)
    assert baseline_hash(before) == baseline_hash(now)
    other = identity(student_network={"class_path": "own.TwoDPASSNet", "init_args": {"width": 32}})
    assert baseline_hash(other) != baseline_hash(now)


def test_third_party_code_is_part_of_what_it_changes() -> None:
    """Of the baseline only where the student without KD has it; nothing where there is none."""
    plain = identity()
    assert config_hash(plain) == "cb8d8a99297a3103"
    assert baseline_hash(plain) == "e234e50236e27fb6"
    edited = {}
    for name in ("own.Net", "own.Teacher", "own.DIST", "own.Module", "own.Data"):
        run = identity(
            student_network={"class_path": "own.Net"},
            teacher_network={"class_path": "own.Teacher"},
            distiller={"class_path": "own.DIST"},
        )
        run["model"]["class_path"] = "own.Module"
        run["data"]["class_path"] = "own.Data"
        code = dict.fromkeys(("own.Net", "own.Teacher", "own.DIST", "own.Module", "own.Data"), "1")
        before, after = {**run, "third_party": code}, {**run, "third_party": {**code, name: "2"}}
        assert config_hash(before) != config_hash(after)
        edited[name] = baseline_hash(before) != baseline_hash(after)
    assert edited == {
        "own.Net": True, "own.Teacher": False, "own.DIST": False, "own.Module": True,
        "own.Data": True,
    }  # fmt: skip


def test_records_are_found_and_damaged_ones_skipped(tmp_path: Path) -> None:
    without = identity(distiller=None)
    for name, kind in (("a", "kd"), ("b", "without_kd"), ("c", "without_kd")):
        (tmp_path / name).mkdir()
        write_record(
            tmp_path / name / "record.json",
            record(name, arm=kind, baseline_hash=baseline_hash(without)),
        )
    for name, text in (("d", "{"), ("e", "[]"), ("f", '{"schema": 99, "arm": "without_kd"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    for name, changes in (("g", {"environment": {}}), ("h", {"seconds": -1.0})):
        whole = record(name, arm="without_kd", baseline_hash=baseline_hash(without))
        (tmp_path / name).mkdir()
        write_record(tmp_path / name / "record.json", {**whole, **changes})
    half = {**identity(distiller=None, task_weight=0.5), "mask": None}
    (tmp_path / "i").mkdir()
    equal = record("i", arm="equal_task", baseline_hash=baseline_hash(without), config=half)
    write_record(tmp_path / "i" / "record.json", equal)
    found = find_controls(tmp_path, identity())
    assert {weight: record["run"] for weight, record in found.items()} == {1.0: "c", 0.5: "i"}
    assert find_controls(tmp_path, {**identity(), "seed": 1}) == {}
    assert json.loads((tmp_path / "a" / "record.json").read_text())["schema"] == SCHEMA


def test_a_gain_is_over_the_controls_best_where_it_has_one() -> None:
    def scores(last: float, best: float | None) -> dict[str, Any]:
        made = {"last": {"test": {"accuracy": last}}, "best": best and {"test": {"accuracy": best}}}
        return {"measure": "accuracy", "metrics": made}

    own = scores(0.75, 0.5)
    assert gain(own, scores(0.5, 0.25)) == 0.25
    assert gain(own, scores(0.5, 0.25), "best") == 0.25
    assert gain(own, scores(0.5, None), "best") == 0.0


def test_environment_is_plain() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert {"torch", "lightning", "python", "ntdh-bench"} <= found["versions"].keys()


def test_a_row_has_settings_and_metrics() -> None:
    row = to_row(record(), Place("fig8", "short"))
    assert row.keys() == COLUMNS.keys()
    expected = {
        "experiment": "fig8", "protocol": "short", "run": "abc", "method": "WeightedKL",
        "alpha": 2.0, "beta": 1.0, "mask": "feature", "removes": "random", "ratio": 0.25,
        "layer": "hidden1", "gap": 0.5, "classes": 4, "unimodal": False, "teacher": "joint",
        "teacher_parameters": 10, "last_test_accuracy": 0.5, "last_val_ncjsd": 0.1,
        "last_val_kl": None, "best_test_accuracy": None, "modality": None, "ntdh_bench": "0",
        "scikit_learn": "1.5", "distill_weight": 1.0, "git_commit": None,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    joint = identity(teacher_dist_weight=10.0, teacher_dist="ncjsd")
    row = to_row(record(config=joint), Place("fig8", "short"))
    assert (row["teacher_dist"], row["teacher_dist_weight"]) == ("ncjsd", 10.0)
    with_lam = record(config=identity(lam=0.25))
    row = to_row(with_lam, Place("fig8", "short"))
    assert (row["task_weight"], row["distill_weight"], row["mask"]) == (0.75, 0.25, None)


def test_classes_of_users_have_rows() -> None:
    settings = {
        **identity(), "model": {"class_path": "mine.Model"}, "data": {"class_path": "mine.Data"},
        "mask": {"class_path": "mine.Blur"},
    }  # fmt: skip
    row = to_row(record(config=settings, parameters={}), Place("own", "p"))
    assert (row["mask"], row["removes"], row["method"], row["gap"]) == ("Blur", None, None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": None},
        {"seconds": float("nan")},
        {"seed": "0"},
        {"config": {}},
        {"epochs": 1.5},
        {"environment": []},
    ],
)
def test_a_record_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="run abc is not as it was written"):
        to_row(record(**changes), Place("fig8", "short"))


def with_column(name: str, value: Any) -> dict[str, Any]:
    """A record in which the value of one column is another."""
    changed = record()
    if name in ("teacher_parameters", "student_parameters"):
        changed["parameters"][name.partition("_")[0]] = value
    elif name == "threads":
        changed["environment"]["threads"] = value
    elif name.startswith("last_test_"):
        changed["metrics"]["last"]["test"] = {name.removeprefix("last_test_"): value}
    elif name in ("gap", "classes", "teacher_noise"):
        changed["config"]["data"]["init_args"][name] = value
    elif name == "ratio":
        changed["config"]["mask"]["init_args"][name] = value
    elif name in ("task_weight", "teacher_epochs", "teacher_dist_weight"):
        changed["config"]["model"]["init_args"][name] = value
    else:
        changed[name] = value
    return changed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1), ("epochs", 10**30), ("seconds", -1), ("seconds", 1e300), ("seed", -1),
        ("seed", 2**32), ("threads", 0), ("ratio", 1.01), ("gap", -0.1), ("classes", 1),
        ("teacher_noise", -1), ("task_weight", -0.5), ("teacher_epochs", -1),
        ("teacher_dist_weight", -0.1), ("teacher_parameters", -1),
        ("student_parameters", 10**400), ("stack", 0), ("stack", 2.0), ("last_test_accuracy", 1.01),
        ("last_test_accuracy", -0.01), ("last_test_teacher_accuracy", 100), ("last_test_miou", -1),
        ("last_test_ncjsd", 5e9), ("last_test_ncjsd", 0.6932), ("last_test_tcjsd", -0.01),
        ("last_test_kl", -0.01), ("last_test_kl", 1e39), ("last_test_kl", 10**400),
        ("last_test_tckl", -0.37), ("last_test_tckl_binary", -1), ("last_test_nckl", -1),
        ("last_test_nckl", float("nan")), ("source", "imagined"), ("arm", ""), ("dataset", None),
        ("run", None), ("seed", None), ("arm", "=1+1"), ("method", "@SUM(A1)"),
        ("method", "two\nlines"), ("method", "x" * 301), ("created", "\x00"),
    ],
)  # fmt: skip
def test_every_column_has_a_range(tmp_path: Path, name: str, value: Any) -> None:
    """In a record and in a row of a CSV."""
    with pytest.raises(RecordError, match=rf"is not as it was written: .*{name}"):
        to_row(with_column(name, value), Place("fig8", "short"))
    row = {**to_row(record(), Place("fig8", "short")), name: value}
    path = tmp_path / "fig8.csv"
    write_rows(path, [row, to_row(record("b"), Place("fig8", "short"))])
    found = read_rows(path)
    assert [row["run"] for row in found.rows] == ["b"]
    (problem,) = found.problems
    assert name in problem
    assert len(problem) < 400


def test_the_ends_of_ranges_are_inside_and_rounding_is_allowed() -> None:
    for name, value in (
        ("epochs", 0), ("seed", 2**32 - 1), ("ratio", 1), ("last_test_accuracy", 1.0000001),
        ("last_test_ncjsd", 0.6931472), ("last_test_tckl", -0.3678), ("last_test_nckl", -1e-7),
        ("last_test_kl", 2e4),
    ):  # fmt: skip
        assert to_row(with_column(name, value), Place("fig8", "short"))[name] == value


def test_a_file_without_the_column_of_stacks_is_of_this_schema(tmp_path: Path) -> None:
    """So it was written before there were any; what is written next has it."""
    rows = [to_row(record("a"), Place("fig8", "short"))]
    path = tmp_path / "fig8.csv"
    write_rows(path, rows)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    place = lines[0].index("stack")
    assert all(not line.pop(place) for line in lines[1:])
    del lines[0][place]
    path.write_text("".join(f"{','.join(line)}\n" for line in lines))
    assert read_rows(path) == (rows, [])
    stacked = to_row(record("b", stack=40), Place("fig8", "short", {"ratio": "0.5"}))
    write_rows(path, [*rows, stacked])
    assert [row["stack"] for row in read_rows(path).rows] == [None, 40]


def test_the_late_gain_is_that_of_the_score_over_the_last_fifth() -> None:
    def gain(curve: list[float]) -> float | None:
        curves = {"accuracy": curve, "ncjsd": [0.0] * 50}
        value = to_row(record(curves=curves), Place("fig8", "short"))["late_gain"]
        return None if value is None else float(value)

    rising = [epoch / 100 for epoch in range(50)]
    assert gain(rising) == pytest.approx(0.10)  # a point an epoch, ten epochs
    assert gain([*rising[:40], *[0.39] * 10]) == pytest.approx(0.02)
    noisy = [0.5 + 0.01 * (-1) ** epoch for epoch in range(10)]
    assert gain(noisy) == pytest.approx(0.0)
    assert gain([0.0, 0.0, 0.0, 0.25, 0.5]) == pytest.approx(0.25)  # no epoch is of both parts
    assert gain([0.1, 0.2, 0.3, 0.4]) is None
    assert gain([]) is None
    with pytest.raises(RecordError, match="record of run abc is not as it was written"):
        gain([0.1, 0.2, 0.3, 0.4, math.nan])


def test_a_csv_from_before_the_late_gain_is_read(tmp_path: Path) -> None:
    row = to_row(record(), Place("fig8", "short", {"ratio": "0.25"}))
    write_rows(tmp_path / "fig8.csv", [row])
    lines = [line.split(",") for line in (tmp_path / "fig8.csv").read_text().splitlines()]
    place = lines[0].index("late_gain")
    for line in lines:
        del line[place]
    (tmp_path / "fig8.csv").write_text("".join(f"{','.join(line)}\n" for line in lines))
    assert read_rows(tmp_path / "fig8.csv") == ([row], [])


def with_mask(name: str = "FeatureMask", **given: Any) -> dict[str, Any]:
    mask = {"class_path": f"x.{name}", "init_args": {"ratio": 0.25, **given}}
    return record(config={**identity(), "mask": mask})


@pytest.mark.parametrize(
    ("given", "columns"),
    [
        ({"retrain": False}, (False, "zero", 0, "signed")),
        ({"retrain": True}, (True, "retrain", 0, "signed")),
        ({"fill": "mean", "saliency": "literal"}, (False, "mean", 0, "literal")),
        ({"retrain": False, "draw": 3}, (False, "zero", 3, "signed")),
        ({"name": "SampleMask"}, (None, None, None, None)),
    ],
)
def test_how_a_mask_fills_and_chooses(
    given: dict[str, Any], columns: tuple[Any, ...], tmp_path: Path
) -> None:
    names = ("retrain", "fill", "draw", "saliency")
    row = to_row(with_mask(**given), Place("fig8", "short"))
    assert tuple(row[name] for name in names) == columns
    write_rows(tmp_path / "fig8.csv", [row])
    assert read_rows(tmp_path / "fig8.csv").rows == [row]


@pytest.mark.parametrize("given", [{"retrain": False}, {"retrain": True}, {"name": "SampleMask"}])
def test_rows_of_before_there_were_fills_say_what_their_masks_did(
    given: dict[str, Any], tmp_path: Path
) -> None:
    row = to_row(with_mask(**given), Place("fig8", "short"))
    older = {name: row[name] for name in row if name not in ("fill", "draw", "saliency")}
    write_rows(tmp_path / "fig8.csv", [older])
    assert read_rows(tmp_path / "fig8.csv").rows == [row]


def test_the_threads_are_those_that_trained_the_student() -> None:
    shared = record(arm="without_kd", control_environment={"threads": 4})
    assert to_row(shared, Place("fig8", "short"))["threads"] == 4


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    changed = record(metrics={"last": {"test": {"kl": float("inf")}}, "best": None})
    with pytest.raises(RecordError, match=r"record\.json is not written: metrics\.last\.test"):
        write_record(path, changed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"schema": 3, "x": NaN}',
        '{"schema": true}',
        '{"schema": [2]}',
        "\ufeff",
        "{",
    ],
)
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"record\.json: ") as raised:
        read_record(path)
    assert len(str(raised.value)) <= 400
    assert "\n" not in str(raised.value)


def test_rows_survive_a_file(tmp_path: Path) -> None:
    rows = [to_row(record(run), Place("fig8", "short")) for run in ("a", "b")]
    rows[0]["last_test_accuracy"] = 0.1 + 0.2  # all digits are kept
    path = tmp_path / "deep" / "fig8.csv"
    write_rows(path, rows)
    assert read_rows(path) == (rows, [])
    text = path.read_text()
    path.write_text(text.replace(",11,", ",x,", 1))
    found = read_rows(path)
    assert [row["run"] for row in found.rows] == ["b"]
    assert "fig8.csv, line 2: student_parameters is not of type int" in found.problems[0]
    path.write_text(text.replace(",0.30000000000000004,", ",nan,", 1))
    assert "line 2: last_test_accuracy: nan is not a finite number" in read_rows(path).problems[0]
    path.write_text(text + text.splitlines()[1].replace(",1.5,", ",9.5,") + "\n")
    assert read_rows(path) == (
        rows,
        [f"{path}: run a is there twice: its first row counts"],
    )
    path.write_text(text.rstrip())  # cut short in the last cell
    found = read_rows(path)
    assert [row["run"] for row in found.rows] == ["a"]
    assert "fig8.csv, line 3: not as many cells" in found.problems[0]
    path.write_text(text.replace("ncjsd", "njsd"))
    with pytest.raises(RecordError, match="columns are not those of a schema"):
        read_rows(path)


@pytest.mark.parametrize(
    ("schema", "readable"), [(1, False), (2, True), (3, True), (4, True), (5, False)]
)
def test_records_of_older_schemas_are_read(tmp_path: Path, schema: int, readable: bool) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**record("a"), "schema": schema}))
    if readable:
        assert read_record(path)["run"] == "a"
    else:
        with pytest.raises(RecordError, match=f"schema {schema}; this version reads 2, 3, 4"):
            read_record(path)


def test_a_module_may_name_its_own_method_and_measure() -> None:
    """PMF and 2DPASS have no distiller; dense data are judged by mIoU."""
    measured = {"last": {"test": {"miou": 0.25, "teacher_miou": 0.5}}, "best": None}
    row = to_row({**record(), "method": "PMF", "metrics": measured}, Place("table4", "small"))
    assert (row["method"], row["last_test_miou"], row["last_test_teacher_miou"]) == (
        "PMF", 0.25, 0.5,
    )  # fmt: skip
    assert row["last_test_accuracy"] is None


# -- collecting ----------------------------------------------------------------------------------


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    spec = {
        "title": "t", "requires": "synthetic", "command": "saliency", "base": [],
        "protocols": {"p": {"seeds": 3}}, "keep": ["curves", "maps"],
        "grids": [{"overrides": {"a": 1}}],
    }  # fmt: skip
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(spec))
    return load_experiment(path)


def write(store: Path, run: str, **changes: Any) -> None:
    """Write a record of a seed of its own."""
    changes = {"seed": zlib.crc32(run.encode()), **changes}
    write_record(record_path(store, run), record(run, **changes))


def test_collect(tmp_path: Path, experiment: Experiment) -> None:
    store, results = tmp_path / "store", tmp_path / "results"
    first, second, third = (run.hash for run in experiment.runs)
    write(store, first)
    write(store, second, curves={"ncjsd": [0.5]})
    write(store, "anothers")
    found = collect(experiment, store, results)
    assert found.problems == []
    assert [row["run"] for row in found.rows] == [first, second]
    path = csv_path(results, "own")
    assert read_rows(path).rows == found.rows
    curves = read_details(path, "curves").rows
    assert [(row["run"], row["epoch"], row["value"]) for row in curves] == [
        (first, 0, 0.3), (first, 1, 0.2), (second, 0, 0.5),
    ]  # fmt: skip
    assert read_details(path, "maps").rows[1] == {
        "run": first, "removes": "random", "y": 0, "x": 1, "value": 1.0,
    }  # fmt: skip

    # Another machine has the results but not the store: rows stay, new ones join.
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, third)
    (elsewhere / "records" / f"{first}.json").write_text("{")
    found = collect(experiment, elsewhere, results)
    assert [row["run"] for row in found.rows] == [first, second, third]
    assert len(read_details(path, "curves").rows) == 5
    (problem,) = found.problems
    assert f"{first}.json: not JSON" in problem


def test_lines_that_cannot_be_used_are_kept_beside_the_file(
    tmp_path: Path, experiment: Experiment
) -> None:
    """Collecting writes the CSV without them; nothing that was measured is lost."""
    store, results = tmp_path / "store", tmp_path / "results"
    first, second, _ = (run.hash for run in experiment.runs)
    write(store, first)
    path = csv_path(results, "own")
    collect(experiment, store, results)
    damaged = path.read_text().replace(",1.5,", ",-1.5,")
    path.write_text(damaged)
    record_path(store, first).unlink()
    found = collect(experiment, store, results)
    assert found.rows == []
    assert path.read_text() == damaged
    write(store, second)
    found = collect(experiment, store, results)
    (copy,) = path.parent.glob("own.csv.*.damaged")
    assert copy.read_text() == damaged
    assert "line 2: seconds: -1.5 is not in [0, 1e+10]" in found.problems[0]
    assert str(copy) in found.problems[1]
    assert collect(experiment, store, results).problems == []


def test_collecting_again_changes_nothing(tmp_path: Path, experiment: Experiment) -> None:
    store, results = tmp_path / "store", tmp_path / "results"
    for run in experiment.runs:
        write(store, run.hash)
    collect(experiment, store, results)
    before = {path: path.stat().st_mtime_ns for path in (results / "records").iterdir()}
    assert len(before) == 3
    collect(experiment, store, results)
    assert {path: path.stat().st_mtime_ns for path in (results / "records").iterdir()} == before


def test_rows_of_runs_that_left_the_grid_stay_and_are_named(
    tmp_path: Path, experiment: Experiment
) -> None:
    store, results = tmp_path / "store", tmp_path / "results"
    for run in experiment.runs:
        write(store, run.hash)
    rows = collect(experiment, store, results).rows
    path = csv_path(results, "own")
    curves = read_details(path, "curves").rows
    changed = load_experiment(experiment.path, {"a": 2})
    write(store, changed.runs[2].hash)
    for again in range(2):
        # Another sweep may have run them again: then their rows follow.
        write(store, experiment.runs[0].hash, seconds=9.0 + again)
        rows[0]["seconds"] = 9.0 + again
        found = collect(changed, store, results)
        assert [row["run"] for row in found.rows] == [changed.runs[2].hash]
        (problem,) = found.problems
        assert f"own.csv: 3 rows of runs that {changed.path} no longer has are kept" in problem
        kept = read_rows(path).rows
        assert kept == [*found.rows, *rows]
        assert orphans(changed, kept) == rows
        assert read_details(path, "curves").rows[2:] == curves
        outdated = {(row["run"], row["protocol"]) for row in rows}
        assert outdated_runs(path) == outdated
    collect(experiment, store, results)  # as it was: now the new row is out of date
    assert outdated_runs(path) == {(changed.runs[2].hash, changed.runs[2].protocol)}
    write_rows(path, rows)
    record_path(store, changed.runs[2].hash).unlink()
    collect(experiment, store, results)
    assert not outdated_path(path).exists()


def test_without_the_data_set_nothing_changes(tmp_path: Path, experiment: Experiment) -> None:
    store, results = tmp_path / "store", tmp_path / "results"
    write(store, experiment.runs[0].hash)
    rows = collect(experiment, store, results).rows
    write(store, experiment.runs[0].hash, seconds=9.0)
    before = csv_path(results, "own").read_bytes()
    missing = replace(experiment, missing=True, runs=())
    assert collect(missing, store, results) == (rows, [])
    assert orphans(missing, rows) == []
    assert csv_path(results, "own").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"curves": None}, "the curves of run"),
        ({"curves": {"ncjsd": [0.1, None]}}, "the curves of run"),
        ({"curves": {"ncjsd": [0.1, 0.7]}}, "ncjsd: 0.7 is not in [0, 0.693147]"),
        ({"maps": {"random": [0.5]}}, "the maps of run"),
        ({"metrics": {"last": {"test": {"accuracy": 2}}, "best": None}}, "2 is not in [0, 1]"),
        ({"run": "another"}, "this is the record of run another"),
    ],
)
def test_a_damaged_record_is_named_and_the_others_collected(
    tmp_path: Path, experiment: Experiment, changes: dict[str, Any], problem: str
) -> None:
    store, results = tmp_path / "store", tmp_path / "results"
    first, second, _ = (run.hash for run in experiment.runs)
    write_record(record_path(store, first), {**record(first), **changes})
    write(store, second)
    found = collect(experiment, store, results)
    assert [row["run"] for row in found.rows] == [second]
    (told,) = found.problems
    assert problem in told
    assert first in told


def test_collecting_waits_for_another_one_and_leaves_no_lock(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, results = tmp_path / "store", tmp_path / "results"
    write(store, experiment.runs[0].hash)
    order, update = [], collecting._update

    def slow_update(*args: Any) -> Collected:
        order.append("starts")
        time.sleep(0.2)
        found = update(*args)
        order.append("ends")
        return found

    monkeypatch.setattr(collecting, "_update", slow_update)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: collect(experiment, store, results), range(2)))
    assert order == ["starts", "ends"] * 2
    assert {path.name for path in (results / "records").iterdir()} == {
        "own.csv", "own_curves.csv", "own_maps.csv",
    }  # fmt: skip


@pytest.mark.parametrize("path", [Path("/dev/zero"), Path("/")])
def test_only_files_hold_rows(path: Path) -> None:
    with pytest.raises(RecordError, match="no regular file"):
        read_rows(path)


def test_names_that_become_files_are_short() -> None:
    with pytest.raises(RecordError, match="protocol has more than 100 characters"):
        to_row(record(), Place("mine", "p" * 101))
