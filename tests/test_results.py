from __future__ import annotations

from pathlib import Path

from ntdh_bench.report.check import check


def test_the_committed_results_are_up_to_date(tmp_path: Path) -> None:
    """After a change of records, sweep configs or the paper's numbers: run `ntdh-bench tables`."""
    assert check(Path("results"), tmp_path) == []
    assert list(Path("results/records").glob("*.csv"))
