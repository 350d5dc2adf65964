"""How long the whole report of 2,000 records takes, its memory, and how long its check takes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntdh_bench.records.collecting import record_path
from ntdh_bench.records.files import write_record
from ntdh_bench.records.identity import Place
from ntdh_bench.records.rows import csv_path, to_row, write_rows
from ntdh_bench.report import evidence
from tests.ntdh_bench.report.rows import all_rows, make_record, write_results

ROOT = Path(__file__).resolve().parents[2]
SECONDS, MEGABYTES, CHECK_SECONDS = 30.0, 500.0, 1.5
REPEATS = 5
# The peak is the child's own: a parent cannot tell it from that of other children.
_SCRIPT = """
import resource, sys
from ntdh_bench.cli import main
if "--check" not in sys.argv:  # made-up rows are of no shipped experiment
    from ntdh_bench.report import evidence
    evidence.shipped_runs = dict
status = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


def run(words: list[str]) -> tuple[float, float]:
    """Seconds and peak megabytes of one process."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, "tables", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    taken = time.perf_counter() - start
    return taken, int(done.stdout.split()[-1]) / 1024


def write_store(store: Path, results: Path, count: int) -> None:
    """Write an experiment of ``count`` records with curves, and its CSV."""
    metrics = ("accuracy", "tcjsd", "ncjsd", "kl", "tckl", "nckl")
    curves = {metric: [0.123456789 / (1 + epoch) for epoch in range(50)] for metric in metrics}
    records = [make_record(run=f"{seed:016x}", seed=seed, curves=curves) for seed in range(count)]
    for record in records:
        write_record(record_path(store, record["run"]), record)
    write_rows(
        csv_path(results, "mine"), [to_row(record, Place("mine", "p")) for record in records]
    )


@pytest.mark.benchmark
def test_the_report_of_2000_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path, all_rows(5))
    monkeypatch.setattr(evidence, "shipped_runs", dict)
    count = len(evidence.read(tmp_path).all_rows)
    assert count >= 2000
    words = ["--results", str(tmp_path), "--runs"]
    built, peak = run([*words, str(tmp_path / "no-store")])
    page = (tmp_path / "index.html").stat().st_size / 1e6
    write_store(tmp_path / "store", tmp_path, count)
    run([*words, str(tmp_path / "no-store")])
    checks = [run([*words, str(tmp_path / "store"), "--check"])[0] for _ in range(REPEATS)]
    print(
        f"\nreport of {count} records: {built:.1f} s (target <= {SECONDS:.0f}), peak {peak:.0f} MB "
        f"(target <= {MEGABYTES:.0f}), page {page:.2f} MB; --check with as many again in a store: "
        f"{statistics.median(checks):.2f} s (target <= {CHECK_SECONDS})"
    )
    assert built <= SECONDS
    assert peak <= MEGABYTES
    assert statistics.median(checks) <= CHECK_SECONDS
