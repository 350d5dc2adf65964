from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ntdh_bench.records import csv_path, read_rows, record_path, write_record
from ntdh_bench.report import check as module
from ntdh_bench.report.build import build
from ntdh_bench.report.check import MANIFEST, check
from tests.ntdh_bench.report.rows import RUN, make_record


@pytest.fixture
def store(results: Path, tmp_path: Path) -> Path:
    """A store with one record, that of ``mine``."""
    folder = tmp_path / "store"
    write_record(record_path(folder, RUN), make_record())
    return folder


def test_fresh_results_are_up_to_date(results: Path, store: Path) -> None:
    assert check(results, store) == []
    assert check(results, results / "no-store") == []


def test_a_changed_csv_is_named_with_what_depends_on_it(results: Path, store: Path) -> None:
    path = csv_path(results, "table2")
    path.write_text(path.read_text().replace("x86_64", "arm64"))
    (line,) = check(results, store)
    assert line.startswith("records/table2.csv changed; stale: ")
    assert "tables/table2-mnist-real.md" in line.partition("stale")[2]
    assert "smoke" not in line


def test_new_and_lost_inputs_are_named(results: Path, store: Path) -> None:
    shutil.move(csv_path(results, "smoke"), csv_path(results, "other"))
    found = check(results, store)
    assert any(line.startswith("records/other.csv is new; stale: ") for line in found)
    assert any(line.startswith("records/smoke.csv is gone; stale: ") for line in found)


def test_another_version_or_paper_is_named(
    results: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "__version__", "9.9")
    (line,) = check(results, store)
    assert line.startswith("ntdh-bench changed; stale: ")


@pytest.mark.parametrize("name", ["index.html", "claims.csv", "tables/table2-mnist-real.tex"])
def test_edited_and_missing_outputs_are_named(results: Path, store: Path, name: str) -> None:
    path = results / name
    path.write_text(path.read_text() + " ")
    assert check(results, store) == [f"{path} was edited"]
    path.unlink()
    assert check(results, store) == [f"{path} is missing"]


def test_a_record_that_differs_from_its_row_is_named(results: Path, store: Path) -> None:
    path = record_path(store, RUN)
    changed = make_record(metrics={"last": {"test": {"accuracy": 0.6}}, "best": None})
    write_record(path, changed)
    assert check(results, store) == [f"{path} differs from its row in records/mine.csv"]


def test_a_damaged_record_is_named(results: Path, store: Path) -> None:
    path = record_path(store, RUN)
    path.write_text("{")
    (line,) = check(results, store)
    assert line.startswith(f"{path}: not a whole record")


def test_a_record_that_was_not_collected_is_named_unless_no_experiment_has_it(
    results: Path, store: Path
) -> None:
    write_record(record_path(store, "f" * 16), make_record(run="f" * 16))
    (line,) = check(results, store)
    assert "1 records not collected yet (ffffffffffffffff)" in line
    build(results, store)
    assert check(results, store) == []
    assert [row["run"] for row in read_rows(csv_path(results, "mine")).rows] == [RUN]


def test_a_damaged_record_that_was_never_collected_is_named(results: Path, store: Path) -> None:
    path, other = (record_path(store, letter * 16) for letter in "ef")
    path.write_text("{")
    write_record(other, make_record(run="f" * 16, seconds=float("nan")))
    build(results, store)
    damaged, not_finite = check(results, store)
    assert damaged.startswith(f"{path}: not a whole record")
    assert "ffffffffffffffff" in not_finite
    assert "nan is not a finite number" in not_finite


def test_a_file_that_is_no_csv_of_records_is_one_line(results: Path, store: Path) -> None:
    path = csv_path(results, "a_foreign_one")
    path.write_text("a,b\n1,2\n")
    write_record(record_path(store, "f" * 16), make_record(run="f" * 16))
    new, foreign, uncollected = check(results, store)
    assert new.startswith("records/a_foreign_one.csv is new")
    assert foreign.startswith(f"{path}: its columns are not those of schema")
    assert "1 records not collected yet" in uncollected


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"inputs": {}})])
def test_a_damaged_manifest_is_no_traceback(results: Path, text: str) -> None:
    (results / MANIFEST).write_text(text)
    (line,) = check(results, results / "no-store")
    assert "missing or damaged" in line
