from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ntdh_bench import records


def identity(**model: Any) -> dict[str, Any]:
    init_args = {
        "distiller": {"class_path": "KD"}, "task_weight": 1.0, "distill_weight": 1.0, "lam": None,
        "teacher": "joint", "teacher_network": {}, "teacher_epochs": None, "student_network": {},
        **model,
    }  # fmt: skip
    return {"seed": 0, "model": {"class_path": "D", "init_args": init_args}, "mask": None,
            "data": {}, "trainer": {"max_epochs": 3}}  # fmt: skip


def test_arms() -> None:
    assert records.arm(identity()) == "kd"
    assert records.arm(identity(distiller=None)) == "without_kd"
    assert records.arm(identity(distiller=None, task_weight=2.0)) == "matched"
    assert records.arm({"model": {"init_args": {"network": {}}}}) == "single"


def test_the_baseline_is_shared_by_what_differs_in_distillation_only() -> None:
    base = records.baseline_hash(identity())
    masked = {**identity(), "mask": {"class_path": "FeatureMask"}}
    assert records.baseline_hash(identity(distiller=None, teacher="independent")) == base
    assert records.baseline_hash(masked) == base
    assert records.baseline_hash(identity(student_network={"hidden": 3})) != base
    assert records.baseline_hash({**identity(), "seed": 1}) != base
    assert records.config_hash(identity()) != records.config_hash(masked)


def test_records_are_found_and_damaged_ones_skipped(tmp_path: Path) -> None:
    without = identity(distiller=None)
    for name, arm in (("a", "kd"), ("b", "without_kd"), ("c", "without_kd")):
        (tmp_path / name).mkdir()
        records.write_record(
            tmp_path / name / "record.json",
            {"arm": arm, "name": name, "baseline_hash": records.baseline_hash(without)},
        )
    for name, text in (("d", "{"), ("e", "[]"), ("f", '{"schema": 99, "arm": "without_kd"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    assert [record["name"] for record in records.read_records(tmp_path)] == ["a", "b", "c"]
    found = records.find_without_kd(tmp_path, identity())
    assert found is not None
    assert found["name"] == "c"
    assert records.find_without_kd(tmp_path, {**identity(), "seed": 1}) is None
    assert json.loads((tmp_path / "a" / "record.json").read_text())["schema"] == records.SCHEMA


def test_environment_is_plain() -> None:
    found = records.environment()
    assert json.loads(json.dumps(found)) == found
    assert {"torch", "lightning", "python", "ntdh-bench"} <= found["versions"].keys()
