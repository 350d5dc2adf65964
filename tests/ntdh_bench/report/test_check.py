from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ntdh_bench.records.collecting import record_path
from ntdh_bench.records.files import write_record
from ntdh_bench.records.rows import csv_path, read_rows
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
    assert line.startswith(f"{path}: not JSON")


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
    write_record(other, make_record(run="f" * 16, seconds=-1.0))
    build(results, store)
    damaged, out_of_range = check(results, store)
    assert damaged.startswith(f"{path}: not JSON")
    assert "ffffffffffffffff" in out_of_range
    assert "seconds: -1.0 is not in [0, 1e+10]" in out_of_range


def test_a_file_that_is_no_csv_of_records_is_one_line(results: Path, store: Path) -> None:
    path = csv_path(results, "a_foreign_one")
    path.write_text("a,b\n1,2\n")
    write_record(record_path(store, "f" * 16), make_record(run="f" * 16))
    new, foreign, uncollected = check(results, store)
    assert new.startswith("records/a_foreign_one.csv is new")
    assert foreign.startswith(f"{path}: its columns are not those of a schema")
    assert "1 records not collected yet" in uncollected


def test_the_record_of_another_run_is_named(results: Path, store: Path) -> None:
    write_record(record_path(store, "f" * 16), make_record())
    (line,) = check(results, store)
    assert f"{'f' * 16}.json: this is the record of run {RUN}" in line


MANIFESTS = {
    "empty": "",
    "cut short": "{",
    "a list": "[]",
    "no outputs": json.dumps({"inputs": {}}),
    "too deep": "[" * 100_000,
    "NaN": '{"inputs": {}, "outputs": NaN, "unlisted_records": []}',
    "lists for mappings": '{"inputs": 0, "outputs": [1], "unlisted_records": []}',
    "an output without hash": (
        '{"inputs": {}, "outputs": {"tables/x.md": {"a": 1}}, "unlisted_records": []}'
    ),
    "numbers for runs": '{"inputs": {}, "outputs": {}, "unlisted_records": [1]}',
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_damaged_manifest_is_one_line(
    results: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / MANIFEST).write_text(MANIFESTS[kind])
    (line,) = check(results, results / "no-store")
    assert line.startswith(f"{results / MANIFEST}: ")
    assert "run `ntdh-bench tables`" in line
    build(results, results / "no-store")
    assert "leaves files of an earlier build where they are" in capsys.readouterr().err
    assert check(results, results / "no-store") == []


@pytest.mark.parametrize("name", ["../victim", "tables/../../victim", "/victim", "tables/a/b"])
def test_a_manifest_from_elsewhere_removes_nothing_outside(results: Path, name: str) -> None:
    victim = results.parent / "victim"
    victim.write_text("mine")
    manifest = json.loads((results / MANIFEST).read_text())
    manifest["outputs"][name] = {"sha256": "", "inputs": []}
    (results / MANIFEST).write_text(json.dumps(manifest))
    (line,) = check(results, results / "no-store")
    assert "damaged (a name in its outputs)" in line
    build(results, results / "no-store")
    assert victim.read_text() == "mine"
