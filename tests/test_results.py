from __future__ import annotations

import re
from pathlib import Path

from ntdh_bench.experiments import load_shipped
from ntdh_bench.records.collecting import orphans
from ntdh_bench.records.columns import COLUMNS
from ntdh_bench.records.rows import csv_path, read_rows
from ntdh_bench.report.check import check


def test_the_committed_results_are_up_to_date(tmp_path: Path) -> None:
    """After a change of records, sweep configs or the paper's numbers: run `ntdh-bench tables`."""
    assert check(Path("results"), tmp_path) == []
    assert list(Path("results/records").glob("*.csv"))


def test_the_runs_of_committed_records_are_still_those_of_their_experiments() -> None:
    rows = 0
    for experiment in load_shipped():
        path = csv_path(Path("results"), experiment.name)
        found = read_rows(path).rows if path.is_file() else []
        assert orphans(experiment, found) == []
        rows += len(found)
    assert rows > 4000


def test_the_readme_quotes_the_results() -> None:
    """Every quoted line stands in the file that it is said to come from."""
    readme = Path("README.md").read_text()
    quotes = re.findall(r"<!-- from (\S+) -->\n(.*?)<!-- end -->", readme, re.DOTALL)
    assert len(quotes) >= 2
    for path, quote in quotes:
        lines = Path(path).read_text().splitlines()
        assert quote.strip()
        assert [line for line in quote.splitlines() if line and line not in lines] == []
    for path in re.findall(r"\]\((results/[^)#]+)\)", readme):
        assert Path(path).exists(), path


def test_every_column_is_described() -> None:
    readme = Path("results/README.md").read_text()
    named = {word for code in re.findall(r"`([^`]+)`", readme) for word in code.split(", ")}
    metrics = {
        f"…_{name.split('_', 2)[2]}" for name in COLUMNS if name.startswith(("last_", "best_"))
    }
    others = {name for name in COLUMNS if not name.startswith(("last_", "best_"))}
    assert metrics | others <= named
